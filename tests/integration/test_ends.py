"""How Jobs fail, how they go, and what is published while they run, on real planes."""

import asyncio
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.core import names
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
    summary,
)

pytestmark = pytest.mark.lab


def is_failed(job: dict[str, Any] | None) -> bool:
    return is_true(job, "Failed")


async def with_twin(planes: Planes, name: str, **spec: Any) -> None:
    """A Job of ours, and the same one for the built-in controller of the management plane."""
    for who, value in ((name, MANAGED_BY), (f"{name}-twin", None)):
        await planes.create(make_job(who, managed_by=value, namespace=planes.namespace, **spec))


async def test_a_running_jobs_status_is_its_twins(planes: Planes) -> None:
    await with_twin(planes, "running", script=NEVER_ENDS, parallelism=3, completions=6)
    ours, twin = await asyncio.gather(
        planes.job_when("running", lambda job: count(job, "ready") == 3),
        planes.job_when("running-twin", lambda job: count(job, "ready") == 3),
    )
    assert summary(ours) == summary(twin)


FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "backoff limit": (
        "BackoffLimitExceeded",
        {"script": [{"after": "1s", "exit": 1}], "parallelism": 2, "completions": 2, "backoffLimit": 0},
    ),
    "deadline": (
        "DeadlineExceeded",
        {"script": NEVER_ENDS, "parallelism": 3, "completions": 6, "activeDeadlineSeconds": 5},
    ),
}


@pytest.mark.parametrize(("reason", "spec"), FAILURES.values(), ids=FAILURES.keys())
async def test_a_failure_ends_as_the_twins(planes: Planes, reason: str, spec: dict[str, Any]) -> None:
    await with_twin(planes, "failing", **spec)
    ours, twin = await asyncio.gather(
        planes.job_when("failing", is_failed), planes.job_when("failing-twin", is_failed)
    )
    assert (condition(ours, "Failed") or {})["reason"] == reason
    assert summary(ours) == summary(twin)
    await planes.pods_when(lambda pods: all(pod["status"].get("phase") != "Running" for pod in pods))


async def test_parallelism_raised_from_zero(planes: Planes) -> None:
    spec: dict[str, Any] = {"parallelism": 0, "completions": 6}
    job = make_job("raised", managed_by=MANAGED_BY, namespace=planes.namespace, **spec)
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("raised", is_dispatched)
    await planes.pods_when(lambda pods: not pods)
    before = {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)}
    await planes.patch("raised", {"spec": {"parallelism": 3}})
    ended = await planes.job_when("raised", is_complete)
    assert count(ended, "succeeded") == 6
    mirrors = await planes.mirrors(uid)
    assert {mirror["metadata"]["uid"] for mirror in mirrors} == before
    assert sum(count(mirror, "succeeded") for mirror in mirrors) == 6
    await planes.pods_when(lambda pods: len(pods) == 6)


@pytest.mark.parametrize("script", [None, NEVER_ENDS], ids=["finished", "running"])
async def test_deletion_takes_mirrors_and_pods(planes: Planes, script: Any) -> None:
    job = make_job(
        "going",
        managed_by=MANAGED_BY,
        namespace=planes.namespace,
        script=script,
        parallelism=3,
        completions=3,
    )
    uid = (await planes.create(job))["metadata"]["uid"]
    found = await planes.job_when(
        "going", is_complete if script is None else lambda job: count(job, "ready") == 3
    )
    assert names.FINALIZER in found["metadata"]["finalizers"]
    assert len(await planes.mirrors(uid)) == 3
    await planes.pods_when(lambda pods: len(pods) == 3)
    await planes.delete("going")
    await planes.job_when("going", lambda job: job is None)
    assert await planes.mirrors(uid) == [], "the finalizer went before the mirrors"
    for api in planes.workers:
        assert not (await jobs.get_job(api, planes.namespace, "going")).ok
    await planes.pods_when(lambda pods: not pods)
