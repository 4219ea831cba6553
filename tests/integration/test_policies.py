"""Policies on real planes: the documentation's examples, changes under running Jobs, and bad input that is repaired."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.clusters.client import MERGE_PATCH, resource_path
from dispatcher.core import names
from tests.integration.planes import (
    MANAGED_BY,
    NEVER_ENDS,
    Planes,
    condition,
    count,
    has_reason,
    is_complete,
    is_dispatched,
    make_job,
)

pytestmark = pytest.mark.lab

API = f"{names.API_GROUP}/{names.API_VERSION}"
QUICK = [{"after": "1s", "exit": 0}]
Manifest = dict[str, Any]


@pytest.fixture
async def labelled(planes: Planes) -> AsyncIterator[Planes]:
    """Each cluster has its name as a label, and loses what tests have put on it."""
    every = [f"worker-{number + 1}" for number in range(len(planes.workers))]
    for name in every:
        await planes.change_cluster(name, {"metadata": {"labels": {"test/name": name}}})
    yield planes
    await planes.delete_all()
    for name in every:
        gone = {"metadata": {"labels": {"test/name": None, "test/zone": None}}, "spec": {"taints": None}}
        await planes.change_cluster(name, gone)


def on(*clusters: str) -> Manifest:
    """A clusterSelector for these."""
    return {"matchExpressions": [{"key": "test/name", "operator": "In", "values": list(clusters)}]}


def job_of(planes: Planes, name: str, *, annotations: Manifest | None = None, **spec: Any) -> Manifest:
    given = {"parallelism": 9, "completions": 18, "script": QUICK} | spec
    job = make_job(name, managed_by=MANAGED_BY, namespace=planes.namespace, **given)
    job["metadata"]["annotations"] = annotations or {}
    return job


async def parts(planes: Planes, uid: str) -> dict[str, tuple[int, int]]:
    """Parallelism and completions of the mirrors that have not been stopped, by cluster."""
    found: dict[str, tuple[int, int]] = {}
    for number, api in enumerate(planes.workers):
        reply = await api.get(resource_path("batch/v1", "jobs", namespace=planes.namespace))
        for job in (reply.body or {})["items"]:
            spec = job["spec"]
            if job["metadata"]["labels"].get(names.JOB_UID_LABEL) == uid and not spec.get("suspend"):
                before = found.get(f"worker-{number + 1}", (0, 0))
                found[f"worker-{number + 1}"] = (
                    before[0] + spec["parallelism"],
                    before[1] + spec["completions"],
                )
    return found


EVENLY = {"worker-1": (3, 6), "worker-2": (3, 6), "worker-3": (3, 6)}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(None, EVENLY, id="no-policy"),
        pytest.param(
            {
                "division": "Weighted",
                "clusterSelector": on("worker-1", "worker-2"),
                "clusters": {"worker-1": {"weight": 1}, "worker-2": {"weight": 2}},
            },
            {"worker-1": (3, 6), "worker-2": (6, 12)},
            id="weights",
        ),
        pytest.param(
            {"clusters": {"worker-1": {"maxReplicas": 2}}},
            {"worker-1": (2, 2), "worker-2": (3, 8), "worker-3": (4, 8)},
            id="max-on-one",
        ),
        pytest.param(
            {"division": "Single", "clusterSelector": on("worker-2")}, {"worker-2": (9, 18)}, id="single"
        ),
    ],
)
async def test_the_documentations_example(labelled: Planes, policy: Manifest | None, expected: Any) -> None:
    if policy is not None:
        await labelled.apply_policy(**policy)
    job = await labelled.create(job_of(labelled, "render", script=NEVER_ENDS))
    await labelled.job_when("render", lambda job: count(job, "active") == 9)
    found = await parts(labelled, job["metadata"]["uid"])
    if policy and "clusters" in policy and "division" not in policy:  # the odd pod goes by hash
        assert sorted(found.values()) == sorted(expected.values())
        assert found["worker-1"] == expected["worker-1"]
    else:
        assert found == expected


async def test_a_divided_job_completes(labelled: Planes) -> None:
    await labelled.apply_policy(clusters={"worker-1": {"maxReplicas": 2}})
    await labelled.create(job_of(labelled, "render"))
    done = await labelled.job_when("render", is_complete)
    assert done["status"]["succeeded"] == 18


async def test_available_knows_what_nodes_have_free(labelled: Planes) -> None:
    """The nodes are looked at every 30 s, so Jobs are made until one was divided by what is free now."""
    node = resource_path("v1", "nodes", name="worker-2-node-1")
    body: Manifest = {"metadata": {"labels": {"test/gpu": "yes"}}}
    reply = await labelled.workers[1].request("PATCH", node, body=body, content_type=MERGE_PATCH)
    assert reply.ok, reply
    await labelled.apply_policy(division="Available")
    found: dict[str, tuple[int, int]] = {}
    for number in range(60):
        job = job_of(labelled, f"render-{number}", script=NEVER_ENDS)
        job["spec"]["template"]["spec"]["nodeSelector"] = {"test/gpu": "yes"}
        made = await labelled.create(job)
        await labelled.job_when(f"render-{number}", is_dispatched)
        found = await parts(labelled, made["metadata"]["uid"])
        if set(found) == {"worker-2"}:
            break
        await labelled.delete(f"render-{number}")
        await asyncio.sleep(1)
    body = {"metadata": {"labels": {"test/gpu": None}}}
    await labelled.workers[1].request("PATCH", node, body=body, content_type=MERGE_PATCH)
    assert found == {"worker-2": (9, 18)}


async def test_running_jobs_stay_and_new_ones_follow(labelled: Planes) -> None:
    await labelled.apply_policy(clusterSelector=on("worker-1", "worker-2"))
    before = await labelled.create(
        job_of(labelled, "before", script=NEVER_ENDS, parallelism=4, completions=40)
    )
    await labelled.job_when("before", lambda job: count(job, "active") == 4)
    placed = await parts(labelled, before["metadata"]["uid"])
    assert placed == {"worker-1": (2, 20), "worker-2": (2, 20)}
    await labelled.change_cluster("worker-1", {"spec": {"taints": [{"key": "busy", "effect": "NoSchedule"}]}})
    await labelled.change_cluster("worker-2", {"spec": {"weight": 7}})
    await labelled.apply_policy(clusterSelector=on("worker-1", "worker-3"))
    after = await labelled.create(job_of(labelled, "after", script=NEVER_ENDS, parallelism=4, completions=40))
    await labelled.job_when("after", lambda job: count(job, "active") == 4)
    assert await parts(labelled, after["metadata"]["uid"]) == {"worker-3": (4, 40)}
    assert await parts(labelled, before["metadata"]["uid"]) == placed
    await labelled.change_cluster("worker-2", {"spec": {"weight": 1}})


@pytest.mark.parametrize("field", ["moveRunning", "rebalance"])
async def test_running_jobs_follow_where_the_policy_says_so(labelled: Planes, field: str) -> None:
    weights = {"worker-1": {"weight": 1}, "worker-2": {"weight": 1}, "worker-3": {"weight": 0}}
    given: Manifest = {"division": "Weighted", "clusters": weights, field: True}
    await labelled.apply_policy(**given)
    job = await labelled.create(job_of(labelled, "render", script=NEVER_ENDS, parallelism=6, completions=60))
    await labelled.job_when("render", lambda job: count(job, "active") == 6)
    assert await parts(labelled, job["metadata"]["uid"]) == {"worker-1": (3, 30), "worker-2": (3, 30)}

    def runs(**pods: int) -> Any:
        def holds(found: Any) -> bool:
            text = (condition(found, names.DISPATCHED) or {}).get("message", "")
            totals = {name: _pods_of(text, name.replace("_", "-")) for name in pods}
            return totals == pods and count(found, "active") == sum(pods.values())

        return holds

    weights["worker-2"] = {"weight": 2}
    await labelled.apply_policy(**given)
    await labelled.job_when("render", runs(worker_1=2, worker_2=4))
    weights["worker-1"] = {"weight": 0}
    weights["worker-3"] = {"weight": 2}
    await labelled.apply_policy(**given)
    await labelled.event_when("render", "ShareDraining")
    await labelled.job_when("render", runs(worker_1=0, worker_2=3, worker_3=3))
    found = await labelled.job_when("render", lambda job: count(job, "active") == 6)
    assert not count(found, "failed"), "pods that are stopped to be moved are no failures"


def _pods_of(summary: str, cluster: str) -> int:
    """What the Dispatched condition's message says a cluster runs."""
    texts = summary.split(f"{cluster} (parallelism ")[1:]
    return sum(int(text.split(",")[0].split(")")[0]) for text in texts)


