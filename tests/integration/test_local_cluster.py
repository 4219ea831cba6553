"""The management cluster as one of the workers: mirrors beside their Jobs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import resource_path
from dispatcher.core import names
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import (
    MANAGED_BY,
    NEVER_ENDS,
    Planes,
    condition,
    count,
    is_complete,
    is_dispatched,
    is_true,
    make_job,
)

pytestmark = pytest.mark.lab

GROUP = f"{names.API_GROUP}/{names.API_VERSION}"
HOME = "home"
SECONDS = 90.0
LONG = "n" * 63
ONLY_HOME = '{"clusters": {"home": {"weight": 1}}}'
HALF_HOME = '{"clusters": {"home": {"weight": 1}, "worker-1": {"weight": 1}}}'


@pytest.fixture
async def at_home(planes: Planes) -> AsyncIterator[Planes]:
    """The management cluster is registered as one more worker, and gone again at the end."""
    path = resource_path(GROUP, "workerclusters")
    body = {"apiVersion": GROUP, "kind": "WorkerCluster", "metadata": {"name": HOME}, "spec": {"local": True}}
    reply = await planes.management.request("POST", path, body=body)
    assert reply.ok, reply

    async def is_ready() -> bool:
        found = (await planes.management.get(f"{path}/{HOME}")).body or {}
        return is_true(found, "Ready")

    async with asyncio.timeout(SECONDS):
        while not await is_ready():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    yield planes
    await planes.delete_all()
    assert (await planes.management.request("DELETE", f"{path}/{HOME}")).ok
    async with asyncio.timeout(SECONDS):
        while (await planes.management.get(f"{path}/{HOME}")).ok:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def job(planes: Planes, name: str, preferences: str, **fields: Any) -> dict[str, Any]:
    made = make_job(name, managed_by=MANAGED_BY, namespace=planes.namespace, **fields)
    made["metadata"]["annotations"] = {names.PREFERENCES_ANNOTATION: preferences}
    return made


async def at_home_of(planes: Planes, uid: str) -> list[dict[str, Any]]:
    """The Job's mirrors beside it."""
    selector = f"{names.JOB_UID_LABEL}={uid}"
    reply = await jobs.list_jobs(planes.management, planes.namespace, label_selector=selector)
    items: list[dict[str, Any]] = (reply.body or {})["items"]
    return items


async def events_of(planes: Planes, name: str) -> set[str]:
    """Reasons of the Events on a Job."""
    reply = await planes.management.get(f"/api/v1/namespaces/{planes.namespace}/events")
    items = (reply.body or {})["items"]
    return {item["reason"] for item in items if item["involvedObject"]["name"] == name}


@pytest.mark.parametrize(
    "spec",
    [
        {"parallelism": 2, "completions": 4},
        {"parallelism": 2, "completions": 4, "completionMode": "Indexed"},
        {"parallelism": 2},
    ],
    ids=["NonIndexed", "Indexed", "work queue"],
)
async def test_a_whole_job_at_home(at_home: Planes, spec: dict[str, Any]) -> None:
    made = await at_home.create(job(at_home, "whole", ONLY_HOME, **spec))
    uid = made["metadata"]["uid"]
    done = await at_home.job_when("whole", is_complete)
    assert count(done, "succeeded") == spec.get("completions", 2)
    (mirror,) = await at_home_of(at_home, uid)
    assert mirror["metadata"]["name"].startswith("whole-")
    assert "managedBy" not in mirror["spec"] or mirror["spec"]["managedBy"] != MANAGED_BY
    assert await at_home.mirrors(uid) == []
    assert "MirrorNameTaken" not in await events_of(at_home, "whole")
    await at_home.delete("whole")
    await at_home.job_when("whole", lambda found: found is None)
    assert await at_home_of(at_home, uid) == []


@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
async def test_partly_at_home_and_partly_away(at_home: Planes, mode: str) -> None:
    spec = {"parallelism": 4, "completions": 8, "completionMode": mode}
    made = await at_home.create(job(at_home, "both", HALF_HOME, **spec))
    uid = made["metadata"]["uid"]
    done = await at_home.job_when("both", is_complete)
    assert count(done, "succeeded") == 8
    if mode == "Indexed":
        assert done["status"]["completedIndexes"] == "0-7"
    (near,) = await at_home_of(at_home, uid)
    (far,) = await at_home.mirrors(uid)
    assert near["metadata"]["name"] != "both"
    assert far["metadata"]["name"] == "both"
    if mode == "NonIndexed":
        assert [it["spec"]["completions"] for it in (near, far)] == [4, 4]
    await at_home.delete("both")
    await at_home.job_when("both", lambda found: found is None)
    assert await at_home_of(at_home, uid) == []
    assert await at_home.mirrors(uid) == []


