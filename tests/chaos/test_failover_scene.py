"""The scene that other dispatchers fail: a cluster dies in the middle of an Indexed Job, and comes back too late."""

import asyncio
import base64
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import yaml

from dispatcher.clusters import jobs
from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.core import names
from dispatcher.core.indexes import IndexSet
from hack.chaos.proxy import TcpProxy, Trouble
from hack.conformance.planes import Plane as Kubelets
from hack.conformance.planes import is_running
from hack.conformance.snapshot import INDEX
from hack.lab import Lab
from hack.lab.ports import ADDRESS
from hack.running.controller import Controller
from tests.integration.planes import NEVER_ENDS, Planes, is_complete, make_job

pytestmark = pytest.mark.lab

MANAGED_BY = "jobdispatcher.io/failover"
AFTER_SECONDS = 10.0
NOTICED_SECONDS = 10.0
"""Within so long a refused connection makes a cluster not ready."""
GONE_SECONDS = 30.0
SLACK = 20.0
"""For a busy machine."""
CLUSTERS = resource_path("jobdispatcher.io/v1alpha1", "workerclusters")
NAME = "scene"


@pytest.fixture
async def planes(lab: Lab) -> AsyncIterator[Planes]:
    """Two clusters to run on, a policy with a short failover, a dispatcher."""
    clients = [ApiServer(await load_kubeconfig_file(plane.kubeconfig)) for plane in lab.planes]
    management = clients[0]
    namespace = f"scene-{uuid.uuid4().hex[:8]}"
    spare = [plane.name for plane in lab.workers[2:]]
    for client in clients:
        assert (await jobs.create_namespace(client, {"metadata": {"name": namespace}})).ok
    policy = {
        "apiVersion": "jobdispatcher.io/v1alpha1",
        "kind": "DispatchPolicy",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"failover": {"after": f"{AFTER_SECONDS:.0f}s"}},
    }
    path = resource_path("jobdispatcher.io/v1alpha1", "dispatchpolicies", namespace=namespace)
    assert (await management.request("POST", path, body=policy)).ok
    # Before the start: a change of a cluster and a new Job come by different watches, in any order.
    await cordon(management, spare, unschedulable=True)
    controller = await asyncio.to_thread(Controller.start, lab, managed_by=MANAGED_BY)
    found = Planes(management, clients[1:], namespace=namespace)
    try:
        yield found
        rejected = "job_dispatcher_status_writes_rejected_total{"
        assert rejected not in await asyncio.to_thread(controller.metrics)
    finally:
        if not lab.worker(1).apiserver.is_running():
            await asyncio.to_thread(lab.worker(1).apiserver.start)
        await cordon(management, spare, unschedulable=False)
        await found.delete_all()
        await asyncio.to_thread(controller.stop)
        for client in clients:
            await client.request("DELETE", resource_path("v1", "namespaces", name=namespace))
            await client.close()


async def cordon(management: ApiServer, clusters: list[str], *, unschedulable: bool) -> None:
    for name in clusters:
        body = {"spec": {"unschedulable": unschedulable}}
        reply = await management.request("PATCH", f"{CLUSTERS}/{name}", body=body, content_type=MERGE_PATCH)
        assert reply.ok, reply


def index_of(pod: dict[str, Any]) -> int:
    return int(pod["metadata"]["annotations"][INDEX])


async def finish(planes: Planes, api: ApiServer, indexes: set[int]) -> set[int]:
    """End the running pods of these indexes with success, as their kubelets would; gives those it ended."""
    kubelets = Kubelets("", api, "")
    ended = set()
    for pod in await planes.pods(api):
        if is_running(pod) and index_of(pod) in indexes:
            await kubelets.finish_pod(pod, 0)
            ended.add(index_of(pod))
    return ended


async def finish_all(planes: Planes, api: ApiServer, indexes: set[int], *, seconds: float) -> None:
    """End these indexes as soon as each runs."""
    left = set(indexes)
    async with asyncio.timeout(seconds):
        while left:
            left -= await finish(planes, api, left)
            await asyncio.sleep(0.1)


async def finish_whatever_runs(planes: Planes, api: ApiServer) -> None:
    while True:
        await finish(planes, api, set(range(12)))
        await asyncio.sleep(0.1)


