"""One run of the dispatcher: the real World, Executor, Reconciler, Fleet caches and orphan collector.

No event loop: each coroutine is sent on by the history when the request it waits for was answered,
so that every order of replies, events and crashes can be had, and had again.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.actions import Event
from dispatcher.core.observation import Cluster, Observation, Rules
from dispatcher.core.policy import DEFAULT_POLICY, Policy, Taint, TaintEffect
from dispatcher.operator import fleet as fleets
from dispatcher.operator import mirror_outcomes, mirror_writes
from dispatcher.operator import world as worlds
from dispatcher.operator.executor import Executor
from dispatcher.operator.job_writes import JobWriter, WriteFailed
from dispatcher.operator.mirror_notes import MirrorPlace
from dispatcher.operator.mirror_writes import MirrorWriter
from dispatcher.operator.orphans import OrphanCollector
from dispatcher.operator.queue import Key, TryAgain
from dispatcher.operator.reconciler import Reconciler
from dispatcher.operator.settings import Settings
from dispatcher.operator.world import World
from dispatcher.operator.write_gate import WriteGate
from dispatcher.operator.write_pace import WritePace
from hack.simulate.clock import Clock
from hack.simulate.server import ModelServer, Request

MANAGED_BY = names.DEFAULT_MANAGED_BY


class ModelCluster:
    """A registered worker cluster as the executor, the world and the collector see it."""

    def __init__(self, server: ModelServer, mirrors: ObjectCache) -> None:
        self.name = names.ClusterName(server.name)
        self.api: Any = server
        self.mirrors = mirrors
        self.ready = False

    @property
    def view(self) -> Cluster:
        since = self.api.tainted_since
        taints = (Taint("maintenance", TaintEffect.NO_EXECUTE),) if since else ()
        return Cluster(
            self.name,
            self.api.uid,
            self.ready,
            "" if self.ready else "Unreachable",
            unschedulable=bool(since),
            away_since=None if self.ready else self.api.away_since,
            taints=taints,
            tainted_since=dict.fromkeys(taints, since),
            labels={"name": self.name},
        )

    def note_failure(self, reply: Reply) -> None:
        """The real connection probes and perhaps turns unready; the history does that by itself."""


class ModelWorld(World):
    """The real world; every Job has the same policy."""

    policy: Policy

    def observe(self, manifest: dict[str, Any]) -> Observation:
        return replace(super().observe(manifest), policy=self.policy)


class ModelFleet(fleets.Fleet):
    """The real fleet's caches and doubts about deletions, with model connections."""

    def __init__(self, process: "Process", world: World) -> None:
        self._process = process
        self._world = world
        self._settings = Settings()
        self.clusters: dict[names.ClusterName, Any] = {}

    def get(self, name: names.ClusterName) -> Any:
        return self.clusters.get(name)

    def _spawn(self, coroutine: Any) -> None:
        self._process.spawn(coroutine)

    def add(self, server: ModelServer) -> None:
        name = names.ClusterName(server.name)
        cluster = ModelCluster(server, self._mirror_cache(name))
        self.clusters[name] = cluster
        self._world.workers[name] = cluster


class ModelMirrorWriter(MirrorWriter):
    """The real writer; its tasks are coroutines of the history."""

    process: "Process"

    def _spawn(self, key: Key, place: MirrorPlace, work: Coroutine[Any, Any, None]) -> None:
        busy: dict[Any, Any] = self._busy
        busy.setdefault(key, {})[place] = True
        self.process.spawn(self._whole(key, place, work))


