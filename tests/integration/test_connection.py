"""Connections to real API servers: what they answer, and how soon their loss and return are noticed."""

import asyncio
import contextlib
import datetime
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import JSON_PATCH, ApiServer, resource_path
from dispatcher.clusters.health import HealthReason
from dispatcher.clusters.kubeconfig import Credentials, load_kubeconfig_file, parse_kubeconfig
from dispatcher.clusters.reply import Manifest, Outcome
from dispatcher.clusters.worker import WorkerConnection
from hack.lab import Lab

pytestmark = pytest.mark.lab

NAMESPACE = "connection-test"
LABEL = "connection-test.jobdispatcher.io/run"


@pytest.fixture
def run() -> str:
    """Labels what one test makes."""
    return uuid.uuid4().hex[:8]


def credentials(lab: Lab, worker: int = 1) -> Credentials:
    return parse_kubeconfig(lab.worker(worker).kubeconfig.read_bytes())


@pytest.fixture
async def api(lab: Lab) -> AsyncIterator[ApiServer]:
    client = ApiServer.from_credentials(credentials(lab))
    reply = await jobs.create_namespace(client, {"metadata": {"name": NAMESPACE}})
    assert reply.outcome in (Outcome.OK, Outcome.ALREADY_EXISTS)
    yield client
    await client.close()


def make_job(name: str, run: str) -> Manifest:
    """Suspended, so that nothing but the test changes it much."""
    container = {"name": "c", "image": "example.com/none"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{name}-{run}", "namespace": NAMESPACE, "labels": {LABEL: run}},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        },
    }


@contextlib.asynccontextmanager
async def connected(
    lab: Lab, run: str, *, worker: int = 1, replaced: Credentials | None = None
) -> AsyncIterator[WorkerConnection]:
    connection = WorkerConnection(
        f"worker-{worker}",
        ApiServer.from_credentials(replaced or credentials(lab, worker)),
        ObjectCache(),
        label_selector=f"{LABEL}={run}",
        now=lambda: datetime.datetime.now(datetime.UTC),
    )
    connection.start()
    try:
        yield connection
    finally:
        await connection.stop()


async def until(condition: Callable[[], Any], *, seconds: float) -> float:
    """Seconds until the condition came true."""
    started = time.monotonic()
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.01)
    return time.monotonic() - started


async def test_answers_of_a_real_api_server(api: ApiServer, run: str) -> None:
    manifest = make_job("a", run)
    created = await jobs.create_job(api, NAMESPACE, manifest | {"status": {}})
    assert (created.outcome, created.code) == (Outcome.OK, 201)
    assert created.body is not None
    body: Manifest = created.body
    name, uid = body["metadata"]["name"], body["metadata"]["uid"]

    again = make_job("a", run)
    again["metadata"]["resourceVersion"] = body["metadata"][
        "resourceVersion"
    ]  # sent, it would be answered 500
    assert (await jobs.create_job(api, NAMESPACE, again)).outcome is Outcome.ALREADY_EXISTS
    missing = await jobs.create_job(api, "no-such-namespace", manifest | {"metadata": {"name": name}})
    assert (missing.outcome, missing.details.get("kind")) == (Outcome.NOT_FOUND, "namespaces")
    assert (
        await jobs.create_job(api, NAMESPACE, {"kind": "Job", "apiVersion": "batch/v1"})
    ).outcome is Outcome.INVALID
    assert (await jobs.get_job(api, NAMESPACE, f"no-{name}")).outcome is Outcome.NOT_FOUND
    for unserved in ("/apis/batch/v99/jobs", "/apis/no.such.group/v1/things", "/api/v1/things"):
        assert (await api.get(unserved)).reason == "NotServed"

    test = [{"op": "test", "path": "/metadata/uid", "value": "another"}]
    refused = await jobs.patch_job(api, NAMESPACE, name, test, content_type=JSON_PATCH)
    assert refused.outcome is Outcome.INVALID
    patched = await jobs.patch_job(api, NAMESPACE, name, {"metadata": {"labels": {"x": "y"}}})
    assert patched.ok
    stale = await jobs.replace_job_status(api, NAMESPACE, name, body)
    assert stale.outcome is Outcome.CONFLICT

    for other in ("another", ""):
        assert (await jobs.delete_job(api, NAMESPACE, name, other)).outcome is Outcome.CONFLICT
    assert (await jobs.delete_job(api, NAMESPACE, name, uid)).ok
    assert (await jobs.delete_job(api, NAMESPACE, name, uid)).outcome is Outcome.NOT_FOUND


