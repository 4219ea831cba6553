"""What a running process says of itself: numbers that are true, logs that join, health that fails when it should."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dispatcher
from dispatcher.clusters.client import MERGE_PATCH, resource_path
from dispatcher.core import names
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import MANAGED_BY, Planes, has_reason, is_complete, make_job

pytestmark = pytest.mark.lab

API = f"{names.API_GROUP}/{names.API_VERSION}"
LONG_SECONDS = 120.0
SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@pytest.fixture(scope="module")
def controller(lab: Lab) -> Iterator[Controller]:
    """Says everything, as JSON."""
    options = ("--log-level", "debug", "--log-format", "json")
    running = Controller.start(lab, managed_by=MANAGED_BY, options=options)
    yield running
    running.stop()


class Numbers:
    """Samples of one look at /metrics."""

    def __init__(self, text: str) -> None:
        self._samples = [
            (found["name"], dict(LABEL.findall(found["labels"] or "")), float(found["value"]))
            for found in SAMPLE.finditer(text)
        ]

    def sum(self, name: str, **labels: str) -> float:
        """Over all samples of that name with these labels among theirs; that there is one is asserted."""
        found = [value for own, has, value in self._samples if own == name and labels.items() <= has.items()]
        assert found, f"no {name} with {labels}"
        return sum(found)


async def numbers(controller: Controller) -> Numbers:
    return Numbers(await asyncio.to_thread(controller.metrics))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LONG_SECONDS):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.2)


async def told(planes: Planes, name: str) -> list[str]:
    """The reasons of a Job's Events, in order."""
    reply = await planes.management.get(f"/api/v1/namespaces/{planes.namespace}/events")
    items = [item for item in (reply.body or {})["items"] if item["involvedObject"]["name"] == name]
    return [item["reason"] for item in sorted(items, key=lambda item: str(item["metadata"]["name"]))]


@contextlib.asynccontextmanager
async def capacity(planes: Planes, cluster: str, pods: int) -> AsyncIterator[None]:
    path = resource_path(API, "workerclusters", name=cluster)

    async def change(value: dict[str, int] | None) -> None:
        body = {"spec": {"capacity": value}}
        reply = await planes.management.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        assert reply.ok, reply

    await change({"parallelism": pods})
    try:
        yield
    finally:
        await change(None)


