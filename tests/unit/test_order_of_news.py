"""A watch may be faster than the answer to a request of ours: what it has brought is not undone, nor counted again."""

import asyncio
import copy
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from dispatcher.clusters import jobs as requests
from dispatcher.clusters import objects
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.actions import CopyDependencies, ObjectRef
from dispatcher.core.mirror import job_uid_of
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Attempt, Refusal, Rules
from dispatcher.operator import job_tally, propagation
from dispatcher.operator.draining import Drainer
from dispatcher.operator.job_tally import JobTally
from dispatcher.operator.latency import Latencies
from dispatcher.operator.mirror_writes import MirrorIdentity, MirrorWriter
from dispatcher.operator.propagation import Propagation
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.world import World
from dispatcher.operator.write_gate import WriteGate

A = ClusterName("a")
KEY = ("team", "pi")
NOT_FOUND = Reply(Outcome.NOT_FOUND, 404, reason="NotFound")
NOBODY: Any = None


def job(uid: str = "1", version: int = 1) -> dict[str, Any]:
    metadata = {"namespace": "team", "name": "pi", "uid": uid, "resourceVersion": str(version)}
    return {"kind": "Job", "metadata": metadata, "spec": {"template": {"spec": {}}}}


def mirror(version: int, *, complete: bool = False) -> dict[str, Any]:
    labels = {names.JOB_UID_LABEL: "1", names.ORIGIN_LABEL: "origin", names.SHARE_LABEL: "0"}
    metadata = {
        "namespace": "team",
        "name": "pi",
        "uid": "m",
        "resourceVersion": str(version),
        "labels": labels,
    }
    conditions = [{"type": "Complete", "status": "True"}] if complete else []
    spec = {"parallelism": 2, "completions": 4, "template": {"spec": {}}}
    return {"kind": "Job", "metadata": metadata, "spec": spec, "status": {"conditions": conditions}}


class Worker:
    """A cluster whose watch tells the world of deletions."""

    def __init__(self, world: World) -> None:
        self.api: Any = None
        self.view: Any = None
        self.mirrors = ObjectCache(
            index=job_uid_of, on_delete=lambda last, _final: world.mirror_notes.deleted(A, last)
        )

    def note_failure(self, reply: Reply) -> None:
        raise AssertionError(reply)


@pytest.fixture
def world() -> World:
    made = World(Rules("origin"), wake=lambda _key: None)
    made.jobs.put(job())
    return made


async def test_a_result_that_came_before_a_found_mirrors_answer_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = world.workers[A] = Worker(world)
    worker.mirrors.put(mirror(2))
    worker.mirrors.delete(mirror(3))
    (doubted,) = world.mirror_notes.doubted("1")

    async def get(*_arguments: Any) -> Reply:
        return Reply(Outcome.OK, 200, mirror(3))

    async def patch(*_arguments: Any) -> Reply:
        worker.mirrors.put(mirror(4))
        worker.mirrors.put(mirror(5, complete=True))
        worker.mirrors.delete(mirror(6, complete=True))
        return Reply(Outcome.OK, 200, mirror(4))

    monkeypatch.setattr(requests, "get_job", get)
    monkeypatch.setattr(requests, "patch_job", patch)
    woken = asyncio.Event()
    writer = MirrorWriter(
        world=world, gate=WriteGate(), workers=lambda _name: worker, wake=lambda _key: woken.set()
    )
    labels = doubted.manifest["metadata"]["labels"]
    writer.prove(KEY, MirrorIdentity(A, "pi", "m", labels))
    await asyncio.wait_for(woken.wait(), 60)
    (seen,) = world._mirrors("1", "team")
    assert (seen.finished, seen.gone) == (True, True)