class Notes:
    """Events that were recorded."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def record(self, job: dict[str, Any], event: Event) -> None:
        self.events.append(event)


@dataclass(slots=True)
class Running:
    """A coroutine and the request that it waits for."""

    coroutine: Coroutine[Any, Any, Any]
    request: Request | None = None
    key: Key | None = None


class _Sleep:
    """Stands in for asyncio in the fleet's and the mirror writer's modules, of which only this is used here."""

    Event = asyncio.Event

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def sleep(self, seconds: float) -> None:
        await Request(None, due=self._clock.seconds + seconds)


class Process:
    """The dispatcher from its start until it is killed."""

    def __init__(
        self,
        management: ModelServer,
        servers: list[ModelServer],
        clock: Clock,
        origin: str,
        *,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        for module in (worlds, mirror_outcomes):
            vars(module)["utc_now"] = lambda: clock.now
        vars(fleets)["asyncio"] = vars(mirror_writes)["asyncio"] = _Sleep(clock)
        self.clock = clock
        self.management = management
        self.running: list[Running] = []
        self.dirty: dict[Key, None] = {}
        self.at_work: set[Key] = set()
        self.timers: dict[Key, float] = {}
        self.failures: dict[Key, int] = {}
        self.faults: list[str] = []
        self.started_at = clock.seconds
        self.notes = Notes()
        self.world = ModelWorld(Rules(origin), wake=self.wake, wake_within=self.wake_within)
        self.world.policy = policy
        self.world.write_pace = WritePace(lambda: clock.seconds)
        self.fleet = ModelFleet(self, self.world)
        recorder: Any = self.notes
        api: Any = management
        gate = WriteGate()
        mirrors = ModelMirrorWriter(world=self.world, gate=gate, workers=self.fleet.get, wake=self.wake)
        mirrors.process = self
        self.fleet.is_writing = mirrors.writing
        jobs = JobWriter(api, world=self.world, gate=gate, recorder=recorder, wake=self.wake)
        executor = Executor(gate=gate, jobs=jobs, mirrors=mirrors)
        self.reconcile = Reconciler(self.world, executor, looks=self.looks)
        self.collector = OrphanCollector(
            fleet=self.fleet, world=self.world, management=api, managed_by=MANAGED_BY, interval=20
        )
        self.orphans_due = clock.seconds + 20
        self.collecting = False
        for server in servers:
            self.fleet.add(server)
            server.away_since = server.away_since or clock.now
        for job in management.jobs.values():
            self.world.jobs.put(job)

    def wake(self, key: Key) -> None:
        self.dirty[key] = None

    def wake_within(self, key: Key, seconds: float) -> None:
        due = self.clock.seconds + seconds
        self.timers[key] = min(due, self.timers.get(key, due))

    def looks(self, key: Key) -> None:
        self.dirty.pop(key, None)
        self.timers.pop(key, None)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], key: Key | None = None) -> None:
        task = Running(coroutine, None, key)
        self.running.append(task)
        self.resume(task)

    def connect(self, server: ModelServer) -> None:
        """The worker's list came in; its watch starts."""
        cluster = self.fleet.clusters[names.ClusterName(server.name)]
        uid_label = names.ORIGIN_LABEL
        listed = [
            job
            for job in server.jobs.values()
            if (job["metadata"].get("labels") or {}).get(uid_label) == self.world.rules.origin
        ]
        cluster.mirrors.replace_all(listed, server.version)
        cluster.ready = True
        server.away_since = None
        self.settle()
        self.world.wake_all()

    def disconnect(self, server: ModelServer) -> None:
        """The worker is seen to be away."""
        self.fleet.clusters[names.ClusterName(server.name)].ready = False
        server.away_since = server.away_since or self.clock.now
        self.world.wake_all()

    def settle(self) -> None:
        """Right after a start new Jobs wait for clusters that have not answered, for ten seconds."""
        if self.world.settled:
            return
        ready = all(cluster.ready for cluster in self.fleet.clusters.values())
        if ready or self.clock.seconds >= self.started_at + 10:
            self.world.settled = True
            self.world.wake_all()

    def tick(self) -> None:
        """Timers that are due."""
        self.settle()
        for key, due in list(self.timers.items()):
            if due <= self.clock.seconds:
                del self.timers[key]
                self.wake(key)
        for task in list(self.running):
            request = task.request
            if request is not None and request.server is None and request.due <= self.clock.seconds:
                request.reply = Reply(Outcome.OK)
                self.resume(task)
        if self.orphans_due <= self.clock.seconds and not self.collecting:
            self.orphans_due = self.clock.seconds + 20
            self.collecting = True
            self.spawn(self._collect())

    async def _collect(self) -> None:
        await self.collector.collect()
        self.collecting = False

    def next_due(self) -> float | None:
        """When the earliest timer of a Job fires."""
        sleeps = [t.request.due for t in self.running if t.request is not None and t.request.server is None]
        return min([*self.timers.values(), *sleeps], default=None)

    def work(self) -> bool:
        """Start reconciling what is dirty. Returns whether there was anything."""
        ready = [key for key in self.dirty if key not in self.at_work]
        for key in ready:
            del self.dirty[key]
            self.at_work.add(key)
            self.spawn(self._reconciled(key), key)
        return bool(ready)

    async def _reconciled(self, key: Key) -> None:
        try:
            pause = await self.reconcile(key)
            self.failures.pop(key, None)
        except TryAgain as passing:
            pause = passing.pause
        except WriteFailed:
            failures = self.failures[key] = self.failures.get(key, 0) + 1
            pause = min(60.0, 0.1 * 2 ** min(failures, 10))
        self.at_work.discard(key)
        if pause is not None:
            self.wake_within(key, pause)

    def resume(self, task: Running) -> None:
        """Send a coroutine on to its next request or its end."""
        try:
            task.request = task.coroutine.send(None)
        except StopIteration:
            self.running.remove(task)

    def waiting(self) -> list[Running]:
        """Coroutines that wait for a server."""
        return [t for t in self.running if t.request is not None and t.request.server is not None]

    def kill(self) -> list[Request]:
        """Forget everything; the requests that were sent and not yet carried out are returned."""
        sent = [t.request for t in self.waiting() if t.request is not None and t.request.reply is None]
        for task in self.running:
            task.coroutine.close()
        self.running.clear()
        return sent
