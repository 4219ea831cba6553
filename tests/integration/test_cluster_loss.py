"""Clusters that stop answering, each in its own way: the Ready condition in time, and Jobs that lose nothing."""

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from dispatcher.clusters import jobs
from dispatcher.core import names
from hack.chaos.gateway import Gateway, Trouble
from hack.lab import Lab
from hack.lab.pki import KeyPair
from hack.lab.ports import ADDRESS
from hack.running.controller import Controller
from tests.integration.outages import lost_planes
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
from tests.integration.registrations import Registrations, changed

pytestmark = pytest.mark.lab

REFUSED_SECONDS = 10.0
NOTICED_SECONDS = 30.0
BACK_SECONDS = 5.0
SLACK = 20.0
"""For a busy machine, beside what the product promises."""
TOKEN_SECONDS = 15.0
LEEWAY_SECONDS = 60.0
"""For so long after its end an API server takes a token for one of a client with another clock."""
TOKEN_CACHE_SECONDS = 10.0
"""For so long an API server goes on to accept a token that it has accepted before."""
GIVE_UP_SECONDS = 3.0
WORKER = "worker-2"


@pytest.fixture(scope="module")
def controller(lab: Lab) -> Iterator[Controller]:
    """One that gives up soon on the mirrors of deleted Jobs."""
    running = Controller.start(
        lab, managed_by=MANAGED_BY, options=[f"--deletion-give-up-after={GIVE_UP_SECONDS}"]
    )
    yield running
    running.stop()


@contextlib.contextmanager
def away(lab: Lab, *, hung: bool = False) -> Iterator[None]:
    """Within it the second worker's API server is killed, or hangs; after it, it answers again."""
    server = lab.worker(2).apiserver
    if hung:
        server.pause()
    else:
        server.kill()
    try:
        yield
    finally:
        if hung:
            server.resume()
        else:
            server.start()
        server.wait_healthy()


async def is_back(registrations: Registrations) -> None:
    await registrations.ready_when(
        WORKER, lambda entry: entry["status"] == "True", seconds=BACK_SECONDS + SLACK
    )


async def is_told(registrations: Registrations, *reasons: str, seconds: float) -> dict[str, Any]:
    entry = await registrations.ready_when(
        WORKER, lambda entry: entry["reason"] in reasons, seconds=seconds + SLACK
    )
    assert entry["status"] == "False"
    assert entry["lastTransitionTime"]
    return entry


@pytest.mark.parametrize("hung", [False, True], ids=["refuses", "hangs"])
async def test_an_api_server_that_is_away_is_told_and_its_return(
    lab: Lab, planes: Planes, registrations: Registrations, hung: bool
) -> None:
    job = make_job(
        "runs-on", managed_by=MANAGED_BY, namespace=planes.namespace, script=NEVER_ENDS, parallelism=3
    )
    job["spec"]["completions"] = 3
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("runs-on", lambda found: count(found, "ready") == 3)
    before = {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)}
    with away(lab, hung=hung):
        if hung:
            await is_told(registrations, "Timeout", seconds=NOTICED_SECONDS)
        else:
            await is_told(registrations, "ConnectionRefused", seconds=REFUSED_SECONDS)
        # Other clusters do not care.
        other = make_job("meanwhile", managed_by=MANAGED_BY, namespace=planes.namespace)
        await planes.create(other)
        await planes.job_when("meanwhile", is_complete)
    await is_back(registrations)
    assert {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)} == before
    assert count(await planes.job_when("runs-on", is_dispatched), "ready") == 3


@pytest.fixture
async def gateway(lab: Lab, registrations: Registrations, tmp_path: Path) -> AsyncIterator[Gateway]:
    """The second worker behind a layer that can answer for it."""
    plane = lab.worker(2)
    layer = Gateway(plane.url, authority=plane.certificates.authority, folder=tmp_path, share=1.0)
    await layer.start()
    through = {
        "server": f"https://{ADDRESS}:{layer.port}",
        "certificate-authority-data": base64.b64encode(layer.authority.read_bytes()).decode(),
    }
    right = await registrations.kubeconfig(WORKER)
    await registrations.change(WORKER, changed(right, cluster=through))
    # Only requests through the layer can meet its trouble.
    await layer.set(Trouble.UNAVAILABLE)
    await is_told(registrations, "ServerError", seconds=NOTICED_SECONDS)
    await layer.set(Trouble.NONE)
    await is_back(registrations)
    yield layer
    await registrations.restore()
    await layer.stop()