async def test_a_source_that_was_made_anew_before_the_answer_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def source(uid: str, version: int) -> dict[str, Any]:
        metadata = {"namespace": "team", "name": "settings", "uid": uid, "resourceVersion": str(version)}
        return {"metadata": metadata}

    class Reflector:
        last_error = None

        def __init__(self, _api: Any, _path: str, cache: ObjectCache, **_settings: Any) -> None:
            self.cache = cache
            self.synced = asyncio.Event()

        async def run(self) -> None:
            await asyncio.Event().wait()

    async def metadata_of_the_copy(*_arguments: Any) -> Reply:
        return NOT_FOUND

    async def get(*_arguments: Any) -> Reply:
        cache.delete(source("old", 3))
        cache.put(source("new", 4))
        return NOT_FOUND

    monkeypatch.setattr(propagation, "Reflector", Reflector)
    monkeypatch.setattr(objects, "get_metadata", metadata_of_the_copy)
    monkeypatch.setattr(objects, "get", get)
    follows = Propagation(NOBODY, origin="origin", wake=lambda _key: None)
    cache = follows._watch("team", "ConfigMap").reflector.cache
    cache.put(source("old", 2))
    action = CopyDependencies(A, "pi", "m", (ObjectRef("ConfigMap", "settings"),))
    worker: Any = SimpleNamespace(api=None)
    await follows.copy("team", "1", action, worker, write=NOBODY)
    cache.put(source("new", 5))
    known = cache.get("team", "settings")
    assert known is not None
    assert known["metadata"]["resourceVersion"] == "5"
    await follows.stop()


async def test_nothing_is_noted_of_a_job_that_went_while_its_objects_were_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def get_metadata(_api: Any, kind: str, *_arguments: Any) -> Reply:
        if kind == "ConfigMap":
            follows.forget(KEY, "1")
        return Reply(Outcome.FORBIDDEN, 403)

    monkeypatch.setattr(objects, "get_metadata", get_metadata)
    follows = Propagation(NOBODY, origin="origin", wake=lambda _key: None)
    both = (ObjectRef("ConfigMap", "settings"), ObjectRef("Secret", "key"))
    worker: Any = SimpleNamespace(api=None, note_failure=lambda _reply: None)
    await follows.copy("team", "1", CopyDependencies(A, "pi", "m", both), worker, write=NOBODY)
    assert not follows._provided


def test_a_refusal_that_comes_after_its_job_went_is_not_the_next_ones(world: World) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    refused = Attempt(Refusal.UNREACHABLE, "no answer", moment + timedelta(seconds=30), moment)
    world.mirror_notes.attempt(KEY, A, "pi", refused)
    assert world.mirror_notes.attempts(KEY)
    world.jobs.delete(job(version=2))
    world.mirror_notes.attempt(KEY, A, "pi", refused)
    world.jobs.put(job("2", 3))
    assert not world.mirror_notes.attempts(KEY)


def test_a_change_that_waited_when_its_job_went_is_not_the_next_ones() -> None:
    latencies = Latencies()
    latencies.job_seen(job())
    latencies.mirror_changed(KEY)
    since = latencies.take(KEY)
    latencies.job_gone(KEY, "1")
    latencies.decided(KEY, since, written=False, acts=True, look_again=None)
    latencies.job_seen(job("2", 3))
    assert latencies.take(KEY) is None


async def test_a_job_that_goes_while_others_are_counted_is_not_counted_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(job_tally, "_AT_ONCE", 1)
    tally = JobTally(started=datetime(2026, 1, 1, tzinfo=UTC))
    both = [job("1"), job("2")]
    for entry in both:
        tally.job_changed(None, entry)
    counting = asyncio.create_task(tally.count_changes())
    await asyncio.sleep(0)
    tally.job_changed(both[1], None)
    await counting
    assert +tally.phases == {"Pending": 1}


async def test_what_a_person_changed_after_the_finalizer_was_written_stays(world: World) -> None:
    made: dict[str, Any] = {"metadata": {"name": "a", "uid": "w", "resourceVersion": "1"}, "spec": {}}
    cluster = RegisteredCluster(made, ObjectCache())

    async def request(_method: str, _path: str, *, body: Any, **_options: Any) -> Reply:
        answer = copy.deepcopy(made)
        answer["metadata"] |= {"resourceVersion": "2", "finalizers": body["metadata"]["finalizers"]}
        later = copy.deepcopy(answer)
        later["metadata"]["resourceVersion"] = "3"
        later["spec"] = {"unschedulable": True}
        cluster.manifest = later
        return Reply(Outcome.OK, 200, answer)

    management: Any = SimpleNamespace(request=request)
    drainer = Drainer(management=management, clusters={A: cluster}, world=world, status=NOBODY)
    await drainer._look(cluster)
    assert cluster.manifest["spec"] == {"unschedulable": True}
    assert names.DRAIN_FINALIZER in cluster.manifest["metadata"]["finalizers"]
