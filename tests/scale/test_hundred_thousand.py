"""One Indexed Job of 100,000 completions over ten worker clusters, on real API servers.

No Job controller and no pods: the test itself writes what each mirror's controller would, so that the
size of what we read and write is tried without 100,000 pods.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.core import names
from dispatcher.core.actions import STRATEGIC_MERGE_PATCH
from dispatcher.core.indexes import IndexSet
from hack.lab import Lab
from hack.running.controller import Controller

COMPLETIONS = 100_000
CLUSTERS = 10
NAME = "hundred-thousand"
MOMENT = "2026-01-01T00:00:00Z"
MAX_ANNOTATION = 64 * 1024

JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": NAME, "namespace": "default"},
    "spec": {
        "managedBy": names.DEFAULT_MANAGED_BY,
        "completionMode": "Indexed",
        "completions": COMPLETIONS,
        "parallelism": 1000,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}},
    },
}


@pytest.fixture(scope="module")
def wide_lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Ten workers without nodes, their Job controllers stopped."""
    lab = Lab.up(tmp_path_factory.mktemp("wide"), workers=CLUSTERS, nodes="none")
    try:
        for worker in lab.workers:
            worker.controller_manager.kill()
        yield lab
    finally:
        lab.down()


async def connected(kubeconfig: Path) -> ApiServer:
    return ApiServer(await load_kubeconfig_file(kubeconfig))


@pytest.fixture
async def apis(wide_lab: Lab) -> AsyncIterator[list[ApiServer]]:
    """The management API server, then the workers'."""
    servers = [await connected(plane.kubeconfig) for plane in wide_lab.planes]
    yield servers
    for server in servers:
        await server.close()


async def job_when(
    api: ApiServer, condition: Callable[[dict[str, Any]], bool], *, within: float = 60.0
) -> dict[str, Any]:
    """The Job once it meets a condition; asked for again and again, for at most ``within`` seconds."""
    found: dict[str, Any] | None = None
    async with asyncio.timeout(within):
        while True:
            reply = await jobs.get_job(api, "default", NAME)
            found = reply.body if reply.ok else None
            if found is not None and condition(found):
                return found
            await asyncio.sleep(0.2)


def is_true(job: dict[str, Any], condition: str) -> bool:
    entries = job.get("status", {}).get("conditions", ())
    return any(entry["type"] == condition and entry["status"] == "True" for entry in entries)


async def report(api: ApiServer, own: IndexSet, done: IndexSet, *, complete: bool) -> None:
    """Write a mirror's status as its Job controller would: ``done`` of its ``own`` indexes have succeeded."""
    mirror = await job_when(api, lambda found: not found["spec"]["suspend"])
    seeded = IndexSet.parse(mirror["status"]["completedIndexes"]) - own
    assert len(seeded) == COMPLETIONS - len(own), "the seed is everything that other clusters run"
    completed = seeded | done
    status: dict[str, Any] = {
        "startTime": MOMENT,
        "active": 0 if complete else 100,
        "ready": 0 if complete else 100,
        "succeeded": len(completed),
        "completedIndexes": completed.format(),
    }
    if complete:
        moment = {"status": "True", "lastTransitionTime": MOMENT, "lastProbeTime": MOMENT}
        end = {"reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}
        status["completionTime"] = MOMENT
        status["conditions"] = [
            {"type": "SuccessCriteriaMet", **end, **moment},
            {"type": "Complete", **end, **moment},
        ]
    reply = await jobs.patch_job(
        api,
        "default",
        NAME,
        {"status": status},
        content_type=STRATEGIC_MERGE_PATCH,
        subresource="status",
    )
    assert reply.ok, reply


async def test_a_hundred_thousand_indexes_over_ten_clusters(wide_lab: Lab, apis: list[ApiServer]) -> None:
    management, *workers = apis
    controller = Controller.start(wide_lab)
    try:
        assert (await jobs.create_job(management, "default", JOB)).ok
        job = await job_when(management, lambda found: is_true(found, names.DISPATCHED))
        placement = json.loads(job["metadata"]["annotations"][names.PLACEMENT_ANNOTATION])
        by_name = dict(zip((plane.name for plane in wide_lab.workers), workers, strict=True))
        workers = [by_name[share["cluster"]] for share in placement["shares"]]
        own = [IndexSet.parse(share["indexes"]) for share in placement["shares"]]
        assert len(own) == CLUSTERS
        assert sum(map(len, own)) == COMPLETIONS
        assert all(len(indexes.intervals) == 1 for indexes in own)

        # The worst text: every other index of each share.
        scattered = [IndexSet.of(range(part.intervals[0][0], part.intervals[0][1] + 1, 2)) for part in own]
        await asyncio.gather(
            *(
                report(api, part, done, complete=False)
                for api, part, done in zip(workers, own, scattered, strict=True)
            )
        )
        half = sum(map(len, scattered))
        job = await job_when(management, lambda found: found["status"].get("succeeded") == half)
        assert len(IndexSet.parse(job["status"]["completedIndexes"])) == half
        assert job["status"]["active"] == 100 * CLUSTERS
        assert len(job["metadata"]["annotations"][names.PLACEMENT_ANNOTATION]) < MAX_ANNOTATION

        await asyncio.gather(
            *(report(api, part, part, complete=True) for api, part in zip(workers, own, strict=True))
        )
        job = await job_when(management, lambda found: is_true(found, "Complete"))
        assert job["status"]["succeeded"] == COMPLETIONS
        assert job["status"]["completedIndexes"] == f"0-{COMPLETIONS - 1}"
        assert len(job["metadata"]["annotations"][names.PLACEMENT_ANNOTATION]) < MAX_ANNOTATION
        assert "job_dispatcher_status_writes_rejected_total{" not in controller.metrics()
    finally:
        controller.stop()
