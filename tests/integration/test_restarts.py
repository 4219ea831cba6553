"""Killed between any two of its writes, and started again: the same end, nothing doubled, nothing left."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.core import names
from dispatcher.operator.faults import VARIABLE
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import Planes, is_complete, make_job

pytestmark = pytest.mark.lab

NAMESPACE = "default"
COMPLETIONS = 4
SIDE_BY_SIDE = 3
MOST_WRITES = 40


@pytest.fixture
async def planes(lab: Lab) -> AsyncIterator[Planes]:
    clients = [ApiServer(await load_kubeconfig_file(plane.kubeconfig)) for plane in lab.planes]
    yield Planes(clients[0], clients[1:], namespace=NAMESPACE)
    for client in clients:
        await client.close()


async def live_until_end_or_crash(planes: Planes, name: str, controller: Controller, managed_by: str) -> bool:
    """A Job's whole life under a controller that may crash. Returns whether it crashed."""

    async def life() -> None:
        job = make_job(
            name,
            managed_by=managed_by,
            namespace=NAMESPACE,
            parallelism=2,
            completions=COMPLETIONS,
            completionMode="Indexed",
        )
        assert (await jobs.create_job(planes.management, NAMESPACE, job)).ok
        found = await planes.job_when(name, is_complete)
        await check_completed(planes, found)
        uid = found["metadata"]["uid"]
        assert (await jobs.delete_job(planes.management, NAMESPACE, name, uid)).ok
        await planes.job_when(name, lambda job: job is None)

    async def crash() -> None:
        while controller.is_running:  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.05)

    living, crashing = asyncio.create_task(life()), asyncio.create_task(crash())
    done, pending = await asyncio.wait([living, crashing], return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    if living in done:
        living.result()
        return not controller.is_running
    return True


async def check_completed(planes: Planes, job: dict[str, Any]) -> None:
    """Every index once, each mirror once."""
    assert job["status"]["succeeded"] == COMPLETIONS
    assert job["status"]["completedIndexes"] == f"0-{COMPLETIONS - 1}"
    mirrors = await planes.mirrors(job["metadata"]["uid"])
    shares = [mirror["metadata"]["labels"][names.SHARE_LABEL] for mirror in mirrors]
    assert sorted(shares) == sorted(set(shares)), "a share has one mirror"
    placement = json.loads(job["metadata"]["annotations"][names.PLACEMENT_ANNOTATION])
    assert {str(share["id"]) for share in placement["shares"]} == set(shares)
    pods = 0
    for api in planes.workers:
        reply = await api.get(f"/api/v1/namespaces/{NAMESPACE}/pods")
        owners = {mirror["metadata"]["uid"] for mirror in mirrors}
        pods += sum(
            any(ref["uid"] in owners for ref in pod["metadata"].get("ownerReferences", ()))
            for pod in (reply.body or {})["items"]
        )
    assert pods == COMPLETIONS, "no index ran twice"


async def crash_at(lab: Lab, planes: Planes, number: int, moment: str) -> bool:
    """Crash at one write, start again, see the Job's life through. Returns whether that write was reached."""
    name = f"walk-{number}-{moment}"
    managed_by = f"jobdispatcher.io/{name}"
    controller = await asyncio.to_thread(
        Controller.start, lab, managed_by=managed_by, environment={VARIABLE: f"{number}:{moment}"}
    )
    try:
        if not await live_until_end_or_crash(planes, name, controller, managed_by):
            return False
        before = (await jobs.get_job(planes.management, NAMESPACE, name)).body
        controller = await asyncio.to_thread(Controller.start, lab, managed_by=managed_by)
        if (
            before is not None
            and before.get("kind") == "Job"
            and "deletionTimestamp" not in before["metadata"]
        ):
            found = await planes.job_when(name, is_complete)
            await check_completed(planes, found)
            uid = found["metadata"]["uid"]
            assert (await jobs.delete_job(planes.management, NAMESPACE, name, uid)).ok
        await planes.job_when(name, lambda job: job is None)
        for api in planes.workers:
            left = await jobs.get_job(api, NAMESPACE, name)
            assert not left.ok, "no orphan is left"
        rejected = "job_dispatcher_status_writes_rejected_total{"
        assert rejected not in await asyncio.to_thread(controller.metrics)
        return True
    finally:
        await asyncio.to_thread(controller.stop)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_crash_at_any_write_changes_nothing(lab: Lab, planes: Planes, moment: str) -> None:
    """Walks through every write of a Job's life, from the claim to the finalizer's removal."""
    number = 1
    while True:
        walk = range(number, number + SIDE_BY_SIDE)
        reached = await asyncio.gather(*(crash_at(lab, planes, n, moment) for n in walk))
        number += SIDE_BY_SIDE
        if not all(reached):
            break
        assert number < MOST_WRITES, "a Job's life takes fewer writes"
    writes = number - SIDE_BY_SIDE + sum(reached) - 1
    # The claim, two mirrors with POST, seed and resume each, a status, two deletions and the finalizer.
    assert writes >= 10


async def write_requests(planes: Planes) -> dict[str, int]:
    """By plane: writes of Jobs that its API server has answered so far, by any account."""
    counts: dict[str, int] = {}
    for api in (planes.management, *planes.workers):
        for line in (await metrics_text(api)).splitlines():
            if not line.startswith("apiserver_request_total{") or 'resource="jobs"' not in line:
                continue
            if any(f'verb="{verb}"' in line for verb in ("POST", "PUT", "PATCH", "DELETE")):
                counts[api.server] = counts.get(api.server, 0) + int(float(line.rsplit(" ", 1)[1]))
    return counts


async def metrics_text(api: ApiServer) -> str:
    async with api.send("GET", "/metrics") as response:
        return str(await response.read(), "utf-8")


async def test_a_restart_with_nothing_changed_writes_nothing(lab: Lab, planes: Planes) -> None:
    managed_by = "jobdispatcher.io/quiet"
    ours: Any = {"managed_by": managed_by, "namespace": NAMESPACE}
    running = make_job("quiet-running", **ours, script=[{"exit": None}], parallelism=2, completions=6)
    finished = make_job("quiet-finished", **ours, parallelism=2, completions=4)
    controller = await asyncio.to_thread(Controller.start, lab, managed_by=managed_by)
    try:
        for job in (running, finished):
            assert (await jobs.create_job(planes.management, NAMESPACE, job)).ok
        await planes.job_when("quiet-finished", is_complete)
        settled = await planes.job_when(
            "quiet-running", lambda job: ((job or {}).get("status") or {}).get("ready") == 2
        )
        controller.kill()
        before = await write_requests(planes)
        controller = await asyncio.to_thread(Controller.start, lab, managed_by=managed_by)
        # A change that must be seen proves that everything before it was looked at.
        probe = make_job("quiet-probe", **ours, suspend=True)
        assert (await jobs.create_job(planes.management, NAMESPACE, probe)).ok
        await planes.job_when(
            "quiet-probe", lambda job: bool((job or {}).get("status", {}).get("conditions"))
        )
        after = await write_requests(planes)
        found = await planes.job_when("quiet-running", lambda job: job is not None)
        assert found["metadata"]["resourceVersion"] == settled["metadata"]["resourceVersion"]
        changed = {server: after[server] - before.get(server, 0) for server in after}
        # The probe's own POST and its one status write.
        assert sum(changed.values()) == 2
    finally:
        for name in ("quiet-running", "quiet-finished", "quiet-probe"):
            found = await planes.job_when(name, lambda _job: True)
            if found is not None:
                await jobs.delete_job(planes.management, NAMESPACE, name, found["metadata"]["uid"])
        if controller.is_running:
            for name in ("quiet-running", "quiet-finished", "quiet-probe"):
                await planes.job_when(name, lambda job: job is None)
        await asyncio.to_thread(controller.stop)
