"""Capacities on real planes: never exceeded at any observed moment, and no room lies idle while Jobs wait."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dispatcher.clusters.client import MERGE_PATCH, resource_path
from dispatcher.core import names
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import (
    MANAGED_BY,
    NEVER_ENDS,
    Planes,
    condition,
    has_reason,
    is_complete,
    is_dispatched,
    make_job,
)

pytestmark = pytest.mark.lab

CAPACITIES = (10, 20, 30)
SIZES = (1, 2, 3, 4, 6, 8)
SECONDS = 25
"""How long one pod runs."""


async def _set_capacity(planes: Planes, worker: int, parallelism: int | None) -> None:
    path = resource_path(
        f"{names.API_GROUP}/{names.API_VERSION}", "workerclusters", name=f"worker-{worker + 1}"
    )
    body = {"spec": {"capacity": None if parallelism is None else {"parallelism": parallelism}}}
    reply = await planes.management.request("PATCH", path, body=body, content_type=MERGE_PATCH)
    assert reply.ok, reply


@pytest.fixture(scope="module")
def controller(lab: Lab) -> Iterator[Controller]:
    """A dispatcher that reads PriorityClasses."""
    running = Controller.start(lab, managed_by=MANAGED_BY, options=["--priority-order"])
    yield running
    running.stop()


@pytest.fixture
async def urgent(planes: Planes) -> AsyncIterator[str]:
    """The name of a PriorityClass on the management plane."""
    path = resource_path("scheduling.k8s.io/v1", "priorityclasses")
    body = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": planes.namespace},
        "value": 1000,
    }
    reply = await planes.management.request("POST", path, body=body)
    assert reply.ok, reply
    yield planes.namespace
    await planes.management.request("DELETE", f"{path}/{planes.namespace}")


@pytest.fixture
async def bounded(planes: Planes) -> AsyncIterator[Planes]:
    """The planes with capacities, taken off again at the end."""
    for worker in range(len(planes.workers)):
        await _set_capacity(planes, worker, CAPACITIES[worker])
    yield planes
    await planes.delete_all()
    for worker in range(len(planes.workers)):
        await _set_capacity(planes, worker, None)


async def _active_pods(planes: Planes, worker: int) -> int:
    reply = await planes.workers[worker].request(
        "GET",
        resource_path("v1", "pods", namespace=planes.namespace),
        params={"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"},
    )
    assert reply.ok, reply
    pods = (reply.body or {})["items"]
    return sum("deletionTimestamp" not in pod["metadata"] for pod in pods)


def _job(planes: Planes, name: str, **spec: Any) -> dict[str, Any]:
    return make_job(name, managed_by=MANAGED_BY, namespace=planes.namespace, **spec)


async def _overhead(planes: Planes) -> float:
    """What one Job takes beyond its pod's own time."""
    begun = time.monotonic()
    await planes.create(_job(planes, "alone", script=[{"after": "1s", "exit": 0}]))
    await planes.job_when("alone", is_complete)
    return time.monotonic() - begun - 1


async def test_sixty_jobs_on_bounded_clusters(bounded: Planes) -> None:
    overhead = await _overhead(bounded)
    jobs = []
    room = sum(CAPACITIES[: len(bounded.workers)])
    for number in range(room):  # four pods for each place: whole waves, so that none stands half empty
        size = SIZES[number % len(SIZES)]
        parallelism = max(1, size // 2) if number < room // 3 else size
        mode = "Indexed" if number % 3 == 0 else "NonIndexed"
        spec = {"parallelism": parallelism, "completions": size, "completionMode": mode}
        jobs.append(_job(bounded, f"job-{number}", script=[{"after": f"{SECONDS}s", "exit": 0}], **spec))
    work = sum(job["spec"]["completions"] for job in jobs) * SECONDS
    most = [0] * len(bounded.workers)
    over = False

    async def watch_pods() -> None:
        while not over:
            for worker in range(len(bounded.workers)):
                most[worker] = max(most[worker], await _active_pods(bounded, worker))
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch_pods())
    begun = time.monotonic()
    for job in jobs:
        await bounded.create(job)
    await asyncio.sleep(0)
    path = resource_path("batch/v1", "jobs", namespace=bounded.namespace)
    while True:
        reply = await bounded.management.get(path)
        found = (reply.body or {})["items"]
        if all(is_complete(job) for job in found):
            break
        assert time.monotonic() - begun < 10 * work / room, "not done in ten times the time"
        await asyncio.sleep(0.5)
    makespan = time.monotonic() - begun
    over = True
    await watching
    assert sum(job["status"]["succeeded"] for job in found) == work // SECONDS + 1
    for bound, seen in zip(CAPACITIES, most, strict=False):
        assert seen <= bound
    assert most == list(CAPACITIES[: len(most)])  # full at times, or the bound shows nothing
    print(f"makespan {makespan:.1f} s, ideal {work / room:.1f} s, one Job's overhead {overhead:.1f} s")
    assert makespan <= 1.15 * work / room + overhead


async def test_what_does_not_fit_waits_and_is_placed_when_room_comes(bounded: Planes) -> None:
    room = sum(CAPACITIES[: len(bounded.workers)])
    first = _job(bounded, "first", script=NEVER_ENDS, parallelism=room - 1, completions=room - 1)
    await bounded.create(first)
    await bounded.job_when("first", is_dispatched)
    script = [{"after": "1s", "exit": 0}]
    await bounded.create(_job(bounded, "second", script=script, parallelism=3, completions=6))
    found = await bounded.job_when("second", lambda job: condition(job, names.FULLY_PLACED) is not None)
    waiting = condition(found, names.FULLY_PLACED) or {}
    assert (waiting["status"], waiting["reason"]) == ("False", "WaitingForRoom")
    assert waiting["message"].startswith("2 of 3 parallelism and 4 of 6 completions not placed: no room on ")
    await bounded.job_when("second", is_dispatched)
    await bounded.create(_job(bounded, "third", script=NEVER_ENDS, parallelism=1, completions=1))
    third = await bounded.job_when("third", has_reason(names.DISPATCHED, "WaitingForRoom"))
    assert "startTime" not in third["status"]
    await bounded.delete("first")
    await bounded.job_when("second", is_complete)
    await bounded.job_when("third", is_dispatched)


async def test_the_pods_priority_class_decides_who_is_next(bounded: Planes, urgent: str) -> None:
    room = sum(CAPACITIES[: len(bounded.workers)])
    size = {"parallelism": room, "completions": room, "script": NEVER_ENDS}
    await bounded.create(_job(bounded, "running", **size))
    await bounded.job_when("running", is_dispatched)
    for name in ("early", "urgent"):
        job = _job(bounded, name, **size)
        if name == "urgent":
            # Admission looks for the class where pods are made, and this one is on the management plane only.
            job["spec"]["template"]["spec"]["priorityClassName"] = urgent
        await bounded.create(job)
        await bounded.job_when(name, has_reason(names.DISPATCHED, "WaitingForRoom"))
    await bounded.delete("running")
    placed = await bounded.job_when("urgent", lambda job: names.PLACEMENT_ANNOTATION in _annotations(job))
    assert "startTime" in placed["status"]
    early = await bounded.job_when("early", has_reason(names.DISPATCHED, "WaitingForRoom"))
    assert "startTime" not in early["status"]


def _annotations(job: dict[str, Any] | None) -> dict[str, str]:
    return (job or {"metadata": {}})["metadata"].get("annotations") or {}
