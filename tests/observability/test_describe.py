"""`kubectl describe job` alone tells what became of a Job, and many Jobs in one trouble are no flood of Events."""

import asyncio
import contextlib
import functools
import json
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path
from dispatcher.core import names
from hack.conformance.planes import Plane as Kubelets
from hack.conformance.planes import is_running
from hack.lab import Lab
from hack.running.controller import Controller
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
LONG_SECONDS = 240.0
"""For a machine that is busy with other things."""
MANY = 200
WAITS = {"ClusterUnreachable", "NoShare"}
"""Placed before the cluster was known to be away, or after it."""
EVENT = re.compile(r"^ +(Normal|Warning) +(\S+) +\S+(?: \(x\d+ over \S+\))? +job-dispatcher +(.*)$")


def on(*clusters: str) -> dict[str, str]:
    """The annotation that keeps a Job on these clusters."""
    weights = {"clusters": {cluster: {"weight": 1} for cluster in clusters}}
    return {names.PREFERENCES_ANNOTATION: json.dumps(weights)}


async def change_cluster(planes: Planes, name: str, patch: dict[str, Any]) -> None:
    path = resource_path(API, "workerclusters", name=name)
    reply = await planes.management.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
    assert reply.ok, reply


async def set_capacity(planes: Planes, clusters: Iterable[str], parallelism: int | None) -> None:
    capacity = None if parallelism is None else {"parallelism": parallelism}
    for name in clusters:
        await change_cluster(planes, name, {"spec": {"capacity": capacity}})


@contextlib.asynccontextmanager
async def hanging(lab: Lab, planes: Planes, number: int) -> AsyncIterator[None]:
    """Within it a worker's API server does not answer, and the dispatcher knows."""
    plane = lab.worker(number)
    plane.apiserver.pause()
    try:
        await ready_is(planes, plane.name, "False")
        yield
    finally:
        plane.apiserver.resume()
    await ready_is(planes, plane.name, "True")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG_SECONDS):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.5)


async def ready_is(planes: Planes, cluster: str, status: str) -> None:
    async def holds() -> bool:
        reply = await planes.management.get(resource_path(API, "workerclusters", name=cluster))
        return (condition(reply.body, "Ready") or {}).get("status") == status

    await until(holds)


def described(lab: Lab, namespace: str, name: str) -> str:
    """What kubectl says."""
    command = [str(lab.kubectl), "--kubeconfig", str(lab.management.kubeconfig)]
    command += ["describe", "job", name, "-n", namespace]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=LONG_SECONDS).stdout


async def finish_pods(api: ApiServer, planes: Planes, name: str) -> None:
    """End the Job's running pods with success, as their kubelets would, until the Job is complete."""
    kubelets = Kubelets("", api, "")
    async with asyncio.timeout(LONG_SECONDS):
        while not is_complete((await jobs.get_job(planes.management, planes.namespace, name)).body):
            for pod in await planes.pods(api):
                if is_running(pod):
                    await kubelets.finish_pod(pod, 0)
            await asyncio.sleep(0.2)


async def test_describe_tells_the_story_of_a_job(lab: Lab, planes: Planes, controller: Controller) -> None:
    first = planes.workers[0]
    spec = {"completions": 8, "parallelism": 6}
    foreign = make_job("report", managed_by=None, namespace=planes.namespace, suspend=True)
    await planes.create(foreign, on=first)
    policy = {
        "apiVersion": API,
        "kind": "DispatchPolicy",
        "metadata": {"name": names.DEFAULT_POLICY_NAME, "namespace": planes.namespace},
        "spec": {"failover": {"after": "2s"}},
    }
    path = resource_path(API, "dispatchpolicies", namespace=planes.namespace)
    assert (await planes.management.request("POST", path, body=policy)).ok
    await set_capacity(planes, ("worker-1", "worker-2"), 2)

    async def bounded() -> bool:
        text = await asyncio.to_thread(controller.metrics)
        return all(f'capacity_pods{{cluster="worker-{number}"}} 2.0' in text for number in (1, 2))

    try:
        await until(bounded)
        job = make_job("report", managed_by=MANAGED_BY, namespace=planes.namespace, script=NEVER_ENDS, **spec)
        job["metadata"]["annotations"] = on("worker-1", "worker-2")
        await planes.create(job)
        await planes.job_when("report", is_dispatched)
        await planes.job_when("report", has_reason(names.FULLY_PLACED, "WaitingForRoom"))
        await set_capacity(planes, ("worker-1",), None)
        await planes.job_when("report", has_reason(names.FULLY_PLACED, "Placed"))
    finally:
        await set_capacity(planes, ("worker-1", "worker-2"), None)
    await planes.job_when("report", lambda found: count(found, "active") == 6)
    async with hanging(lab, planes, 2):
        await planes.event_when("report", "ShareMoved")
    await planes.event_when("report", "ClusterReturned")
    await finish_pods(first, planes, "report")
    await planes.event_when("report", "Completed")
    text = await asyncio.to_thread(described, lab, planes.namespace, "report")
    print(text)
    told = [
        found.groups() for found in map(EVENT.match, text.partition("\nEvents:")[2].splitlines()) if found
    ]
    expected = [
        ("Normal", "WaitingForRoom", r"2 of 6 parallelism and \d of 8 completions not placed: .*capacity.*"),
        (
            "Warning",
            "MirrorNameTaken",
            rf"Cluster worker-1 has a Job report of its own in namespace {planes.namespace}, "
            "which is not touched; the mirror gets another name",
        ),
        ("Normal", "Dispatched", r"Divided over 2 clusters: worker-1 \(.*\), worker-2 \(.*\)"),
        ("Normal", "Placed", "All work is placed"),
        (
            "Warning",
            "ShareLost",
            r"Cluster worker-2 is away since \S+Z \(Timeout\); what its share 1 has not done moves to other clusters",
        ),
        ("Normal", "ShareMoved", r"Work that worker-2 had not done moves to worker-1 \(.*completions \d\)"),
        ("Normal", "ClusterReturned", r"Cluster worker-2 is back; .*its mirror is removed"),
        ("Normal", "Completed", "Job completed"),
    ]
    assert [entry[:2] for entry in told] == [entry[:2] for entry in expected], text
    for (_type, _reason, message), (_, _, pattern) in zip(told, expected, strict=True):
        assert re.fullmatch(pattern, message), message
    assert (await jobs.get_job(first, planes.namespace, "report")).body is not None


