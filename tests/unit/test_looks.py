"""How often a Job is looked at: once for each thing that happens, whether a write's answer or the watch is first."""

import asyncio
import copy
from typing import Any

import pytest

from dispatcher.clusters import jobs as requests
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.reply import Manifest, Outcome, Reply
from dispatcher.core import names
from dispatcher.core.decision import decide
from dispatcher.core.observation import Cluster, Rules
from dispatcher.operator import reconciler as reconciling
from dispatcher.operator.events import Recorder
from dispatcher.operator.executor import Executor
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.job_writes import JobWriter
from dispatcher.operator.mirror_writes import MirrorWriter
from dispatcher.operator.queue import KeyQueue
from dispatcher.operator.settings import Settings
from dispatcher.operator.world import World
from dispatcher.operator.write_gate import WriteGate
from tests.unit.scene import job_manifest

KEY = ("team", "pi")
CLUSTER = names.ClusterName("a")


class Plane:
    """One API server with one Job at most: writes change it, and the watch brings each change to a cache."""

    def __init__(self, cache: ObjectCache, *, watch_is_first: bool) -> None:
        self.cache = cache
        self.watch_is_first = watch_is_first
        self.job: Manifest = {}
        self.version = 10
        self.writes: list[str] = []
        self.events_due = 0

    def change(self, job: Manifest) -> None:
        """Somebody else has changed the Job."""
        self._store(job)
        self.cache.put(copy.deepcopy(self.job))

    async def write(self, kind: str, job: Manifest) -> Reply:
        self.writes.append(kind)
        await asyncio.sleep(0)
        self._store(job)
        return await self._tell(lambda: self.cache.put(copy.deepcopy(self.job)))

    async def remove(self, kind: str, job: Manifest) -> Reply:
        self.writes.append(kind)
        await asyncio.sleep(0)
        self._store(job)
        return await self._tell(lambda: self.cache.delete(copy.deepcopy(self.job)))

    def _store(self, job: Manifest) -> None:
        self.version += 1
        self.job = copy.deepcopy(job)
        self.job["metadata"]["resourceVersion"] = str(self.version)

    async def _tell(self, event: Any) -> Reply:
        if self.watch_is_first:
            event()
            await asyncio.sleep(0)
        else:
            self.events_due += 1
            asyncio.get_running_loop().call_later(0.01, self._bring, event)
        return Reply(Outcome.OK, 200, copy.deepcopy(self.job))

    def _bring(self, event: Any) -> None:
        self.events_due -= 1
        event()


class Worker:
    """A connected worker cluster."""

    def __init__(self, mirrors: ObjectCache) -> None:
        self.api: Any = self
        self.mirrors = mirrors
        self.view = Cluster(CLUSTER, "uid-a", True)

    def note_failure(self, reply: Reply) -> None:
        raise AssertionError(reply)


class Process:
    """The parts of a dispatcher that handle one Job, on two planes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, watch_is_first: bool) -> None:
        none: Any = None
        self.looks = 0
        self.world = World(
            Rules("origin"),
            wake=lambda key: self.queue.add(key),
            wake_within=lambda key, seconds: self.queue.add_after(key, seconds),
        )
        self.world.settled = True
        fleet = Fleet(
            settings=Settings(),
            world=self.world,
            management=none,
            management_uid="m",
            local_api=lambda: none,
            secrets=ObjectCache(),
        )
        worker = Worker(fleet._mirror_cache(CLUSTER))
        self.world.workers[CLUSTER] = worker
        gate = WriteGate()

        async def sink(namespace: str, body: Manifest) -> None: ...

        mirrors = MirrorWriter(
            world=self.world, gate=gate, workers=lambda _name: worker, wake=lambda key: self.queue.add(key)
        )
        fleet.is_writing = mirrors.writing
        jobs = JobWriter(
            none, world=self.world, gate=gate, recorder=Recorder(sink), wake=lambda key: self.queue.add(key)
        )
        reconciler = reconciling.Reconciler(
            self.world,
            Executor(gate=gate, jobs=jobs, mirrors=mirrors),
            looks=lambda key: self.queue.looks(key),
        )
        self.queue = KeyQueue(reconciler)
        self.mirrors = mirrors
        self.management = Plane(self.world.jobs, watch_is_first=watch_is_first)
        self.worker = Plane(worker.mirrors, watch_is_first=watch_is_first)

        def counted(observation: Any) -> Any:
            self.looks += 1
            return decide(observation)

        async def replace(_api: Any, _namespace: str, _name: str, manifest: Manifest) -> Reply:
            if not manifest["metadata"]["finalizers"]:
                return await self.management.remove("finalizer", manifest)
            return await self.management.write("status", manifest)

        async def create(_api: Any, namespace: str, manifest: Manifest) -> Reply:
            metadata = {**manifest["metadata"], "namespace": namespace, "uid": "mirror"}
            return await self.worker.write("create", {**manifest, "metadata": metadata, "status": {}})

        async def delete(*_arguments: Any) -> Reply:
            reply = await self.worker.remove("delete", self.worker.job)
            return Reply(Outcome.OK, 200, {"kind": "Status"}) if reply.ok else reply

        monkeypatch.setattr(reconciling, "decide", counted)
        monkeypatch.setattr(requests, "replace_job_status", replace)
        monkeypatch.setattr(requests, "create_job", create)
        monkeypatch.setattr(requests, "delete_job", delete)

    async def looks_for(self, happens: Any) -> int:
        """How many looks it takes until nothing more happens by itself."""
        before = self.looks
        happens()
        async with asyncio.timeout(30):
            while not self.queue.idle or self.mirrors.busy(KEY) or self.events_due:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self.looks - before

    @property
    def events_due(self) -> int:
        """Events of writes that were answered."""
        return self.management.events_due + self.worker.events_due

    def reports(self, **status: Any) -> None:
        """The mirror's Job controller writes this status."""
        self.worker.change({**self.worker.job, "status": {"startTime": "2026-01-01T12:00:00Z", **status}})

    def deleted(self) -> None:
        """A person deletes the Job."""
        metadata = {**self.management.job["metadata"], "deletionTimestamp": "2026-01-01T12:01:00Z"}
        self.management.change({**self.management.job, "metadata": metadata})