async def test_the_cache_follows_and_a_lost_label_is_no_deletion(lab: Lab, api: ApiServer, run: str) -> None:
    async with connected(lab, run) as connection:
        await until(lambda: connection.health.ready, seconds=30)
        deleted: list[tuple[str, bool]] = []
        connection.cache.on_delete = lambda last, final: deleted.append((last["metadata"]["uid"], final))
        reply = await jobs.create_job(api, NAMESPACE, make_job("a", run))
        assert reply.body is not None
        name, uid = reply.body["metadata"]["name"], reply.body["metadata"]["uid"]
        connection.cache.put(reply.body)
        await until(lambda: _condition(connection.cache.get(NAMESPACE, name), "Suspended"), seconds=30)

        without_label = {"metadata": {"labels": {LABEL: None}}}
        assert (await jobs.patch_job(api, NAMESPACE, name, without_label)).ok
        await until(lambda: deleted, seconds=30)
        assert (await jobs.get_job(api, NAMESPACE, name)).ok, "it left the selector, it is not gone"
        assert (await jobs.patch_job(api, NAMESPACE, name, {"metadata": {"labels": {LABEL: run}}})).ok
        await until(lambda: connection.cache.get(NAMESPACE, name), seconds=30)

        assert (await jobs.delete_job(api, NAMESPACE, name, uid)).ok
        await until(lambda: len(deleted) == 2, seconds=30)
        assert deleted == [(uid, True), (uid, True)]
        assert len(connection.cache) == 0


def _condition(job: Manifest | None, kind: str) -> bool:
    conditions = (job or {}).get("status", {}).get("conditions", [])
    return any(condition["type"] == kind and condition["status"] == "True" for condition in conditions)


async def test_a_list_in_pages(lab: Lab, api: ApiServer, run: str) -> None:
    made = [await jobs.create_job(api, NAMESPACE, make_job(f"p{number}", run)) for number in range(5)]
    assert all(reply.ok for reply in made)
    page = await jobs.list_jobs(api, label_selector=f"{LABEL}={run}", limit=2)
    assert page.body is not None
    assert page.body["metadata"]["continue"]
    async with connected(lab, run) as connection:
        await until(lambda: connection.health.ready, seconds=30)
        assert len(connection.cache) == 5
    for reply in made:
        assert reply.body is not None
        metadata = reply.body["metadata"]
        assert (await jobs.delete_job(api, NAMESPACE, metadata["name"], metadata["uid"])).ok


async def test_a_killed_api_server(lab: Lab, api: ApiServer, run: str) -> None:
    server = lab.worker(1).apiserver
    reply = await jobs.create_job(api, NAMESPACE, make_job("a", run))
    assert reply.body is not None
    name, uid = reply.body["metadata"]["name"], reply.body["metadata"]["uid"]
    async with connected(lab, run) as connection:
        await until(lambda: connection.health.ready, seconds=30)
        deleted: list[Manifest] = []
        connection.cache.on_delete = lambda last, final: deleted.append(last)
        await asyncio.to_thread(server.kill)
        try:
            await until(lambda: not connection.health.ready, seconds=30)
            assert connection.health.reason is HealthReason.CONNECTION_REFUSED
        finally:
            await asyncio.to_thread(server.start)
        await until(lambda: connection.health.ready, seconds=30)
        assert connection.cache.get(NAMESPACE, name), "what was known stays known"
        assert deleted == []
        assert (await jobs.delete_job(api, NAMESPACE, name, uid)).ok
        await until(lambda: deleted, seconds=30)


