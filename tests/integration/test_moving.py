"""Work that moves, on real planes: a lost cluster and its return, drained and removed clusters, idle ones."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.clusters.client import MERGE_PATCH, resource_path
from dispatcher.core import names
from dispatcher.core.indexes import IndexSet
from dispatcher.core.placement import Placement, parse_placement
from hack.lab import Lab
from tests.integration.outages import lost_planes
from tests.integration.planes import (
    MANAGED_BY,
    NEVER_ENDS,
    WAIT_SECONDS,
    Planes,
    count,
    has_reason,
    is_complete,
    is_dispatched,
    make_job,
)

pytestmark = pytest.mark.lab

API = f"{names.API_GROUP}/{names.API_VERSION}"


def cluster_path(name: str) -> str:
    return resource_path(API, "workerclusters", name=name)


async def cluster_when(planes: Planes, name: str, kind: str, status: str) -> dict[str, Any]:
    """The WorkerCluster once a condition of it has this status."""
    found: Any = None
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                reply = await planes.management.get(cluster_path(name))
                found = (reply.body or {}).get("status", {}).get("conditions", ())
                if any(entry["type"] == kind and entry["status"] == status for entry in found):
                    assert reply.body is not None
                    return reply.body
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{name} did not turn {kind}={status}; last seen: {json.dumps(found)}") from None


async def gone(planes: Planes, path: str) -> None:
    """Wait until the management plane has no such object."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            if not (await planes.management.get(path)).ok:
                return
            await asyncio.sleep(0.1)


def placement_of(job: dict[str, Any] | None) -> Placement:
    return parse_placement(((job or {})["metadata"]["annotations"])[names.PLACEMENT_ANNOTATION])


def states(job: dict[str, Any] | None) -> dict[str, str]:
    """The state of each share by its cluster."""
    return {share.cluster: share.state.value for share in placement_of(job).shares}


@pytest.fixture
async def two(planes: Planes) -> AsyncIterator[Planes]:
    """For Jobs on the first two workers; these are as they were at the end."""
    yield planes
    for name in ("worker-1", "worker-2"):
        await planes.change_cluster(name, {"spec": {"unschedulable": None, "taints": None}})


def on_two(name: str, planes: Planes, script: Any, **spec: Any) -> dict[str, Any]:
    """A Job for the first two workers."""
    job = make_job(name, managed_by=MANAGED_BY, namespace=planes.namespace, script=script, **spec)
    weights = {"clusters": {"worker-1": {"weight": 1}, "worker-2": {"weight": 1}}}
    job["metadata"]["annotations"] = {names.PREFERENCES_ANNOTATION: json.dumps(weights)}
    return job


def indexed(planes: Planes, name: str, script: Any, **spec: Any) -> dict[str, Any]:
    return on_two(name, planes, script, completionMode="Indexed", **spec)


async def test_only_the_unfinished_part_of_a_lost_share_moves(two: Planes, lab: Lab) -> None:
    planes = two
    await planes.apply_policy(failover={"after": "3s"})
    script = [
        {"index": "0", "exit": 0},
        {"index": "1-2", "after": "15s", "exit": 0},
        {"exit": 0},
    ]
    uid = (await planes.create(indexed(planes, "scene", script, completions=6, parallelism=6)))["metadata"][
        "uid"
    ]
    done = await planes.job_when("scene", lambda job: count(job, "succeeded") == 4)
    assert done["status"]["completedIndexes"] == "0,3-5"
    lost = placement_of(done).active[0].cluster
    worker = planes.workers[int(lost.removeprefix("worker-")) - 1]
    async with lost_planes(planes, lab, lost):
        moved = await planes.job_when("scene", lambda job: states(job).get(lost) == "Lost")
        assert moved["status"]["completedIndexes"] == "0,3-5"
        new = placement_of(moved).shares[-1]
        assert new.cluster != lost
        assert new.indexes == IndexSet.parse("1,2")
        await planes.event_when("scene", "ShareLost")
        await planes.event_when("scene", "ShareMoved")
        finished = await planes.job_when("scene", is_complete)
        assert finished["status"]["succeeded"] == 6
        assert finished["status"]["completedIndexes"] == "0-5"
    await planes.job_when("scene", lambda job: job is None, on=worker)
    after = await planes.job_when("scene", is_complete)
    assert after["status"] == finished["status"]
    assert len(await planes.mirrors(uid)) == 2


async def test_what_a_lost_cluster_did_meanwhile_counts_when_it_is_back(two: Planes, lab: Lab) -> None:
    """Its API server hangs; its pods go on and end, and only what nobody else has begun is used."""
    planes = two
    await planes.apply_policy(failover={"after": "3s"})
    job = on_two("meanwhile", planes, [{"after": "10s", "exit": 0}], completions=12, parallelism=4)
    await planes.create(job)
    placed = await planes.job_when("meanwhile", lambda job: count(job, "active") == 4)
    lost = placement_of(placed).active[0].cluster
    async with lost_planes(planes, lab, lost):
        await planes.job_when("meanwhile", lambda job: states(job).get(lost) == "Lost")
    await planes.event_when("meanwhile", "ClusterReturned")
    finished = await planes.job_when("meanwhile", is_complete)
    assert finished["status"]["succeeded"] == 12
    assert not finished["status"].get("failed")


