"""The logs of a Job's pods followed to the Job's end, over broken connections and clusters that are away for a while.

Each cluster is looked at by a task of its own: one that hangs holds up nothing but its own pods.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from dispatcher.clusters.pods import LogBroken, is_not_started
from dispatcher.clusters.reply import Manifest, Outcome, Reply
from dispatcher.core.job import has_ended
from dispatcher.view.lines import Cutter
from dispatcher.view.logs import LogReader, why
from dispatcher.view.sources import Pod
from dispatcher.view.stamps import Stamps
from dispatcher.view.status import Refused

FOLLOWED: Final = 50
"""Pods that one reader follows at once; more wait until one of them ends."""
ALIVE_SECONDS: Final = 15.0
"""Between two signs of life; the plugin misses them after four times that."""
LOOK_SECONDS: Final = 1.0
"""Between two looks for new pods."""
QUIET_SECONDS: Final = 2.0
"""How long the log of an ended pod may say nothing before it counts as read."""
PATIENCE_SECONDS: Final = 30.0
"""How long a cluster that is away when the Job has ended is waited for."""


@dataclasses.dataclass(slots=True)
class _Followed:
    """A pod. ``said``: what was last said of its log, while that cannot be read."""

    pod: Pod
    container: str
    params: dict[str, str | int]
    stamps: Stamps
    said: str | None = None
    task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    def resume(self, since: str) -> None:
        """Go on at this time, wherever the log was to begin."""
        beginnings = ("tailLines", "sinceSeconds", "sinceTime")
        kept = {key: value for key, value in self.params.items() if key not in beginnings}
        self.params = {**kept, "sinceTime": since}


@dataclasses.dataclass(slots=True)
class _Watched:
    """A cluster. ``away``: it could not be read; ``complete``: it was, after the Job had ended."""

    task: asyncio.Task[None] | None = None
    away: bool = False
    complete: bool = False


class Follow:
    """Serves one follow. ``refresh`` reads the Job; raises Refused."""

    def __init__(
        self,
        reader: LogReader,
        job: Manifest,
        *,
        refresh: Callable[[], Awaitable[Manifest]],
        stopping: asyncio.Event,
    ) -> None:
        self._reader = reader
        self._output = reader.output
        self._options = reader.options
        self._job = job
        self._refresh = refresh
        self._stopping = stopping
        self._followed: dict[str, _Followed] = {}
        """By the pod's UID."""
        self._clusters: dict[str, _Watched] = {}
        self._room = asyncio.Semaphore(FOLLOWED)
        # Whoever asks has just read the Job.
        self._ended_at: float | None = monotonic() if has_ended(job) else None

    async def run(self) -> None:
        """Send what there is, and what comes, until the Job has ended and all is sent.

        A cluster that is away is named as missing, and as back when it is; one that is still away some time after the
        Job's end stays missing.
        """
        async with asyncio.TaskGroup() as group:
            over = await self._until_over(group)
            looks = [watched.task for watched in self._clusters.values()]
            for task in (*looks, *(record.task for record in self._followed.values())):
                if task is not None:
                    task.cancel()
            if not over:
                text = "the dispatcher stops; ask again to go on"
                await self._output.notice(text, error=True, again=True)

    async def _until_over(self, group: asyncio.TaskGroup) -> bool:
        """Whether it came to its end; false where the process stops before."""
        alive_at = monotonic()
        while not self._stopping.is_set():
            if monotonic() >= alive_at + ALIVE_SECONDS:
                await self._output.alive()
                alive_at = monotonic()
            await self._watch_clusters(group)
            if self._is_over():
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._stopping.wait()
            if self._ended_at is None:
                await self._look_at_job()
        return False

    async def _look_at_job(self) -> None:
        try:
            self._job = await self._refresh()
        except Refused as refused:
            if refused.code == 404:
                self._ended_at = monotonic()
            return
        if has_ended(self._job) or self._chosen_ended():
            self._ended_at = monotonic()

    def _chosen_ended(self) -> bool:
        """Whether the one pod that was named has ended."""
        followed = self._followed.values()
        return bool(self._options.pod and followed) and all(record.pod.ended for record in followed)

    @property
    def _is_patient(self) -> bool:
        """Whether what is away may still come back in time."""
        return self._ended_at is None or monotonic() < self._ended_at + PATIENCE_SECONDS

    def _is_over(self) -> bool:
        """Whether everything was sent that can be had."""
        if self._ended_at is None:
            return False
        if self._is_patient:
            there = set(self._clusters)
        else:
            there = {name for name, watched in self._clusters.items() if not watched.away}
        looked = all(self._clusters[name].complete for name in there)
        return looked and all(
            record.done
            for record in self._followed.values()
            if self._is_patient or record.pod.cluster in there
        )

    async def _watch_clusters(self, group: asyncio.TaskGroup) -> None:
        """Look at the clusters where the Job has pods now, and no more at others."""
        try:
            wanted = self._reader.clusters(self._job)
        except Refused:  # the one that was named is not registered any more
            wanted = []
        for name in self._clusters.keys() - set(wanted):
            watched = self._clusters.pop(name)
            if watched.task is not None:
                watched.task.cancel()
            if watched.away:
                await self._output.notice(f"no part of the Job is on cluster {name}", back=name)
        for name in wanted:
            if name not in self._clusters:
                watched = self._clusters[name] = _Watched()
                watched.task = group.create_task(self._watch(name, watched, group))

    async def _watch(self, cluster: str, watched: _Watched, group: asyncio.TaskGroup) -> None:
        """Look for pods on one cluster again and again."""
        while True:
            had_ended = self._ended_at is not None
            pods, missing = await self._reader.look(self._job, [cluster])
            for entry in missing:
                if not watched.away:
                    watched.away = True
                    await self._output.notice(str(entry), error=True, missing=cluster)
            if not missing:
                if watched.away:
                    watched.away = False
                    await self._output.notice(f"cluster {cluster} is back", back=cluster)
                self._take_up(cluster, pods, group)
                watched.complete = had_ended
            await asyncio.sleep(LOOK_SECONDS)

    def _take_up(self, cluster: str, pods: list[Pod], group: asyncio.TaskGroup) -> None:
        present = {pod.uid for pod in pods}
        for pod in pods:
            if pod.uid in self._followed:
                self._followed[pod.uid].pod = pod
            else:
                container, params = self._reader.parameters(pod)
                stamps = Stamps(wanted=self._options.timestamps)
                record = _Followed(pod, container, {**params, "timestamps": "true"}, stamps)
                if since := self._options.after.get(f"{pod.cluster}/{pod.name}"):
                    record.resume(since)
                self._followed[pod.uid] = record
                record.task = group.create_task(self._follow(record))
        for uid, record in self._followed.items():
            if uid not in present and record.pod.cluster == cluster:
                record.pod = _gone(record.pod)

    async def _follow(self, record: _Followed) -> None:
        """One pod from the first line to its end, over broken connections and restarted containers."""
        while True:
            async with self._room:  # who waits for a cluster that is away takes nobody's turn
                if not await self._read_on(record):
                    return
            await asyncio.sleep(LOOK_SECONDS)

    async def _read_on(self, record: _Followed) -> bool:
        """As long as its cluster answers. Returns whether there is more to come."""
        while True:
            over = record.pod.ended
            if over:
                record.params.pop("follow", None)
            else:
                record.params["follow"] = "true"
            broken = await self._try(record)
            if since := record.stamps.resume():
                record.resume(since)
            if broken is None or is_not_started(broken):
                if over:
                    return False
                record.said = None
            elif broken.outcome is Outcome.NOT_FOUND:
                # A kubelet that has not heard of a pod yet says so too; a look tells whether it is gone.
                if over and record.said is not None:
                    text = "it is gone, and its log had not been read to the end"
                    await self._output.notice(f"{record.pod.cluster}/{record.pod.name}: {text}", error=True)
                if over:
                    return False
            else:
                unreachable = broken.outcome is Outcome.UNREACHABLE
                refused = broken.outcome in (Outcome.INVALID, Outcome.FORBIDDEN)
                again = record.said is not None and not (unreachable and self._is_patient)
                if refused or (over and again):
                    await self._output.notice(why(record.pod, broken), error=True)
                    return False
                if broken.message != record.said:
                    record.said = broken.message
                    await self._output.notice(why(record.pod, broken))
                if unreachable:
                    return True
            await asyncio.sleep(LOOK_SECONDS)

    async def _try(self, record: _Followed) -> Reply | None:
        """One connection; how it broke, or None."""
        try:
            async with self._reader.slot(record.pod.cluster):
                await self._pass_on(record)
        except LogBroken as broken:
            return broken.reply
        except Refused as refused:
            return Reply(Outcome.UNREACHABLE, message=refused.message)
        return None

    async def _pass_on(self, record: _Followed) -> None:
        """One connection: until the server ends it, or the pod has ended and nothing more comes."""
        cutter, stamps, container = Cutter(), record.stamps, record.container
        blocks = self._reader.open(record.pod, record.params, idle=None)
        iterator = blocks.__aiter__()
        async with contextlib.aclosing(blocks):
            coming: asyncio.Future[bytes] | None = None
            try:
                while True:
                    coming = coming or asyncio.ensure_future(iterator.__anext__())
                    await asyncio.wait([coming], timeout=QUIET_SECONDS)
                    if not coming.done():
                        if record.pod.ended:
                            break  # not every kubelet ends the stream of an ended pod
                        continue
                    done, coming = coming, None
                    try:
                        block = done.result()
                    except StopAsyncIteration:
                        break
                    if lines := stamps.new(cutter.whole(block)):
                        await self._output.lines(record.pod, container, lines)
                if lines := stamps.new(cutter.rest()):
                    await self._output.lines(record.pod, container, lines)
            finally:
                if coming is not None:
                    coming.cancel()
                    await asyncio.wait([coming])
                    if not coming.cancelled():
                        coming.exception()


def _gone(pod: Pod) -> Pod:
    """A pod that is not there any more, as one that has ended."""
    status = {**(pod.manifest.get("status") or {}), "phase": "Failed"}
    return Pod(pod.cluster, {**pod.manifest, "status": status})