async def test_elastic_growth_follows_the_policy_and_only_adds(labelled: Planes) -> None:
    weights = {"worker-1": {"weight": 1}, "worker-2": {"weight": 1}, "worker-3": {"weight": 0}}
    await labelled.apply_policy(division="Weighted", clusters=weights)
    size: Manifest = {"completionMode": "Indexed", "parallelism": 4, "completions": 4}
    job = await labelled.create(job_of(labelled, "elastic", script=NEVER_ENDS, **size))
    await labelled.job_when("elastic", lambda job: count(job, "active") == 4)
    pods = {pod["metadata"]["uid"] for api in labelled.workers for pod in await labelled.pods(api)}
    weights["worker-1"], weights["worker-2"] = {"weight": 3}, {"weight": 1}
    await labelled.apply_policy(division="Weighted", clusters=weights)
    await labelled.patch("elastic", {"spec": {"parallelism": 12, "completions": 12}})
    await labelled.job_when("elastic", lambda job: count(job, "active") == 12)
    after = {pod["metadata"]["uid"] for api in labelled.workers for pod in await labelled.pods(api)}
    assert pods <= after, "no pod was stopped"
    found = await parts(labelled, job["metadata"]["uid"])
    assert {name: pods for name, (pods, _completions) in found.items()} == {"worker-1": 8, "worker-2": 4}