@pytest.mark.parametrize("watch_is_first", [True, False])
async def test_each_thing_that_happens_is_looked_at_once(
    monkeypatch: pytest.MonkeyPatch, watch_is_first: bool
) -> None:
    process = Process(monkeypatch, watch_is_first=watch_is_first)
    job = job_manifest(parallelism=1, completions=1)
    looks = [await process.looks_for(lambda: process.management.change(job))]
    assert process.management.writes == ["status"]
    assert process.worker.writes == ["create"]
    looks.append(await process.looks_for(lambda: process.reports(active=1, ready=0, terminating=0)))
    assert process.management.writes == ["status"] * 2
    uncounted = {"succeeded": ["pod"]}
    looks.append(await process.looks_for(lambda: process.reports(uncountedTerminatedPods=uncounted)))
    end = [
        {"type": kind, "status": "True", "reason": "CompletionsReached", "message": "m"}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    for condition in end:
        condition["lastTransitionTime"] = "2026-01-01T12:00:30Z"
    done = {"succeeded": 1, "completionTime": "2026-01-01T12:00:30Z", "conditions": end}
    looks.append(await process.looks_for(lambda: process.reports(**done)))
    assert process.management.writes == ["status"] * 3
    looks.append(await process.looks_for(process.deleted))
    assert process.management.writes == ["status"] * 3 + ["finalizer"]
    assert process.worker.writes == ["create", "delete"]
    # Seen and placed, written, mirror made; reported; none for pods that are still to be counted; complete; deleted,
    # mirror gone.
    assert looks == [3, 1, 0, 1, 2]
    assert process.world.jobs.get(*KEY) is None


async def test_a_change_by_others_during_a_write_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, watch_is_first=True)
    await process.looks_for(lambda: process.management.change(job_manifest(parallelism=1, completions=1)))
    with process.world.writing_job(KEY):
        process.management.change(process.management.job)
        process.world.job_written(KEY, copy.deepcopy(process.management.job))
    assert await process.looks_for(lambda: None) == 0, "the write itself is no news"
    with process.world.writing_job(KEY):
        process.management.change(process.management.job)
        process.world.job_written(KEY, copy.deepcopy(process.management.job))
        process.management.change(process.management.job)
    assert await process.looks_for(lambda: None) == 1


async def test_news_of_a_mirror_do_not_wait_for_a_write_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, watch_is_first=False)
    await process.looks_for(lambda: process.management.change(job_manifest(parallelism=1, completions=1)))
    process.world.in_flight = lambda _key: frozenset({(CLUSTER, "pi")})
    before = process.looks
    process.reports(active=1, ready=0, terminating=0)
    async with asyncio.timeout(30):
        while process.looks == before:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_a_job_of_another_replica_is_not_looked_at_until_it_is_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process(monkeypatch, watch_is_first=True)
    ours: set[str] = set()
    process.world.owns = ours.__contains__
    queued: list[Any] = []
    monkeypatch.setattr(process.queue, "add", queued.append)
    process.management.change(job_manifest(parallelism=1, completions=1))
    job = process.management.job
    uid = job["metadata"]["uid"]
    labels = {names.JOB_UID_LABEL: uid}
    process.worker.change({**job, "metadata": {**job["metadata"], "uid": "mirror", "labels": labels}})
    assert queued == []
    ours.add(uid)
    process.world.wake_all()
    assert set(queued) == {KEY}


async def test_a_job_is_new_until_something_was_done_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, watch_is_first=True)
    new: list[bool] = []
    monkeypatch.setattr(process.queue, "add", lambda key: new.append(process.world.is_new(key)))
    job = job_manifest(parallelism=1, completions=1)
    process.management.change(job)
    placed = {**job["metadata"], "annotations": {names.PLACEMENT_ANNOTATION: "{}"}}
    process.management.change({**job, "metadata": placed})
    suspended = {"conditions": [{"type": "Suspended", "status": "True"}]}
    process.management.change({**job, "status": suspended})
    process.management.change(
        {**job, "metadata": {**job["metadata"], "deletionTimestamp": "2026-01-01T12:00:00Z"}}
    )
    assert new == [True, False, False, False]
    assert not process.world.is_new(("team", "unknown"))
