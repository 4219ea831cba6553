"""One run: the same Jobs dispatched, then by the built-in controller on one worker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hack.bench.audit import BY_CLOCK, AuditTail, Request
from hack.bench.served import served
from hack.bench.timeline import Moments, Timeline
from hack.bench.usage import Usage, measure
from hack.bench.workload import NAMESPACE, Workload
from hack.lab import Lab, Plane
from hack.running import ClusterJobs

AT_ONCE = 50
"""POSTs and DELETEs under way at the same time."""
QUIET_SECONDS = 1.0
"""Without a request of the controller for so long, it has done all it wanted to (its Events come last)."""
REMOVAL_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Passage:
    """All Jobs of a workload, from the first POST until they are removed."""

    moments: tuple[Moments, ...]
    seconds: float
    """From the first POST to the last end."""
    cpu_seconds: float = 0.0
    """Of the measured processes, until everything was removed."""
    usage: Usage | None = None
    requests: Counter[Request] | None = None
    served: Counter[Request] | None = None
    """What all API servers counted meanwhile, whoever asked."""

    @property
    def unfinished(self) -> int:
        """Jobs that did not become Complete in time."""
        return sum(1 for moments in self.moments if moments.total is None)


class Bench:
    """Runs workloads on a lab whose controller is ready. ``pids`` are the controller's processes."""

    def __init__(self, lab: Lab, *, managed_by: str, pids: Sequence[int]) -> None:
        self._lab = lab
        self._managed_by = managed_by
        self._pids = pids
        self._passages = 0

    async def dispatched(self, workload: Workload) -> Passage:
        """The Jobs on the management plane, run by the measured controller."""
        changed = asyncio.Event()
        timeline = Timeline(on_change=changed.set)
        async with contextlib.AsyncExitStack() as stack:
            target = ClusterJobs(self._lab.management, on_change=timeline.watch_jobs())
            await stack.enter_async_context(target)
            workers = [
                ClusterJobs(plane, on_change=timeline.watch_mirrors(plane.name))
                for plane in self._lab.workers
            ]
            for worker in workers:
                await stack.enter_async_context(worker)
            tail = stack.enter_context(contextlib.closing(AuditTail(self._lab.planes)))
            counted = served(self._lab.planes)
            before = measure(self._pids)
            seconds = await self._pass(workload, target, timeline, changed, managed_by=self._managed_by)
            await self._remove(timeline, changed, [target, *workers])
            requests = await until_quiet(tail)
            after = measure(self._pids)
            counted = _since(counted, served(self._lab.planes))
        cpu = after.cpu_seconds - before.cpu_seconds
        return Passage(tuple(timeline.jobs.values()), seconds, cpu, after, requests, counted)

    async def built_in(self, workload: Workload, plane: Plane) -> Passage:
        """The same Jobs on one plane, run by its own Job controller."""
        changed = asyncio.Event()
        timeline = Timeline(on_change=changed.set)
        async with ClusterJobs(plane, on_change=timeline.watch_jobs()) as target:
            counted = served(self._lab.planes)
            seconds = await self._pass(workload, target, timeline, changed, managed_by=None)
            await self._remove(timeline, changed, [target])
            await asyncio.sleep(QUIET_SECONDS)
            counted = _since(counted, served(self._lab.planes))
        return Passage(tuple(timeline.jobs.values()), seconds, served=counted)

    async def _pass(
        self,
        workload: Workload,
        target: ClusterJobs,
        timeline: Timeline,
        changed: asyncio.Event,
        *,
        managed_by: str | None,
    ) -> float:
        self._passages += 1
        names = [job_name(self._passages, number) for number in range(workload.jobs)]
        slots = asyncio.Semaphore(AT_ONCE)

        async def create(name: str) -> None:
            async with slots:
                timeline.sending(name)
                await target.create(workload.manifest(name, managed_by=managed_by))
                timeline.answered(name)

        async def all_ended() -> None:
            while timeline.unfinished:
                changed.clear()
                await changed.wait()

        async def create_all() -> None:
            async with asyncio.TaskGroup() as posts:
                for number, name in enumerate(names):
                    if isinstance(workload.rate, float):
                        await asyncio.sleep(begin + number / workload.rate - time.monotonic())
                    posts.create_task(create(name))

        begin = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(workload.most_seconds):
                if workload.rate == "idle":
                    for name in names:
                        await create(name)
                        await all_ended()
                else:
                    await create_all()
                    await all_ended()
        ends = [moments.ended for moments in timeline.jobs.values() if moments.ended is not None]
        return max(ends, default=time.monotonic()) - begin

    async def _remove(
        self, timeline: Timeline, changed: asyncio.Event, clusters: Sequence[ClusterJobs]
    ) -> None:
        """Delete the Jobs where they were created, and wait until they and their mirrors are gone."""
        target, *_ = clusters
        slots = asyncio.Semaphore(AT_ONCE)

        async def delete(name: str) -> None:
            job = target.cache.get(NAMESPACE, name)
            if job is not None:
                async with slots:
                    await target.delete(job)

        async with asyncio.TaskGroup() as deletions:
            for name in timeline.jobs:
                deletions.create_task(delete(name))
        async with asyncio.timeout(REMOVAL_SECONDS):
            while any((NAMESPACE, name) in cluster.cache for cluster in clusters for name in timeline.jobs):
                changed.clear()
                await changed.wait()


def job_name(passage: int, number: int) -> str:
    """Like a generated name: the planner's hash of consecutive numbers would take one cluster for long stretches."""
    return f"bench-{hashlib.sha256(f'{passage} {number}'.encode()).hexdigest()[:12]}"


def _since(before: Counter[Request], after: Counter[Request]) -> Counter[Request]:
    return Counter({kind: count - before[kind] for kind, count in after.items() if count != before[kind]})


async def until_quiet(tail: AuditTail) -> Counter[Request]:
    """What the controller asks from now on until it asks nothing more but what comes by the clock."""
    total: Counter[Request] = Counter()
    while True:
        new = tail.count()
        total += new
        if all(request.resource in BY_CLOCK for request in new):
            return total
        await asyncio.sleep(QUIET_SECONDS)