async def test_the_numbers_are_true(lab: Lab, planes: Planes, controller: Controller) -> None:
    """A process that has just started, so that all counters are of this test."""
    script = [{"nth": "0", "after": "1s", "exit": 1}, {"exit": 0}]
    for number in range(3):
        job = make_job(
            f"counted-{number}",
            managed_by=MANAGED_BY,
            namespace=planes.namespace,
            script=script,
            completions=6,
            parallelism=3,
        )
        await planes.create(job)
    waiting = make_job("waiting", managed_by=MANAGED_BY, namespace=planes.namespace)
    waiting["metadata"]["annotations"] = {names.POLICY_ANNOTATION: "there-is-none"}
    await planes.create(waiting)
    done = [await planes.job_when(f"counted-{number}", is_complete) for number in range(3)]
    await planes.job_when("waiting", has_reason(names.DISPATCHED, names.POLICY_UNUSABLE))
    mirrors = [mirror for job in done for mirror in await planes.mirrors(job["metadata"]["uid"])]

    async def posted() -> bool:
        found = await numbers(controller)
        return found.sum("job_dispatcher_events_total", outcome="posted") >= 7

    await until(posted)
    async with capacity(planes, "worker-1", 77):

        async def has_capacity() -> bool:
            return 'job_dispatcher_capacity_pods{cluster="worker-1"} 77.0' in await asyncio.to_thread(
                controller.metrics
            )

        await until(has_capacity)
    found = await numbers(controller)
    reasons = [
        reason
        for name in (*(f"counted-{number}" for number in range(3)), "waiting")
        for reason in await told(planes, name)
    ]
    assert Counter(reasons) == {"Dispatched": 3, "Completed": 3, names.POLICY_UNUSABLE: 1}
    expected = {
        ("job_dispatcher_build_info", ("version", dispatcher.__version__)): 1,
        ("job_dispatcher_jobs", ("phase", "Complete")): 3,
        ("job_dispatcher_jobs", ("phase", "Waiting")): 1,
        ("job_dispatcher_jobs",): 4,
        ("job_dispatcher_jobs_waiting", ("reason", names.POLICY_UNUSABLE)): 1,
        ("job_dispatcher_dispatch_duration_seconds_count",): 3,
        ("job_dispatcher_shares", ("state", "Finished")): len(mirrors),
        ("job_dispatcher_shares",): len(mirrors),
        ("job_dispatcher_cluster_mirrors",): len(mirrors),
        ("job_dispatcher_active_pods",): 0,
        ("job_dispatcher_completions_total",): 18,
        ("job_dispatcher_pod_failures_total",): sum(job["status"]["failed"] for job in done),
        ("job_dispatcher_cluster_ready",): len(lab.workers),
        ("job_dispatcher_events_total", ("outcome", "posted")): len(reasons),
        ("job_dispatcher_api_requests_total", ("verb", "POST"), ("resource", "jobs"), ("code", "201")): len(
            mirrors
        ),
        ("job_dispatcher_api_requests_total", ("verb", "POST"), ("resource", "events")): len(reasons),
        ("job_dispatcher_status_writes_total",): found.sum(
            "job_dispatcher_api_requests_total", cluster="", verb="PUT", code="200"
        ),
        ("job_dispatcher_failovers_total",): 0,
        ("job_dispatcher_moved_completions_total",): 0,
        ("job_dispatcher_orphans_removed_total",): 0,
        ("job_dispatcher_leader", ("shard", "0")): 1,
    }
    seen = {key: found.sum(key[0], **dict(key[1:])) for key in expected}  # type: ignore[arg-type]
    assert seen == expected
    for plane in lab.workers:
        assert found.sum("job_dispatcher_watch_idle_seconds", cluster=plane.name) < LONG_SECONDS
        assert found.sum("job_dispatcher_cluster_probe_duration_seconds_count", cluster=plane.name) > 0
        assert found.sum("job_dispatcher_api_request_duration_seconds_count", cluster=plane.name) > 0
    for metric in ("queue_depth", "queue_running", "queue_oldest_seconds", "queue_retries_total"):
        assert found.sum(f"job_dispatcher_{metric}") >= 0  # a busy machine may have had reason for a retry
    assert found.sum("job_dispatcher_longest_wait_seconds") > 0
    assert found.sum("job_dispatcher_writeback_duration_seconds_count") >= 3
    assert found.sum("job_dispatcher_reconciles_total", result="changed") > 0
    assert found.sum("process_cpu_seconds_total") > 0
    assert found.sum("process_resident_memory_bytes") > 0


def lines_of(controller: Controller, start: int) -> list[dict[str, Any]]:
    text = controller.log.read_bytes()[start:].decode()
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


async def test_a_request_id_joins_the_key_to_the_writes(
    lab: Lab, planes: Planes, controller: Controller
) -> None:
    start = controller.log.stat().st_size
    job = make_job("joined", managed_by=MANAGED_BY, namespace=planes.namespace, completions=6, parallelism=3)
    await planes.create(job)
    await planes.job_when("joined", is_complete)

    async def is_told() -> bool:
        return (await told(planes, "joined"))[-1:] == ["Completed"]

    await until(is_told)
    lines = lines_of(controller, start)
    key = f"{planes.namespace}/joined"
    looks = {line["request_id"]: line["key"] for line in lines if line["message"] == "reconcile begins"}
    assert key in looks.values()
    status = f"/apis/batch/v1/namespaces/{planes.namespace}/jobs/joined/status"
    created = f"/apis/batch/v1/namespaces/{planes.namespace}/jobs"
    writes = [
        line
        for line in lines
        if line["message"] == "request"
        and (line["method"], line["path"]) in (("PUT", status), ("POST", created))
    ]
    assert {line["server"] for line in writes if line["method"] == "POST"} == {
        plane.url for plane in lab.workers
    }
    assert len([line for line in writes if line["method"] == "PUT"]) >= 2
    assert {looks[line["request_id"]] for line in writes} == {key}
    of_job = [line for line in lines if line.get("key") == key]
    assert {looks[line["request_id"]] for line in of_job} == {key}
    changes = [line["reason"] for line in of_job if line["level"] == "info"]
    assert changes == await told(planes, "joined") == ["Dispatched", "Completed"]
    text = controller.log.read_text()
    for plane in lab.workers:
        assert plane.name in text or plane.url in text
    secrets = await planes.management.get("/api/v1/namespaces/job-dispatcher/secrets")
    contents = [value for item in (secrets.body or {})["items"] for value in item["data"].values()]
    assert contents
    assert not [content for content in contents if content[:80] in text]