async def events_by_job(planes: Planes) -> dict[str, list[str]]:
    """The reasons of all Events in the namespace, by Job; as often as each was posted or counted up."""
    found: dict[str, list[str]] = defaultdict(list)
    token = ""
    while True:
        reply = await planes.management.request(
            "GET",
            f"/api/v1/namespaces/{planes.namespace}/events",
            params={"limit": 500} | ({"continue": token} if token else {}),
        )
        body: dict[str, Any] = reply.body or {}
        for item in body["items"]:
            found[item["involvedObject"]["name"]] += [item["reason"]] * item.get("count", 1)
        token = body["metadata"].get("continue") or ""
        if not token:
            return found


async def all_jobs(planes: Planes) -> list[dict[str, Any]]:
    reply = await jobs.list_jobs(planes.management, planes.namespace)
    items: list[dict[str, Any]] = (reply.body or {})["items"]
    return items


async def all_stand_at(planes: Planes, status: str) -> None:
    """Wait until Dispatched has this status on every Job."""

    async def holds() -> bool:
        return all(
            (condition(job, names.DISPATCHED) or {}).get("status") == status for job in await all_jobs(planes)
        )

    await until(holds)


async def test_many_jobs_that_wait_for_one_cluster_cost_one_event_each_and_state(
    lab: Lab, planes: Planes, controller: Controller
) -> None:
    async def create(start: int, end: int) -> None:
        for number in range(start, end):
            job = make_job(
                f"many-{number}", managed_by=MANAGED_BY, namespace=planes.namespace, script=NEVER_ENDS
            )
            job["metadata"]["annotations"] = on("worker-2")
            await planes.create(job)

    async def looks() -> float:
        text = await asyncio.to_thread(controller.metrics)
        found = re.findall(r"^job_dispatcher_reconcile_duration_seconds_count (\S+)$", text, re.MULTILINE)
        return float(found[0])

    async def looked(enough: float) -> bool:
        return await looks() >= enough

    async def all_have(reasons: set[str]) -> bool:
        found = await events_by_job(planes)
        return len(found) == MANY and all(reasons & set(told) for told in found.values())

    plane = lab.worker(2)
    plane.apiserver.pause()  # half of them are placed before anybody knows
    try:
        await create(0, MANY // 2)
        async with hanging(lab, planes, 2):
            await create(MANY // 2, MANY)
            await all_stand_at(planes, "False")
            for turn in range(3):  # whatever makes the dispatcher look again is no news on the Job
                enough = await looks() + MANY
                await change_cluster(planes, "worker-1", {"metadata": {"labels": {"turn": str(turn)}}})
                await until(functools.partial(looked, enough))
            await until(lambda: all_have(WAITS))
            waiting = await events_by_job(planes)
    finally:
        plane.apiserver.resume()
        await change_cluster(planes, "worker-1", {"metadata": {"labels": {"turn": None}}})
    assert {len(reasons) for reasons in waiting.values()} == {1}, Counter(map(tuple, waiting.values()))
    await all_stand_at(planes, "True")
    await until(lambda: all_have({"Dispatched"}))
    after = await events_by_job(planes)
    # A POST that is not answered while the cluster comes back is one state more.
    assert all(len(set(reasons)) == len(reasons) for reasons in after.values()), Counter(
        map(tuple, after.values())
    )
    assert {reason for reasons in after.values() for reason in reasons} <= {*WAITS, "Dispatched"}