async def _waits(planes: Planes, name: str, reason: str, *texts: str) -> None:
    """The Job says why it is not dispatched, and has not begun."""
    found = await planes.job_when(name, has_reason(names.DISPATCHED, reason))
    said = condition(found, names.DISPATCHED) or {}
    assert said["status"] == "False"
    assert all(text in said["message"] for text in texts), said["message"]
    assert "startTime" not in found["status"]


async def test_a_policy_that_is_not_there(labelled: Planes) -> None:
    annotations = {names.POLICY_ANNOTATION: "gpu"}
    await labelled.create(job_of(labelled, "render", annotations=annotations))
    await _waits(labelled, "render", names.POLICY_UNUSABLE, "there is no DispatchPolicy gpu", "create it")
    await labelled.apply_policy("gpu")
    await labelled.job_when("render", is_complete)


async def test_a_policy_that_selects_no_cluster(labelled: Planes) -> None:
    await labelled.apply_policy(clusterSelector={"matchLabels": {"test/zone": "1"}})
    await labelled.create(job_of(labelled, "render"))
    await _waits(labelled, "render", "NoEligibleClusters", "worker-1: not selected by DispatchPolicy default")
    await labelled.change_cluster("worker-2", {"metadata": {"labels": {"test/zone": "1"}}})
    await labelled.job_when("render", is_complete)


async def test_a_taint_that_is_taken_off(labelled: Planes) -> None:
    await labelled.apply_policy(clusterSelector=on("worker-1"))
    await labelled.change_cluster("worker-1", {"spec": {"taints": [{"key": "busy", "effect": "NoSchedule"}]}})
    await labelled.create(job_of(labelled, "render"))
    await _waits(labelled, "render", "NoEligibleClusters", "worker-1: taint busy:NoSchedule is not tolerated")
    await labelled.change_cluster("worker-1", {"spec": {"taints": None}})
    await labelled.job_when("render", is_complete)


async def test_bounds_that_leave_nothing(labelled: Planes) -> None:
    nothing = {f"worker-{number}": {"maxReplicas": 0} for number in (1, 2, 3)}
    await labelled.apply_policy(clusters=nothing)
    await labelled.create(job_of(labelled, "render"))
    await _waits(
        labelled, "render", "NoShare", "DispatchPolicy default leaves no cluster any work", "maxReplicas 0"
    )
    await labelled.apply_policy(clusters=nothing | {"worker-3": {"maxReplicas": 30}})
    await labelled.job_when("render", is_complete)