class Hurried:
    """The process of hurried.py."""

    def __init__(self, controller: Controller, folder: Path) -> None:
        self.controller = controller
        self.folder = folder

    def ask(self, path: str, *, timeout: float = 60.0) -> tuple[int, str]:
        """Status and text; raises OSError where nothing answers in time."""
        try:
            with urllib.request.urlopen(f"http://{self.controller.address}{path}", timeout=timeout) as answer:
                return answer.status, str(answer.read(), "utf-8")
        except urllib.error.HTTPError as error:
            return error.code, str(error.read(), "utf-8")

    async def says(self, path: str, code: int, text: str) -> None:
        """Wait until it says so."""
        last: tuple[int, str] | None = None
        try:
            async with asyncio.timeout(LONG_SECONDS):
                while True:
                    with contextlib.suppress(OSError):
                        last = await asyncio.to_thread(self.ask, path)
                        if last[0] == code and text in last[1]:
                            return
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"{path} does not say {code} {text}, but {last}") from None


@pytest.fixture
def hurried(lab: Lab, controller: Controller, tmp_path: Path) -> Iterator[Hurried]:
    """Not synced yet."""
    running = Controller.start(
        lab,
        managed_by="jobdispatcher.io/hurried",
        options=("--concurrency", "1"),
        command=(sys.executable, str(Path(__file__).with_name("hurried.py")), str(tmp_path)),
        wait=False,
    )
    yield Hurried(running, tmp_path)
    running.stop()


async def test_health_and_readiness_fail_when_they_should(lab: Lab, planes: Planes, hurried: Hurried) -> None:
    await hurried.says("/readyz", 503, "not synced")
    (hurried.folder / "look").touch()
    await hurried.says("/readyz", 200, "ok")
    path = resource_path("v1", "secrets", namespace="job-dispatcher", name="noise")
    noise = asyncio.create_task(make_noise(planes, path))
    try:
        await hurried.says("/healthz", 200, "ok")
        await health_fails_while_work_stands_still(planes, hurried)
        await health_fails_while_the_loop_is_blocked(hurried)
        lab.management.apiserver.pause()
        try:
            await hurried.says("/healthz", 503, "nothing was heard of the management cluster")
        finally:
            lab.management.apiserver.resume()
        await hurried.says("/healthz", 200, "ok")
    finally:
        noise.cancel()
        await asyncio.wait([noise])
        await planes.management.request("DELETE", path)
        await planes.delete_all()


async def health_fails_while_work_stands_still(planes: Planes, hurried: Hurried) -> None:
    (hurried.folder / "stuck").touch()
    for number in range(3):
        job = make_job(f"stuck-{number}", managed_by="jobdispatcher.io/hurried", namespace=planes.namespace)
        await planes.create(job)
    await hurried.says("/healthz", 503, "Jobs wait, and work on none of them has ended")
    (hurried.folder / "stuck").unlink()
    await hurried.says("/healthz", 200, "ok")
    for number in range(3):
        await planes.job_when(f"stuck-{number}", is_complete)


async def health_fails_while_the_loop_is_blocked(hurried: Hurried) -> None:
    """It answers nobody: the kubelet's probe has a time limit of five seconds."""
    os.kill(hurried.controller.pid, signal.SIGUSR1)
    with pytest.raises(OSError, match="timed out"):
        await asyncio.to_thread(hurried.ask, "/healthz", timeout=5.0)
    await hurried.says("/healthz", 200, "ok")

    async def tells_of_it() -> bool:
        lag = await asyncio.to_thread(hurried.controller.metric, "job_dispatcher_event_loop_lag_seconds")
        return lag > 5

    await until(tells_of_it)


async def make_noise(planes: Planes, path: str) -> None:
    """Events for the watch that health looks at."""
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "noise"}}
    reply = await planes.management.request("POST", path.rpartition("/")[0], body=body)
    assert reply.ok, reply
    while True:
        patch = {"metadata": {"annotations": {"at": str(time.time())}}}
        await planes.management.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
        await asyncio.sleep(1)
