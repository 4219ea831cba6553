"""The main path and what may go wrong on it, on real planes: split, hybrid, never run twice, bad input."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.clusters import jobs
from dispatcher.core import names
from tests.integration.planes import (
    MANAGED_BY,
    NEVER_ENDS,
    Planes,
    condition,
    has_reason,
    is_complete,
    is_dispatched,
    make_job,
    summary,
)

pytestmark = pytest.mark.lab

MANIFESTS = Path(__file__).parents[1] / "jobs"
FIXED_COMPLETIONS = ["pi", "fixed-completions", "pi-with-deadline", "pi-with-ttl", "coarse-work-queue"]


def ours(planes: Planes, name: str, **spec: Any) -> dict[str, Any]:
    return make_job(name, managed_by=MANAGED_BY, namespace=planes.namespace, **spec)


SPLITS = {
    "federation's example": (9, 18, {(3, 6)}),
    "completions below parallelism": (7, 2, {(3, 1), (4, 1)}),
    "completions below the clusters": (3, 2, {(1, 1), (2, 1)}),
    "one pod at a time": (1, 7, {(1, 7)}),
    "no pods yet": (0, 6, {(0, 2)}),
}


@pytest.mark.parametrize(("parallelism", "completions", "parts"), SPLITS.values(), ids=SPLITS.keys())
async def test_a_job_is_split_without_loss(
    planes: Planes, parallelism: int, completions: int, parts: set[tuple[int, int]]
) -> None:
    job = ours(planes, "split", script=NEVER_ENDS, parallelism=parallelism, completions=completions)
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("split", is_dispatched)
    specs = [mirror["spec"] for mirror in await planes.mirrors(uid)]
    assert {(spec["parallelism"], spec["completions"]) for spec in specs} == parts
    assert sum(spec["parallelism"] for spec in specs) == parallelism
    assert sum(spec["completions"] for spec in specs) == completions


async def test_jobs_of_others_are_left_alone(planes: Planes) -> None:
    local = [None, "kubernetes.io/job-controller"]
    for number, value in enumerate(local):
        await planes.create(make_job(f"local-{number}", managed_by=value, namespace=planes.namespace))
    foreign = make_job("foreign", managed_by="example.com/other", namespace=planes.namespace)
    untouched = await planes.create(foreign)
    await planes.create(ours(planes, "dispatched", parallelism=2, completions=4))
    await planes.job_when("dispatched", is_complete)
    for number in range(len(local)):
        done = await planes.job_when(f"local-{number}", is_complete)
        assert "jobdispatcher.io" not in json.dumps(done["metadata"])
    found = await planes.job_when("foreign", lambda job: job is not None)
    assert found["metadata"]["resourceVersion"] == untouched["metadata"]["resourceVersion"]


@pytest.mark.parametrize("name", FIXED_COMPLETIONS)
async def test_the_documentations_jobs_end_as_their_twins(planes: Planes, name: str) -> None:
    """Dispatched, and undispatched under the built-in controller of the management plane."""
    manifest = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text())
    manifest["metadata"]["namespace"] = planes.namespace
    manifest["spec"]["managedBy"] = MANAGED_BY
    twin = json.loads(json.dumps(manifest))
    del twin["spec"]["managedBy"]
    twin["metadata"]["name"] = "twin"
    await planes.create(manifest)
    await planes.create(twin)
    ended = await planes.job_when(manifest["metadata"]["name"], is_complete)
    expected = await planes.job_when("twin", is_complete)
    assert summary(ended) == summary(expected)


async def test_a_failure_everywhere_is_one_backoff_limit(planes: Planes) -> None:
    script = [{"exit": 1}]
    await planes.create(ours(planes, "failing", script=script, parallelism=3, completions=3, backoffLimit=1))
    failed = await planes.job_when("failing", lambda job: condition(job, "Failed") is not None)
    assert (condition(failed, "Failed") or {})["reason"] == "BackoffLimitExceeded"
    assert failed["status"]["failed"] == 3
    assert "active" not in failed["status"]


async def test_ttl_stays_on_the_management_cluster(planes: Planes) -> None:
    job = await planes.create(ours(planes, "ttl", parallelism=2, completions=2, ttlSecondsAfterFinished=1))
    uid = job["metadata"]["uid"]
    await planes.job_when("ttl", is_dispatched)
    assert all("ttlSecondsAfterFinished" not in mirror["spec"] for mirror in await planes.mirrors(uid))
    await planes.job_when("ttl", lambda job: job is None)
    assert await planes.mirrors(uid) == []


async def test_a_finished_mirror_that_somebody_deletes_is_not_run_again(planes: Planes) -> None:
    uid = (await planes.create(ours(planes, "done", parallelism=3, completions=3)))["metadata"]["uid"]
    ended = await planes.job_when("done", is_complete)
    for api in planes.workers:
        mirror = (await jobs.get_job(api, planes.namespace, "done")).body
        assert mirror is not None
        assert (await jobs.delete_job(api, planes.namespace, "done", mirror["metadata"]["uid"])).ok
    # Another Job's whole life: whatever was to be done about the first is done by then.
    await planes.create(ours(planes, "later", parallelism=3, completions=3))
    await planes.job_when("later", is_complete)
    assert await planes.mirrors(uid) == []
    found = await planes.job_when("done", lambda job: job is not None)
    assert found["status"] == ended["status"]


async def test_a_running_mirror_that_somebody_deletes_is_made_again_for_the_rest(planes: Planes) -> None:
    script = [{"nth": "0", "exit": 0}, {"exit": None}]
    job = ours(planes, "cut", script=script, parallelism=3, completions=6)
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("cut", lambda job: ((job or {}).get("status") or {}).get("succeeded") == 3)
    api = planes.workers[0]
    old = (await jobs.get_job(api, planes.namespace, "cut")).body
    assert old is not None
    assert (await jobs.delete_job(api, planes.namespace, "cut", old["metadata"]["uid"])).ok
    new = await planes.job_when(
        "cut",
        lambda job: job is not None and job["metadata"]["uid"] != old["metadata"]["uid"],
        on=api,
    )
    assert new["spec"]["completions"] == old["spec"]["completions"] - 1
    found = await planes.job_when("cut", lambda job: job is not None)
    assert found["status"]["succeeded"] >= 3
    assert len(await planes.mirrors(uid)) == 3


async def test_labels_taken_from_a_mirror_are_put_back(planes: Planes) -> None:
    job = ours(planes, "stripped", script=NEVER_ENDS, parallelism=3, completions=3)
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("stripped", is_dispatched)
    before = {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)}
    api = planes.workers[0]
    patch = {"metadata": {"labels": {names.ORIGIN_LABEL: None}}}
    assert (await jobs.patch_job(api, planes.namespace, "stripped", patch)).ok
    await planes.job_when(
        "stripped", lambda job: names.ORIGIN_LABEL in (job or {})["metadata"]["labels"], on=api
    )
    assert {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)} == before


async def test_a_namespace_missing_on_a_worker_is_told_and_waited_for(planes: Planes) -> None:
    only_here = f"only-{uuid.uuid4().hex[:8]}"
    namespace = {"metadata": {"name": only_here}}
    assert (await jobs.create_namespace(planes.management, namespace)).ok
    job = make_job("waiting", managed_by=MANAGED_BY, namespace=only_here, parallelism=3, completions=3)
    created = await planes.create(job)
    told = await planes.job_when(
        "waiting", has_reason(names.DISPATCHED, "NamespaceMissing"), namespace=only_here
    )
    assert only_here in (condition(told, names.DISPATCHED) or {})["message"]
    for api in planes.workers:
        assert (await jobs.create_namespace(api, namespace)).ok
    await planes.job_when("waiting", is_complete, namespace=only_here)
    uid = created["metadata"]["uid"]
    assert (await jobs.delete_job(planes.management, only_here, "waiting", uid)).ok
    await planes.job_when("waiting", lambda job: job is None, namespace=only_here)


async def test_a_foreign_job_of_the_same_name_is_never_touched(planes: Planes) -> None:
    api = planes.workers[0]
    stranger = make_job("taken", managed_by=None, namespace=planes.namespace, suspend=True)
    await planes.create(stranger, on=api)
    theirs = await planes.job_when("taken", lambda job: condition(job, "Suspended") is not None, on=api)
    uid = (await planes.create(ours(planes, "taken", parallelism=3, completions=3)))["metadata"]["uid"]
    await planes.job_when("taken", is_complete)
    await planes.event_when("taken", "MirrorNameTaken")
    mirror_names = {mirror["metadata"]["name"] for mirror in await planes.mirrors(uid)}
    assert len(mirror_names) == 2
    still = await planes.job_when("taken", lambda job: job is not None, on=api)
    assert still["metadata"]["resourceVersion"] == theirs["metadata"]["resourceVersion"]


async def test_a_worker_that_refuses_the_mirror_is_told(planes: Planes) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none", "namespace": planes.namespace},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    path = f"/api/v1/namespaces/{planes.namespace}/resourcequotas"
    api = planes.workers[0]
    assert (await api.request("POST", path, body=quota)).ok
    await planes.refused_when_created(api)
    await planes.create(ours(planes, "refused", parallelism=3, completions=3))
    told = await planes.job_when("refused", has_reason(names.DISPATCHED, "MirrorForbidden"))
    assert "quota" in (condition(told, names.DISPATCHED) or {})["message"]
    assert (await api.request("DELETE", f"{path}/none")).ok
    await planes.job_when("refused", is_complete)


@pytest.mark.parametrize("text", [None, "{not json", '{"version":1,"jobUID":"of-another","shares":[]}'])
async def test_a_spoilt_placement_is_rebuilt_and_nothing_runs_again(planes: Planes, text: str | None) -> None:
    job = ours(planes, "spoilt", script=NEVER_ENDS, parallelism=3, completions=6)
    uid = (await planes.create(job))["metadata"]["uid"]
    before = await planes.job_when(
        "spoilt", lambda job: ((job or {}).get("status") or {}).get("active") == 3 and is_dispatched(job)
    )
    mirrors = {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)}
    patch = {"metadata": {"annotations": {names.PLACEMENT_ANNOTATION: text}}}
    assert (await jobs.patch_job(planes.management, planes.namespace, "spoilt", patch)).ok
    placement = json.loads(before["metadata"]["annotations"][names.PLACEMENT_ANNOTATION])

    def rebuilt(job: dict[str, Any] | None) -> bool:
        annotations = (job or {})["metadata"].get("annotations", {})
        found = annotations.get(names.PLACEMENT_ANNOTATION, "")
        return f'"jobUID":"{uid}"' in found and len(json.loads(found)["shares"]) == len(placement["shares"])

    await planes.job_when("spoilt", rebuilt)
    assert {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)} == mirrors
    await planes.event_when("spoilt", "PlacementRebuilt")


async def test_deletion_can_leave_the_mirrors(planes: Planes) -> None:
    job = ours(planes, "kept", script=NEVER_ENDS, parallelism=3, completions=3)
    job["metadata"]["annotations"] = {names.DELETION_ANNOTATION: "Orphan"}
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("kept", is_dispatched)
    await planes.delete("kept")
    await planes.job_when("kept", lambda job: job is None)
    for api in planes.workers:
        left = await jobs.get_job(api, planes.namespace, "kept")
        assert left.ok
        assert left.body is not None
        assert uid not in json.dumps(left.body["metadata"].get("labels", {}))