@pytest.mark.parametrize(
    ("trouble", "reasons"),
    [
        (Trouble.UNAVAILABLE, ("ServerError",)),
        (Trouble.FORBIDDEN, ("Forbidden", "MissingPermissions")),
    ],
)
async def test_answers_that_refuse_are_told_and_the_recovery(
    gateway: Gateway, registrations: Registrations, trouble: Trouble, reasons: tuple[str, ...]
) -> None:
    await gateway.set(trouble)
    await is_told(registrations, *reasons, seconds=NOTICED_SECONDS)
    await gateway.set(Trouble.NONE)
    await is_back(registrations)


def expiring(token: str, keys: KeyPair, *, seconds: float) -> str:
    """The same service account token that ends ``seconds`` from now, signed anew (ES256)."""

    def text(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head, claims, _signature = token.split(".")
    content = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    content["exp"] = int(time.time() + seconds)
    signed = f"{head}.{text(json.dumps(content).encode())}"
    key = serialization.load_pem_private_key(keys.key.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{text(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


async def test_a_token_past_its_end_is_told_and_a_new_one_changes_nothing_else(
    lab: Lab, planes: Planes, registrations: Registrations
) -> None:
    job = make_job(
        "outlives", managed_by=MANAGED_BY, namespace=planes.namespace, script=NEVER_ENDS, parallelism=3
    )
    job["spec"]["completions"] = 3
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("outlives", lambda found: count(found, "ready") == 3)
    before = {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)}
    pods = [pod["metadata"]["uid"] for pod in await planes.pods(planes.workers[1])]
    right = await registrations.kubeconfig(WORKER)
    token = right["users"][0]["user"]["token"]
    short = expiring(
        token, lab.worker(2).certificates.service_account, seconds=TOKEN_SECONDS - LEEWAY_SECONDS
    )
    await registrations.change(WORKER, changed(right, user={"token": short}))
    entry = await is_told(
        registrations, "Unauthorized", seconds=TOKEN_SECONDS + TOKEN_CACHE_SECONDS + NOTICED_SECONDS
    )
    assert token not in entry["message"]
    await registrations.change(WORKER, right)
    await is_back(registrations)
    assert {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)} == before
    assert [pod["metadata"]["uid"] for pod in await planes.pods(planes.workers[1])] == pods


async def test_with_all_clusters_away_jobs_wait_and_say_so(
    lab: Lab, planes: Planes, registrations: Registrations
) -> None:
    clusters = [plane.name for plane in lab.workers]
    async with lost_planes(planes, lab, *clusters):
        for cluster in clusters:
            await registrations.ready_when(cluster, lambda entry: entry["status"] == "False")
        await planes.create(make_job("waits", managed_by=MANAGED_BY, namespace=planes.namespace))
        waiting = await planes.job_when("waits", has_reason(names.DISPATCHED, "NoEligibleClusters"))
        assert "worker-2" in (condition(waiting, names.DISPATCHED) or {})["message"]
    await planes.job_when("waits", is_complete)


async def test_a_dead_cluster_holds_no_deleted_job(lab: Lab, planes: Planes) -> None:
    """Nor its namespace; what is left there goes when the cluster is back."""
    job = make_job(
        "left", managed_by=MANAGED_BY, namespace=planes.namespace, script=NEVER_ENDS, parallelism=3
    )
    job["spec"]["completions"] = 3
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("left", lambda found: count(found, "ready") == 3)
    assert len(await planes.mirrors(uid)) == 3
    async with lost_planes(planes, lab, WORKER):
        await planes.delete("left")
        await planes.job_when("left", lambda found: found is None)
        await planes.event_when("left", "MirrorsLeftBehind")
    worker = planes.workers[1]
    selector = f"{names.JOB_UID_LABEL}={uid}"
    async with asyncio.timeout(60 + SLACK):
        while (await jobs.list_jobs(worker, label_selector=selector)).body["items"]:  # type: ignore[index]  # noqa: ASYNC110
            await asyncio.sleep(0.1)