async def test_bounds_that_leave_a_part_waiting(labelled: Planes) -> None:
    few = {f"worker-{number}": {"maxReplicas": 4} for number in (1, 2, 3)}
    await labelled.apply_policy(clusters=few)
    await labelled.create(job_of(labelled, "render", script=NEVER_ENDS))
    found = await labelled.job_when("render", has_reason(names.FULLY_PLACED, "WaitingForRoom"))
    assert (
        "6 of 18 completions not placed: maxReplicas 4 reached"
        in (condition(found, names.FULLY_PLACED) or {})["message"]
    )
    await labelled.job_when("render", is_dispatched)


async def test_clusters_that_are_not_there(labelled: Planes) -> None:
    await labelled.apply_policy(clusters={"worker-9": {"maxReplicas": 5}})
    await labelled.create(job_of(labelled, "render", script=NEVER_ENDS))
    found = await labelled.job_when("render", is_dispatched)
    said = condition(found, names.DISPATCHED) or {}
    assert "DispatchPolicy default names clusters that are not there: worker-9" in said["message"]
    await labelled.event_when("render", "PreferencesIgnored")


async def test_a_minimum_above_the_jobs_size(labelled: Planes) -> None:
    await labelled.apply_policy(clusters={"worker-2": {"minReplicas": 1000}})
    job = await labelled.create(job_of(labelled, "render", script=NEVER_ENDS))
    await labelled.job_when("render", lambda job: count(job, "active") == 9)
    assert await parts(labelled, job["metadata"]["uid"]) == {"worker-2": (9, 18)}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is malformed"),
        ('{"clusters": {"*": {"weight": -1}}}', "clusters.*.weight"),
        ('{"clusters": {"*": {"weight": 99999999999999999999}}}', "clusters.*.weight"),
        ('{"clusters": {"*": {"weight": "1"}}}', "clusters.*.weight"),
    ],
)
async def test_a_malformed_annotation_spreads_evenly_and_says_so(
    labelled: Planes, text: str, complaint: str
) -> None:
    annotations = {names.PREFERENCES_ANNOTATION: text}
    job = await labelled.create(job_of(labelled, "render", annotations=annotations, script=NEVER_ENDS))
    found = await labelled.job_when("render", lambda job: count(job, "active") == 9 and is_dispatched(job))
    assert await parts(labelled, job["metadata"]["uid"]) == EVENLY
    message = (condition(found, names.DISPATCHED) or {})["message"]
    assert f"{names.PREFERENCES_ANNOTATION} is malformed" in message
    assert complaint in message
    await labelled.event_when("render", "PreferencesMalformed")


async def test_unknown_keys_in_the_annotation_are_named(labelled: Planes) -> None:
    text = '{"Clusters": {"worker-1": {"Weight": 1, "wieght": 5}}, "rebalnce": true}'
    annotations = {names.PREFERENCES_ANNOTATION: text}
    job = await labelled.create(job_of(labelled, "render", annotations=annotations, script=NEVER_ENDS))
    found = await labelled.job_when("render", is_dispatched)
    assert await parts(labelled, job["metadata"]["uid"]) == {"worker-1": (9, 18)}
    message = (condition(found, names.DISPATCHED) or {})["message"]
    assert "unknown keys, which are ignored: Clusters.worker-1.wieght, rebalnce" in message


async def test_preferences_that_give_no_cluster_anything_are_repaired(labelled: Planes) -> None:
    annotations = {names.PREFERENCES_ANNOTATION: "{}"}
    await labelled.create(job_of(labelled, "render", annotations=annotations))
    await _waits(labelled, "render", "NoShare", names.PREFERENCES_ANNOTATION, "not named in the preferences")
    repaired = {names.PREFERENCES_ANNOTATION: '{"clusters": {"*": {"weight": 1}}}'}
    await labelled.patch("render", {"metadata": {"annotations": repaired}})
    await labelled.job_when("render", is_complete)