async def test_a_no_execute_taint_moves_what_is_not_done(two: Planes) -> None:
    planes = two
    script = [{"index": "0,3", "exit": 0}, {"index": "1", "nth": "0-3", "exit": None}, {"exit": 0}]
    uid = (await planes.create(indexed(planes, "drained", script, completions=4, parallelism=4)))["metadata"][
        "uid"
    ]
    await planes.job_when("drained", lambda job: count(job, "succeeded") == 3)
    job = await planes.job_when("drained", lambda job: len(placement_of(job).active) == 1)
    drained = placement_of(job).active[0].cluster
    taint = {"key": names.DRAIN_TAINT, "effect": "NoExecute"}
    await planes.change_cluster(drained, {"spec": {"unschedulable": True, "taints": [taint]}})
    await planes.event_when("drained", "ShareDraining")
    moved = await planes.job_when("drained", lambda job: drained not in states(job))
    assert [share.indexes.format() for share in placement_of(moved).active] == ["1"]
    assert moved["status"]["succeeded"] == 3
    assert not moved["status"].get("failed")
    await cluster_when(planes, drained, "Drained", "True")
    assert len(await planes.mirrors(uid)) == 2


async def test_a_removed_cluster_is_emptied_first(two: Planes) -> None:
    planes = two
    await planes.create(indexed(planes, "removed", NEVER_ENDS, completions=4, parallelism=4))
    await planes.job_when("removed", is_dispatched)
    before = (await planes.management.get(cluster_path("worker-2"))).body
    assert before is not None
    assert names.DRAIN_FINALIZER in before["metadata"]["finalizers"]
    reply = await planes.management.request("DELETE", cluster_path("worker-2"))
    assert reply.ok
    try:
        job = await planes.job_when(
            "removed",
            lambda job: (
                states(job) == {"worker-1": "Active"}
                or (set(states(job)) == {"worker-1"} and len(placement_of(job).active) == 2)
            ),
        )
        assert sum(len(share.indexes) for share in placement_of(job).active) == 4
        await gone(planes, cluster_path("worker-2"))
        assert len(await planes.mirrors(job["metadata"]["uid"])) == len(placement_of(job).active)
    finally:
        metadata = {"name": "worker-2", "labels": before["metadata"].get("labels", {})}
        again = {"apiVersion": API, "kind": "WorkerCluster", "metadata": metadata, "spec": before["spec"]}
        path = resource_path(API, "workerclusters")
        assert (await planes.management.request("POST", path, body=again)).ok
        await cluster_when(planes, "worker-2", "Ready", "True")


async def test_an_idle_cluster_takes_what_has_not_begun(two: Planes) -> None:
    """One cluster's pods end at once, the other's take long: the first comes back for more."""
    planes = two
    await planes.apply_policy(stealUnstarted=True, stealAfter="0s")
    script = [{"index": "0-9", "exit": 0}, {"index": "10-13", "after": "4s", "exit": 0}, {"exit": 0}]
    job = indexed(planes, "stolen", script, completions=20, parallelism=4)
    uid = (await planes.create(job))["metadata"]["uid"]
    finished = await planes.job_when("stolen", is_complete)
    assert finished["status"]["completedIndexes"] == "0-19"
    assert finished["status"]["succeeded"] == 20
    assert not finished["status"].get("failed")
    assert len(await planes.mirrors(uid)) > 2
    ran = [
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        for api in planes.workers
        for pod in await planes.pods(api)
    ]
    assert sorted(map(int, ran)) == list(range(20))


async def test_a_share_whose_pods_are_not_scheduled_moves(two: Planes) -> None:
    planes = two
    await planes.apply_policy(failover={"unschedulableAfter": "3s"})
    nodes = (await planes.workers[0].get("/api/v1/nodes")).body
    assert nodes is not None
    for node in nodes["items"]:
        path = f"/api/v1/nodes/{node['metadata']['name']}"
        body = {"spec": {"unschedulable": True}}
        assert (await planes.workers[0].request("PATCH", path, body=body, content_type=MERGE_PATCH)).ok
    try:
        script = [{"after": "1s", "exit": 0}]
        await planes.create(indexed(planes, "pending", script, completions=4, parallelism=4))
        finished = await planes.job_when("pending", is_complete)
        assert finished["status"]["succeeded"] == 4
        await planes.event_when("pending", "ShareUnschedulable")
    finally:
        for node in nodes["items"]:
            path = f"/api/v1/nodes/{node['metadata']['name']}"
            body = {"spec": {"unschedulable": False}}
            assert (await planes.workers[0].request("PATCH", path, body=body, content_type=MERGE_PATCH)).ok


async def test_a_job_waits_for_its_policy(planes: Planes) -> None:
    job = make_job("waits", managed_by=MANAGED_BY, namespace=planes.namespace, completions=2)
    job["metadata"]["annotations"] = {names.POLICY_ANNOTATION: names.DEFAULT_POLICY_NAME}
    await planes.create(job)
    await planes.job_when("waits", has_reason(names.DISPATCHED, names.POLICY_UNUSABLE))
    await planes.apply_policy(division="Single")
    done = await planes.job_when("waits", is_complete)
    assert len(placement_of(done).shares) == 1