async def test_only_what_was_unfinished_runs_elsewhere_and_the_late_mirror_goes(
    lab: Lab, planes: Planes
) -> None:
    lost, other = planes.workers[0], planes.workers[1]
    job = make_job(
        NAME,
        managed_by=MANAGED_BY,
        namespace=planes.namespace,
        script=NEVER_ENDS,
        completionMode="Indexed",
        completions=6,
        parallelism=3,
    )
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.pods_when(lambda pods: sum(map(is_running, pods)) == 3)
    here = {index_of(pod) for pod in await planes.pods(lost)}
    there = {index_of(pod) for pod in await planes.pods(other)}
    assert min(here) == 0
    done = {min(here), min(there)}
    await finish_all(planes, lost, {min(here)}, seconds=SLACK)
    await finish_all(planes, other, {min(there)}, seconds=SLACK)
    counted = ",".join(map(str, sorted(done)))
    await planes.job_when(NAME, lambda job: (job or {}).get("status", {}).get("completedIndexes") == counted)
    await planes.pods_when(lambda pods: sum(map(is_running, pods)) == 3)
    selector = f"{names.JOB_UID_LABEL}={uid}"
    [mirror] = ((await jobs.list_jobs(lost, label_selector=selector)).body or {})["items"]
    unfinished = set(range(min(there))) - done
    rest = set(range(min(there), 6)) - done

    await asyncio.to_thread(lab.worker(1).apiserver.kill)
    killed = time.monotonic()
    elsewhere: set[int] = set()
    async with asyncio.timeout(NOTICED_SECONDS + AFTER_SECONDS + SLACK):
        while not elsewhere & unfinished:
            elsewhere = {index_of(pod) for pod in await planes.pods(other)}
            await asyncio.sleep(0.1)
    assert time.monotonic() - killed >= AFTER_SECONDS, "no sooner than the policy says"
    await finish_all(planes, other, unfinished | rest, seconds=60)
    found = await planes.job_when(NAME, is_complete)
    assert found["status"]["succeeded"] == 6
    assert found["status"]["completedIndexes"] == "0-5"
    assert found["status"].get("failed", 0) == 0
    ran = sorted(index_of(pod) for pod in await planes.pods(other))
    assert ran == sorted({*rest, *unfinished, min(there)}), (
        "nothing that was counted ran again, nothing ran twice"
    )

    await asyncio.to_thread(lab.worker(1).apiserver.start)
    back = time.monotonic()
    name = mirror["metadata"]["name"]
    async with asyncio.timeout(GONE_SECONDS):
        await planes.job_when(name, lambda job: job is None, on=lost)
    print(f"the stale mirror went {time.monotonic() - back:.1f} s after its cluster was back")
    again = await planes.job_when(NAME, is_complete)
    assert again["status"] == found["status"], "nothing is counted twice"


@pytest.fixture
async def cuttable(lab: Lab, planes: Planes) -> AsyncIterator[TcpProxy]:
    """worker-1 behind a proxy: cut off, the cluster runs on, and only the dispatcher cannot see it."""
    plane = lab.worker(1)
    port = plane.apiserver.port
    assert port is not None
    proxy = TcpProxy(port)
    await proxy.start()
    path = resource_path("v1", "secrets", namespace="job-dispatcher", name=plane.name)
    before = (await planes.management.get(path)).body
    assert before is not None
    content = yaml.safe_load(base64.b64decode(before["data"]["kubeconfig"]))
    content["clusters"][0]["cluster"]["server"] = f"https://{ADDRESS}:{proxy.port}"
    through = {"kubeconfig": base64.b64encode(yaml.safe_dump(content).encode()).decode()}
    await put(planes.management, path, {"data": through})
    try:
        yield proxy
    finally:
        proxy.set(Trouble.NONE)
        await planes.delete_all()
        await put(planes.management, path, {"data": before["data"]})
        await proxy.stop()


async def put(management: ApiServer, path: str, body: dict[str, Any]) -> None:
    reply = await management.request("PATCH", path, body=body, content_type=MERGE_PATCH)
    assert reply.ok, reply


async def test_what_a_lost_cluster_reached_meanwhile_is_used(planes: Planes, cuttable: TcpProxy) -> None:
    lost, other = planes.workers[0], planes.workers[1]
    job = make_job(
        NAME,
        managed_by=MANAGED_BY,
        namespace=planes.namespace,
        script=NEVER_ENDS,
        completionMode="Indexed",
        completions=12,
        parallelism=2,
    )
    await planes.create(job)
    await planes.pods_when(lambda pods: sum(map(is_running, pods)) == 2)
    assert {index_of(pod) for pod in await planes.pods(other)} == {6}

    cuttable.set(Trouble.CUT)
    await finish_all(planes, lost, {0, 1, 2, 3}, seconds=60)  # nobody sees it
    async with asyncio.timeout(NOTICED_SECONDS + AFTER_SECONDS + SLACK):
        while not any(index_of(pod) < 6 for pod in await planes.pods(other)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    cuttable.set(Trouble.NONE)
    # The stale mirror is stopped, counted, and what it reached is no work any more.
    await planes.job_when(NAME, lambda job: {1, 2, 3} <= completed(job))
    # Pods of the new share that run already are let run.
    ending = asyncio.create_task(finish_whatever_runs(planes, other))
    found = await planes.job_when(NAME, is_complete)
    ending.cancel()
    await asyncio.wait([ending])
    assert found["status"]["succeeded"] == 12
    assert found["status"]["completedIndexes"] == "0-11"
    ran = sorted(index_of(pod) for pod in await planes.pods(other))
    # Of the new share, up to two indexes for each of its pods may have begun.
    assert not {2, 3} & set(ran), "what was done and had not begun is not run again"
    assert len(ran) == len(set(ran)), "nothing ran twice there"


def completed(job: dict[str, Any] | None) -> set[int]:
    text = ((job or {}).get("status") or {}).get("completedIndexes", "")
    return set(IndexSet.parse(text).indexes())
