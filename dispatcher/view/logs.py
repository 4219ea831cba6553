"""The logs of a Job's pods as one stream, to its end or followed.

Memory is bounded whatever the reader's speed: each source holds one block and one begun line, and reads on only when
its block has been sent.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Final

from dispatcher.clusters.pods import LogBroken, is_not_started, read_log
from dispatcher.clusters.reply import Manifest, Outcome, Reply
from dispatcher.view.lines import Cutter, Output
from dispatcher.view.options import LogOptions
from dispatcher.view.sources import Missing, Pod, Sources
from dispatcher.view.stamps import Stamps
from dispatcher.view.status import Refused

AT_ONCE: Final = 10
"""Logs that one reader gets at once where they have an end."""
FOLLOWED: Final = 50
"""Pods that one reader follows at once; more wait until one of them ends."""
ALIVE_SECONDS: Final = 15.0
"""Between two signs of life in a follow; the plugin misses them after four times that."""
LOOK_SECONDS: Final = 1.0
"""Between two looks for new pods while following."""
QUIET_SECONDS: Final = 2.0
"""How long the log of an ended pod may say nothing before it counts as read."""
STALLED_SECONDS: Final = 20.0
"""How long a log that has an end may stand still before its cluster counts as missing."""

_BEGINNINGS: Final = ("tailLines", "sinceSeconds", "sinceTime")
"""Where a log begins, unless it is resumed."""


@dataclasses.dataclass(slots=True)
class _Followed:
    pod: Pod
    task: asyncio.Task[None]


class LogReader:
    """Serves one request."""

    def __init__(
        self,
        sources: Sources,
        output: Output,
        *,
        options: LogOptions,
        stopping: asyncio.Event,
        slot: Callable[[str], contextlib.AbstractAsyncContextManager[Any]],
    ) -> None:
        """``slot``: a turn to have one more stream open to a cluster."""
        self._sources = sources
        self._output = output
        self._options = options
        self._stopping = stopping
        self._slot = slot

    async def find(self, job: Manifest) -> tuple[list[Pod], list[Missing]]:
        """The pods that the options name, and the clusters that cannot be read."""
        clusters = self._sources.clusters_of(job)
        if self._options.cluster:
            self._sources.place(self._options.cluster)
            clusters = [name for name in clusters if name == self._options.cluster]
        pods, missing = await self._sources.pods(job, clusters)
        wanted = self._options
        chosen = [
            pod
            for pod in pods
            if (not wanted.pod or pod.name == wanted.pod) and (not wanted.index or pod.index == wanted.index)
        ]
        return chosen, missing

    async def read(self, pods: list[Pod], missing: list[Missing]) -> None:
        """Send everything there is now."""
        for entry in missing:
            await self._output.notice(str(entry), error=True)
        room = asyncio.Semaphore(AT_ONCE if self._options.frames or self._options.prefix else 1)

        async def one(pod: Pod) -> None:
            async with room:
                await self._whole(pod)

        async with asyncio.TaskGroup() as group:
            for pod in pods:
                group.create_task(one(pod))

    async def follow(self, job: Manifest, refresh: Callable[[], Awaitable[Manifest]]) -> None:
        """Send what there is, and what comes, until the Job has ended and all is sent."""
        followed: dict[str, _Followed] = {}
        away: dict[str, str] = {}
        room = asyncio.Semaphore(FOLLOWED)
        async with asyncio.TaskGroup() as group:
            ended = False
            alive_at = monotonic()
            while not self._stopping.is_set():
                if monotonic() >= alive_at + ALIVE_SECONDS:
                    await self._output.alive()
                    alive_at = monotonic()
                pods, missing = await self.find(job)
                for entry in missing:
                    if entry.cluster not in away:
                        await self._output.notice(str(entry), error=True)
                for name in set(away) - {entry.cluster for entry in missing}:
                    await self._output.notice(f"cluster {name} is back")
                away = {entry.cluster: entry.why for entry in missing}
                present = set()
                for pod in pods:
                    present.add(pod.uid)
                    if pod.uid in followed:
                        followed[pod.uid].pod = pod
                    else:
                        record = _Followed(pod, None)  # type: ignore[arg-type]
                        record.task = group.create_task(self._follow_one(record, room))
                        followed[pod.uid] = record
                for uid, record in followed.items():
                    if uid not in present and record.pod.cluster not in away:
                        record.pod = _gone(record.pod)
                if ended and all(record.task.done() for record in followed.values()):
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._stopping.wait()
                if not ended:
                    try:
                        job = await refresh()
                    except Refused as refused:
                        if refused.code != 404:
                            continue
                        ended = True
                    ended = ended or _has_ended(job) or self._chosen_ended(followed)
            for record in followed.values():
                record.task.cancel()
            await self._output.notice("the dispatcher stops; ask again to go on", error=True, again=True)

    def _chosen_ended(self, followed: dict[str, _Followed]) -> bool:
        """Whether the one pod that was named has ended."""
        return bool(self._options.pod and followed) and all(r.pod.ended for r in followed.values())

    def _params(self, pod: Pod) -> tuple[str, dict[str, str | int]]:
        options = self._options
        container = options.container or pod.default_container
        params: dict[str, str | int] = {"container": container}
        for key, value in (
            ("tailLines", options.tail_lines),
            ("sinceSeconds", options.since_seconds),
            ("sinceTime", options.since_time or None),
        ):
            if value is not None:
                params[key] = value
        for key, flag in (("previous", options.previous), ("timestamps", options.timestamps)):
            if flag:
                params[key] = "true"
        return container, params

    async def _whole(self, pod: Pod) -> None:
        container, params = self._params(pod)
        cutter = Cutter()
        try:
            async with self._slot(pod.cluster):
                blocks = self._open(pod, params, idle=STALLED_SECONDS)
                async with contextlib.aclosing(blocks):
                    async for block in blocks:
                        if lines := cutter.whole(block):
                            await self._output.lines(pod, container, lines)
            if rest := cutter.rest():
                await self._output.lines(pod, container, rest)
        except LogBroken as broken:
            if rest := cutter.rest():
                await self._output.lines(pod, container, rest)
            await self._output.notice(_why(pod, broken.reply), error=True)
        except Refused as refused:
            await self._output.notice(f"{pod.cluster}/{pod.name}: {refused.message}", error=True)

    async def _follow_one(self, record: _Followed, room: asyncio.Semaphore) -> None:
        """From the first line to the pod's end, over broken connections and restarted containers."""
        container, params = self._params(record.pod)
        params["timestamps"] = "true"
        if since := self._options.after.get(f"{record.pod.cluster}/{record.pod.name}"):
            params = {key: value for key, value in params.items() if key not in _BEGINNINGS}
            params["sinceTime"] = since
        stamps = Stamps(wanted=self._options.timestamps)
        said = ""
        async with room:
            while True:
                over = record.pod.ended
                if over:
                    params.pop("follow", None)
                else:
                    params["follow"] = "true"
                broken: LogBroken | None = None
                try:
                    async with self._slot(record.pod.cluster):
                        await self._pass_on(record, container, params, stamps)
                except LogBroken as error:
                    broken = error
                except Refused as refused:
                    broken = LogBroken(Reply(Outcome.UNREACHABLE, message=refused.message))
                if broken is not None and broken.reply.outcome is Outcome.NOT_FOUND:
                    return
                if broken is not None and not is_not_started(broken.reply):
                    refusal = broken.reply.outcome in (Outcome.INVALID, Outcome.FORBIDDEN)
                    if refusal or (over and said):
                        await self._output.notice(_why(record.pod, broken.reply), error=True)
                        return
                    if broken.reply.message != said:
                        said = broken.reply.message
                        await self._output.notice(_why(record.pod, broken.reply))
                if over and (broken is None or is_not_started(broken.reply)):
                    return
                if since := stamps.resume():
                    params = {key: value for key, value in params.items() if key not in _BEGINNINGS}
                    params["sinceTime"] = since
                await asyncio.sleep(LOOK_SECONDS)

    async def _pass_on(
        self, record: _Followed, container: str, params: dict[str, str | int], stamps: Stamps
    ) -> None:
        """One connection: until the server ends it, or the pod has ended and nothing more comes."""
        cutter = Cutter()
        blocks = self._open(record.pod, params, idle=None)
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

    def _open(self, pod: Pod, params: dict[str, str | int], *, idle: float | None) -> Any:
        namespace = pod.manifest["metadata"]["namespace"]
        return read_log(self._sources.api(pod.cluster), namespace, pod.name, params=params, idle_timeout=idle)


def _why(pod: Pod, reply: Reply) -> str:
    if reply.outcome is Outcome.FORBIDDEN:
        text = (
            f"{reply.message}; the dispatcher's account there needs a rule "
            '{apiGroups: [""], resources: ["pods/log"], verbs: ["get"]}'
        )
    else:
        text = reply.message or reply.reason
    return f"{pod.cluster}/{pod.name}: {' '.join(text.split())}"


def _gone(pod: Pod) -> Pod:
    """A pod that is not there any more, as one that has ended."""
    status = {**(pod.manifest.get("status") or {}), "phase": "Failed"}
    return Pod(pod.cluster, {**pod.manifest, "status": status})


def _has_ended(job: Manifest) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)