@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
async def test_a_name_of_63_characters(at_home: Planes, mode: str) -> None:
    name = LONG if mode == "NonIndexed" else LONG[:61]  # pods of an Indexed Job have "-1" behind it
    spec = {"parallelism": 2, "completions": 2, "completionMode": mode}
    made = await at_home.create(job(at_home, name, ONLY_HOME, **spec))
    await at_home.job_when(name, is_complete)
    (mirror,) = await at_home_of(at_home, made["metadata"]["uid"])
    assert len(mirror["metadata"]["name"]) <= 63
    assert mirror["metadata"]["name"] != name


async def test_mirrors_beside_a_job_are_no_jobs_of_ours(at_home: Planes) -> None:
    """Even one that somebody, or an admission policy, gives our managedBy."""
    made = await at_home.create(job(at_home, "claims", ONLY_HOME, script=NEVER_ENDS))
    await at_home.job_when("claims", lambda found: count(found, "active") == 1)
    (mirror,) = await at_home_of(at_home, made["metadata"]["uid"])
    fake = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "fake",
            "namespace": at_home.namespace,
            "labels": {
                **mirror["metadata"]["labels"],
                names.SHARE_LABEL: "9",
            },
        },
        "spec": {
            **make_job("fake", managed_by=MANAGED_BY, namespace=at_home.namespace)["spec"],
            "suspend": True,
        },
    }
    await at_home.create(fake)
    # It is no share of the Job, never ran, and so is removed; it is not dispatched itself.
    gone = await at_home.job_when("fake", lambda found: found is None)
    assert gone is None
    assert await at_home.mirrors(made["metadata"]["uid"]) == []
    (again,) = await at_home_of(at_home, made["metadata"]["uid"])
    assert again["metadata"]["uid"] == mirror["metadata"]["uid"]
    assert names.FINALIZER not in again["metadata"].get("finalizers", ())
    assert names.PLACEMENT_ANNOTATION not in again["metadata"]["annotations"]
    assert condition(again, names.DISPATCHED) is None


async def test_an_orphan_at_home_is_removed_and_a_job_without_labels_is_not(at_home: Planes) -> None:
    made = await at_home.create(job(at_home, "parent", ONLY_HOME, script=NEVER_ENDS))
    await at_home.job_when("parent", is_dispatched)
    (mirror,) = await at_home_of(at_home, made["metadata"]["uid"])
    plain = make_job("plain", managed_by=None, namespace=at_home.namespace, suspend=True)
    await at_home.create(plain)
    orphan = make_job("orphan", managed_by=None, namespace=at_home.namespace, suspend=True)
    orphan["metadata"]["labels"] = {
        **mirror["metadata"]["labels"],
        names.JOB_UID_LABEL: "00000000-0000-4000-8000-000000000000",
    }
    await at_home.create(orphan)
    await at_home.job_when("orphan", lambda found: found is None)
    assert (await jobs.get_job(at_home.management, at_home.namespace, "plain")).ok
    left = await at_home_of(at_home, made["metadata"]["uid"])
    assert [it["metadata"]["uid"] for it in left] == [mirror["metadata"]["uid"]]


async def test_a_job_that_is_orphaned_leaves_its_mirror(at_home: Planes) -> None:
    made = job(at_home, "left", ONLY_HOME, script=NEVER_ENDS)
    made["metadata"]["annotations"][names.DELETION_ANNOTATION] = "Orphan"
    found = await at_home.create(made)
    await at_home.job_when("left", lambda found: count(found, "active") == 1)
    (mirror,) = await at_home_of(at_home, found["metadata"]["uid"])
    await at_home.delete("left")
    await at_home.job_when("left", lambda found: found is None)
    name = mirror["metadata"]["name"]
    kept = await at_home.job_when(name, lambda found: found is not None)
    assert names.ORIGIN_LABEL not in (kept["metadata"].get("labels") or {})
    assert kept["metadata"]["uid"] == mirror["metadata"]["uid"]


async def test_a_restart_keeps_the_mirrors_at_home(at_home: Planes, lab: Lab) -> None:
    made = job(at_home, "restart", HALF_HOME, script=NEVER_ENDS, parallelism=2, completions=2)
    made["spec"]["managedBy"] = "jobdispatcher.io/home-restart"
    first = Controller.start(lab, managed_by="jobdispatcher.io/home-restart")
    found = await at_home.create(made)
    await at_home.job_when("restart", lambda found: count(found, "active") == 2)
    before = [it["metadata"]["uid"] for it in await at_home_of(at_home, found["metadata"]["uid"])]
    first.stop()
    again = Controller.start(lab, managed_by="jobdispatcher.io/home-restart")
    try:
        await at_home.patch("restart", {"spec": {"parallelism": 4}})
        await at_home.job_when("restart", lambda found: (found or {})["spec"]["parallelism"] == 4)
        after = [it["metadata"]["uid"] for it in await at_home_of(at_home, found["metadata"]["uid"])]
        assert after == before
        await at_home.delete("restart")
        await at_home.job_when("restart", lambda found: found is None)
        assert await at_home_of(at_home, found["metadata"]["uid"]) == []
    finally:
        again.stop()
