"""How long Jobs wait when a replica ends or shards go over, with default timings and Jobs running all the while."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from hack.bench.report import show_targets
from hack.bench.run import job_name
from hack.bench.target import JSON, at_most
from hack.bench.timeline import Moments, Timeline
from hack.bench.workload import NAMESPACE, Workload
from hack.lab import Lab
from hack.running import ClusterJobs, Controller

SCRIPT = "lab.jobdispatcher.io/script"
POD_SECONDS = 4
JOBS_A_SECOND = 4.0
RUNNING = 8
"""Jobs that run before anything is ended."""
SHARDS = 4
WAIT_SECONDS = 120.0
SETTLED = 0.1
"""Jobs that are sent so soon after the signal may still be placed by the one that got it."""
WAYS = {
    "kill": "the leader is killed (SIGKILL)",
    "stop": "the leader is stopped (SIGTERM)",
    "join": f"a replica joins, {SHARDS} shards",
    "leave": f"a replica leaves (SIGTERM), {SHARDS} shards",
}
TARGETS = {
    "kill": ("seconds", "SIGKILL of the leader → the first Job placed by another, s", 15.0),
    "stop": ("seconds", "SIGTERM of the leader → the first Job placed by another, s", 2.0),
    "join": ("longestWaitSeconds", "a Job's longest wait for its mirror while a replica joins, s", 2.0),
    "leave": ("longestWaitSeconds", "a Job's longest wait for its mirror while a replica leaves, s", 2.0),
}


@dataclass(frozen=True, slots=True)
class Handover:
    """One change of who acts. ``seconds``: from the signal to the first Job that was sent after it and has its mirror
    (kill, stop), from the ready replica to shards that are held evenly (join), from the signal to all shards being
    acted on by the one that is left (leave). ``moments``: of all Jobs that were created around it.
    """

    way: str
    seconds: float
    moments: tuple[Moments, ...]

    @property
    def longest_wait(self) -> float:
        """From a Job's existence to its mirror's, at most."""
        return max((found.dispatch for found in self.moments if found.dispatch is not None), default=0.0)

    @property
    def unfinished(self) -> int:
        """Jobs that did not become Complete."""
        return sum(1 for found in self.moments if found.total is None)

    @property
    def doubled(self) -> int:
        """Jobs with more than their one mirror."""
        return sum(1 for found in self.moments if len(found.mirrors) > 1)


class Stream:
    """Jobs of one pod each that runs for a while, created at a steady rate for as long as the context lasts."""

    def __init__(self, lab: Lab, *, managed_by: str, number: int, say: Callable[[str], None]) -> None:
        self._lab = lab
        self._managed_by = managed_by
        self._number = number
        self._say = say
        self._enough = asyncio.Event()
        self._changed = asyncio.Event()
        self.timeline = Timeline(on_change=self._changed.set)

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Jobs come; when it ends, those that are there end too and are removed. Raises TimeoutError."""
        async with contextlib.AsyncExitStack() as stack:
            target = ClusterJobs(self._lab.management, on_change=self.timeline.watch_jobs())
            await stack.enter_async_context(target)
            for plane in self._lab.workers:
                watch = ClusterJobs(plane, on_change=self.timeline.watch_mirrors(plane.name))
                await stack.enter_async_context(watch)
            creating = asyncio.create_task(self._create(target))
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    while self._at_work() < RUNNING and not creating.done():  # noqa: ASYNC110 - mirrors tell nobody
                        await asyncio.sleep(0.05)
                yield
            finally:
                self._enough.set()
                await asyncio.wait([creating])
            creating.result()
            try:
                await self._until(lambda: self.timeline.unfinished == 0)
            except TimeoutError:
                for name, moments in self.timeline.jobs.items():
                    if moments.total is None:
                        self._say(f"after {WAIT_SECONDS:g} s {NAMESPACE}/{name} is not Complete: {moments}")
            for name in self.timeline.jobs:
                job = target.cache.get(NAMESPACE, name)
                if job is not None:
                    await target.delete(job)
            await self._until(
                lambda: not any((NAMESPACE, name) in target.cache for name in self.timeline.jobs)
            )

    def placed_since(self, moment: float) -> float | None:
        """When the first Job that was sent after this moment got its mirror."""
        found = [
            min(it.mirrors.values())
            for it in self.timeline.jobs.values()
            if it.sent > moment + SETTLED and it.mirrors
        ]
        return min(found, default=None)

    def _at_work(self) -> int:
        return sum(1 for found in self.timeline.jobs.values() if found.mirrors and found.ended is None)

    async def _create(self, target: ClusterJobs) -> None:
        workload = Workload(shape="single", jobs=1, rate="idle")
        begin, number = time.monotonic(), 0
        async with asyncio.TaskGroup() as posts:
            while not self._enough.is_set():
                posts.create_task(self._post(target, workload, number))
                number += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(begin + number / JOBS_A_SECOND - time.monotonic()):
                        await self._enough.wait()

    async def _post(self, target: ClusterJobs, workload: Workload, number: int) -> None:
        name = job_name(self._number, number)
        manifest = workload.manifest(name, managed_by=self._managed_by)
        script = json.dumps([{"after": f"{POD_SECONDS}s", "exit": 0}])
        manifest["spec"]["template"]["metadata"] = {"annotations": {SCRIPT: script}}
        self.timeline.sending(name)
        await target.create(manifest)
        self.timeline.answered(name)

    async def _until(self, met: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not met():
                self._changed.clear()
                await self._changed.wait()


class Replicas:
    """Replicas of one dispatcher, with default timings."""

    def __init__(self, lab: Lab, *, managed_by: str, shards: int = 1) -> None:
        self._lab = lab
        self._managed_by = managed_by
        self._options = ("--leader-elect", *(("--shards", str(shards)) if shards > 1 else ()))
        self.shards = shards
        self.running: list[Controller] = []

    async def start(self) -> Controller:
        """One more, once it is ready."""
        started = await asyncio.to_thread(
            Controller.start, self._lab, managed_by=self._managed_by, options=self._options
        )
        self.running.append(started)
        return started

    def held(self, replica: Controller) -> int:
        """For how many shards it may write now."""
        lines = [f'job_dispatcher_leader{{shard="{shard}"}} 1.0' for shard in range(self.shards)]
        found = replica.metrics().splitlines()
        return sum(line in found for line in lines)

    async def when(self, met: Callable[[], bool], what: str) -> float:
        """The moment at which a condition was seen to be met. Raises TimeoutError."""
        end = time.monotonic() + WAIT_SECONDS
        while not await asyncio.to_thread(met):
            if time.monotonic() > end:
                raise TimeoutError(f"not within {WAIT_SECONDS:g} s: {what}")
            await asyncio.sleep(0.05)
        return time.monotonic()

    async def leader(self) -> Controller:
        """The one that acts, with another one waiting beside it."""
        while len(self.running) < 2:
            await self.start()
        first, second = self.running
        await self.when(lambda: self.held(first) + self.held(second) == self.shards, "a leader")
        return first if self.held(first) else second

    def stop(self) -> None:
        """End all."""
        for replica in self.running:
            replica.stop()


async def takeover(lab: Lab, *, rounds: int, managed_by: str, say: Callable[[str], None]) -> JSON:
    """Each way ``rounds`` times, one after the other. Raises TimeoutError when a replica never takes over."""
    load = os.getloadavg()[0]
    found: list[Handover] = []
    streams = 0

    def stream() -> Stream:
        nonlocal streams
        streams += 1
        return Stream(lab, managed_by=managed_by, number=1_000_000 + streams, say=say)

    replicas = Replicas(lab, managed_by=managed_by)
    try:
        for number in range(rounds):
            for way in ("kill", "stop"):
                say(f"{WAYS[way]}, {number + 1} of {rounds}")
                found.append(await _end_of_the_leader(replicas, way, stream()))
    finally:
        replicas.stop()
    sharded = Replicas(lab, managed_by=managed_by, shards=SHARDS)
    try:
        await sharded.start()
        for number in range(rounds):
            say(f"a replica joins and leaves, {number + 1} of {rounds}")
            found.append(await _joined(sharded, stream()))
            found.append(await _left(sharded, stream()))
    finally:
        sharded.stop()
    return summary(found, load=load)


async def _end_of_the_leader(replicas: Replicas, way: str, stream: Stream) -> Handover:
    leader = await replicas.leader()
    async with stream.flowing():
        signalled = time.monotonic()
        await asyncio.to_thread(leader.kill if way == "kill" else leader.stop)
        replicas.running.remove(leader)
        await replicas.when(
            lambda: stream.placed_since(signalled) is not None, "a Job that another one placed"
        )
        placed = stream.placed_since(signalled)
        assert placed is not None
    return Handover(way, placed - signalled, tuple(stream.timeline.jobs.values()))


async def _joined(replicas: Replicas, stream: Stream) -> Handover:
    (first,) = replicas.running
    await replicas.when(lambda: replicas.held(first) == SHARDS, "one replica holds all shards")
    async with stream.flowing():
        second = await replicas.start()
        ready = time.monotonic()
        even = await replicas.when(
            lambda: replicas.held(first) == replicas.held(second) == SHARDS // 2,
            "shards that are held evenly",
        )
    return Handover("join", max(even - ready, 0.0), tuple(stream.timeline.jobs.values()))


async def _left(replicas: Replicas, stream: Stream) -> Handover:
    first, second = replicas.running
    async with stream.flowing():
        signalled = time.monotonic()
        stopping = asyncio.create_task(asyncio.to_thread(second.stop))
        held = await replicas.when(lambda: replicas.held(first) == SHARDS, "all shards are held again")
        await stopping
        replicas.running.remove(second)
    return Handover("leave", held - signalled, tuple(stream.timeline.jobs.values()))


def summary(found: Sequence[Handover], *, load: float) -> JSON:
    """All handovers, and of each way the worst one beside its target. Times in seconds."""
    rows: list[JSON] = [
        {
            "way": it.way,
            "seconds": round(it.seconds, 2),
            "longestWaitSeconds": round(it.longest_wait, 2),
            "jobs": len(it.moments),
            "unfinished": it.unfinished,
            "doubled": it.doubled,
        }
        for it in found
    ]
    targets: list[JSON] = []
    for way, (field, name, most) in TARGETS.items():
        worst = max((row[field] for row in rows if row["way"] == way), default=None)
        if worst is not None:
            targets.append(at_most(name, worst, most))
    wrong = sum(row["unfinished"] + row["doubled"] for row in rows)
    targets.append(at_most("Jobs lost or run twice", wrong, 0))
    return {
        "jobsPerSecond": JOBS_A_SECOND,
        "loadAverageBefore": round(load, 1),
        "handovers": rows,
        "targets": targets,
    }


def show(console: Console, result: JSON) -> None:
    """Print what :func:`takeover` found."""
    console.print(
        f"\n[bold]Takeover and handover, {result['jobsPerSecond']:g} Jobs a second meanwhile[/bold]"
    )
    table = Table("", "SECONDS", "LONGEST WAIT OF A JOB", "JOBS", box=None)
    for row in result["handovers"]:
        table.add_row(
            WAYS[row["way"]], f"{row['seconds']:.2f}", f"{row['longestWaitSeconds']:.2f} s", str(row["jobs"])
        )
    console.print(table)
    load = result["loadAverageBefore"]
    busy = "; figures of a busy machine" if load > 2 else ""
    console.print(f"  load average before: {load:g} on {os.cpu_count()} CPUs{busy}")
    show_targets(console, result["targets"])
