"""The logs of a Job's pods as they are now, as one stream; ``following.py`` goes on from there.

Memory is bounded whatever the reader's speed: each source holds one block and one begun line, and reads on only when
its block has been sent.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from dispatcher.clusters.pods import LogBroken, read_log
from dispatcher.clusters.reply import Manifest, Outcome, Reply
from dispatcher.view.lines import Cutter, Output
from dispatcher.view.options import LogOptions
from dispatcher.view.sources import Missing, Pod, Sources
from dispatcher.view.status import Refused

AT_ONCE: Final = 10
"""Logs that one reader gets at once where they have an end."""
STALLED_SECONDS: Final = 20.0
"""How long a log that has an end may stand still before its cluster counts as missing."""

Slot: TypeAlias = Callable[[str], contextlib.AbstractAsyncContextManager[Any]]
"""A turn to have one more stream open to a cluster."""


class LogReader:
    """Serves one request."""

    def __init__(self, sources: Sources, output: Output, *, options: LogOptions, slot: Slot) -> None:
        self.sources = sources
        self.output = output
        self.options = options
        self.slot = slot

    def clusters(self, job: Manifest) -> list[str]:
        """Where there may be pods that the options name. Raises Refused 404 for a cluster that does not exist."""
        clusters = self.sources.clusters_of(job)
        if self.options.cluster:
            self.sources.place(self.options.cluster)
            clusters = [name for name in clusters if name == self.options.cluster]
        return clusters

    async def find(self, job: Manifest) -> tuple[list[Pod], list[Missing]]:
        """The pods that the options name, and the clusters that cannot be read. Raises Refused."""
        return await self.look(job, self.clusters(job))

    async def look(self, job: Manifest, clusters: list[str]) -> tuple[list[Pod], list[Missing]]:
        """The same, on these clusters."""
        pods, missing = await self.sources.pods(job, clusters)
        wanted = self.options
        chosen = [
            pod
            for pod in pods
            if (not wanted.pod or pod.name == wanted.pod) and (not wanted.index or pod.index == wanted.index)
        ]
        return chosen, missing

    async def glance(self, job: Manifest, *, seconds: float) -> list[Pod]:
        """The pods on those clusters that answer in time. Raises Refused."""
        looks = [asyncio.create_task(self.look(job, [cluster])) for cluster in self.clusters(job)]
        if not looks:
            return []
        try:
            done, _ = await asyncio.wait(looks, timeout=seconds)
            return [pod for look in looks if look in done for pod in look.result()[0]]
        finally:
            for look in looks:
                look.cancel()

    async def read(self, pods: list[Pod], missing: list[Missing]) -> None:
        """Send everything there is now."""
        for entry in missing:
            await self.output.notice(str(entry), error=True, missing=entry.cluster)
        room = asyncio.Semaphore(AT_ONCE if self.options.frames or self.options.prefix else 1)

        async def one(pod: Pod) -> None:
            async with room:
                await self._whole(pod)

        async with asyncio.TaskGroup() as group:
            for pod in pods:
                group.create_task(one(pod))

    def parameters(self, pod: Pod) -> tuple[str, dict[str, str | int]]:
        """The container to read, and the query for its log."""
        options = self.options
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

    def open(self, pod: Pod, params: dict[str, str | int], *, idle: float | None) -> Any:
        """The blocks of a log; see :func:`read_log`. Raises Refused where the cluster cannot be read."""
        namespace = pod.manifest["metadata"]["namespace"]
        return read_log(self.sources.api(pod.cluster), namespace, pod.name, params=params, idle_timeout=idle)

    async def _whole(self, pod: Pod) -> None:
        container, params = self.parameters(pod)
        cutter = Cutter()
        try:
            async with self.slot(pod.cluster):
                blocks = self.open(pod, params, idle=STALLED_SECONDS)
                async with contextlib.aclosing(blocks):
                    async for block in blocks:
                        if lines := cutter.whole(block):
                            await self.output.lines(pod, container, lines)
            if rest := cutter.rest():
                await self.output.lines(pod, container, rest)
        except LogBroken as broken:
            if rest := cutter.rest():
                await self.output.lines(pod, container, rest)
            await self.output.notice(why(pod, broken.reply), error=True)
        except Refused as refused:
            await self.output.notice(f"{pod.cluster}/{pod.name}: {refused.message}", error=True)


def why(pod: Pod, reply: Reply) -> str:
    """What to say of a log that cannot be read."""
    if reply.outcome is Outcome.FORBIDDEN:
        text = (
            f"{reply.message}; the dispatcher's account there needs a rule "
            '{apiGroups: [""], resources: ["pods/log"], verbs: ["get"]}'
        )
    else:
        text = reply.message or reply.reason
    return f"{pod.cluster}/{pod.name}: {' '.join(text.split())}"