async def test_a_hung_api_server_hangs_nothing_else(lab: Lab, run: str) -> None:
    server = lab.worker(1).apiserver
    async with connected(lab, run) as connection, connected(lab, run, worker=2) as other:
        await until(lambda: connection.health.ready and other.health.ready, seconds=30)
        server.pause()
        try:
            slowest = 0.0

            async def use_other() -> None:
                nonlocal slowest
                while True:
                    started = time.monotonic()
                    assert (await jobs.get_namespace(other.api, "kube-system")).ok
                    slowest = max(slowest, time.monotonic() - started)
                    await asyncio.sleep(0.1)

            task = asyncio.create_task(use_other())
            await until(lambda: not connection.health.ready, seconds=30)
            assert connection.health.reason is HealthReason.TIMEOUT
            assert other.health.ready
            assert not task.done(), "requests to the other cluster go on"
            task.cancel()
            await asyncio.wait([task])
            assert slowest < 2
        finally:
            server.resume()
        await until(lambda: connection.health.ready, seconds=30)


async def test_credentials_that_are_not_accepted(lab: Lab, run: str) -> None:
    good = credentials(lab)
    bad = Credentials(server=good.server, ca_data=good.ca_data, token="not-a-token")
    async with connected(lab, run, replaced=bad) as connection:
        await until(lambda: connection.health.reason is HealthReason.UNAUTHORIZED, seconds=30)
        await connection.replace(ApiServer.from_credentials(good))
        await until(lambda: connection.health.ready, seconds=30)


async def test_a_server_of_another_authority(lab: Lab, run: str) -> None:
    good, other = credentials(lab), credentials(lab, 2)
    mixed = Credentials(server=good.server, ca_data=other.ca_data, token="any")
    async with connected(lab, run, replaced=mixed) as connection:
        await until(lambda: connection.health.reason is HealthReason.CERTIFICATE_INVALID, seconds=30)


async def test_an_account_without_rights_and_one_with_too_few(lab: Lab, api: ApiServer, run: str) -> None:
    account = f"connection-{run}"
    accounts = resource_path("v1", "serviceaccounts", namespace=NAMESPACE)
    assert (await api.request("POST", accounts, body={"metadata": {"name": account}})).ok
    token_path = resource_path("v1", "serviceaccounts", namespace=NAMESPACE, name=account, sub="token")
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = await api.request("POST", token_path, body=request)
    assert token.body is not None
    good = credentials(lab)
    poor = Credentials(server=good.server, ca_data=good.ca_data, token=token.body["status"]["token"])
    async with connected(lab, run, replaced=poor) as connection:
        await until(lambda: connection.health.reason is HealthReason.FORBIDDEN, seconds=30)
        await _grant(api, account)
        await until(lambda: connection.health.reason is HealthReason.MISSING_PERMISSIONS, seconds=30)
        assert "delete jobs.batch" in connection.health.message
        assert "list jobs.batch" not in connection.health.message
    for kind in ("clusterrolebindings", "clusterroles"):
        path = resource_path("rbac.authorization.k8s.io/v1", kind, name=account)
        assert (await api.request("DELETE", path)).ok
    assert (
        await api.request("DELETE", resource_path("v1", "serviceaccounts", namespace=NAMESPACE, name=account))
    ).ok


async def _grant(api: ApiServer, account: str) -> None:
    """Reading Jobs and namespaces, and nothing else."""
    group = "rbac.authorization.k8s.io"
    role = {
        "metadata": {"name": account},
        "rules": [
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
        ],
    }
    binding = {
        "metadata": {"name": account},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}],
    }
    assert (await api.request("POST", resource_path(f"{group}/v1", "clusterroles"), body=role)).ok
    assert (await api.request("POST", resource_path(f"{group}/v1", "clusterrolebindings"), body=binding)).ok


async def test_our_own_kubeconfig_file(lab: Lab) -> None:
    api = ApiServer(await load_kubeconfig_file(lab.management.kubeconfig))
    assert (await jobs.server_version(api)).ok
    await api.close()
