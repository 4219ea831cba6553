"""Nothing that the dispatcher says, to whomever, holds a token or the data of a Secret; at debug level, too."""

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from dispatcher.clusters.client import MAX_LIST_BYTES, ApiServer, resource_path
from dispatcher.core import names
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import MANAGED_BY, Planes, is_complete, make_job
from tests.integration.registrations import CLUSTERS, Registrations, changed
from tests.protocol.certificates import Authority, server_context

pytestmark = pytest.mark.lab

POLICIES = f"{names.API_GROUP}/{names.API_VERSION}"


@pytest.fixture(scope="module")
def controller(lab: Lab) -> Iterator[Controller]:
    """One that says all it can."""
    options = ["--log-level=debug", "--log-format=json", "--token-renewal"]
    running = Controller.start(lab, managed_by=MANAGED_BY, options=options)
    yield running
    running.stop()


def refuse(request: web.Request) -> web.Response:
    sent = request.headers.get("Authorization", "")
    status = {"kind": "Status", "status": "Failure", "code": 401, "reason": "Unauthorized"}
    return web.json_response(status | {"message": f"{sent!r} is not a token of ours"}, status=401)


def fail(request: web.Request) -> web.Response:
    sent = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return web.Response(
        status=500, text=f"<html>upstream failed: token={sent} headers={dict(request.headers)}"
    )


class Echo:
    """A server with a certificate of its own that quotes what it was sent in every refusal."""

    def __init__(self, folder: Path, answer: Callable[[web.Request], web.Response]) -> None:
        self._authority = Authority()
        pair = self._authority.issue("echo", address="127.0.0.1")
        self._context = server_context(folder, pair, client_ca="")
        self._answer = answer

    async def start(self) -> None:
        async def handle(request: web.Request) -> web.Response:
            return self._answer(request)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handle)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._context).start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"
        self.authority_data = base64.b64encode(self._authority.pem.encode()).decode()

    async def stop(self) -> None:
        await self._runner.cleanup()


@pytest.fixture
async def echoes(tmp_path: Path) -> AsyncIterator[dict[str, Echo]]:
    """By the reason that is to be published: one that quotes in a Status, one in a page of a proxy's."""
    serving = {"Unauthorized": Echo(tmp_path, refuse), "ServerError": Echo(tmp_path, fail)}
    for echo in serving.values():
        await echo.start()
    yield serving
    for echo in serving.values():
        await echo.stop()


def secret(kind: str) -> str:
    """A text that is nowhere else; ``opaque``, or in the form of a JSON web token."""
    made = "".join(secrets.token_hex(24) for _ in range(3))
    if kind == "opaque":
        return made
    return (
        f"eyJhbGciOiJSUzI1NiJ9.{base64.urlsafe_b64encode(made.encode()).decode()}.{secrets.token_urlsafe(40)}"
    )


async def test_no_token_and_no_secret_leaves_the_process(
    lab: Lab, controller: Controller, planes: Planes, registrations: Registrations, echoes: dict[str, Echo]
) -> None:
    known: dict[str, str] = {}

    def new(what: str, kind: str = "opaque") -> str:
        known[what] = secret(kind)
        return known[what]

    registered: dict[str, str] = {}

    async def register(content: Any, reason: str = "") -> None:
        registered[await registrations.add(content)] = reason

    good = await registrations.kubeconfig("worker-1")

    def kubeconfig(what: str, kind: str = "opaque", *, url: str = "", ca: str = "") -> dict[str, Any]:
        user = {"token": new(what, kind), "client-certificate-data": None, "client-key-data": None}
        cluster = {"server": url, "certificate-authority-data": ca} if url else {}
        return changed(good, user=user, cluster=cluster)

    # Tokens that are refused: by a real API server, and by servers that quote them.
    for what, kind in (("an opaque token", "opaque"), ("a web token", "jwt")):
        await register(kubeconfig(f"{what}, wrong", kind), "Unauthorized")
        for reason, echo in echoes.items():
            there = {"url": echo.url, "ca": echo.authority_data}
            await register(kubeconfig(f"{what}, quoted with {reason}", kind, **there), reason)
    # Kubeconfigs that cannot be read, or are refused, each with something secret in it.
    whole = yaml.safe_dump(kubeconfig("a token behind broken YAML"))
    await register(f"{whole}\n  }}: [\n")
    await register(yaml.safe_dump(kubeconfig("a token that is a key")).replace("token:", "? token\n  :"))
    basic = changed(
        kubeconfig("a token beside a password"), user={"username": "u", "password": new("a password")}
    )
    await register(basic)
    plugin = {
        "exec": {
            "command": "sh",
            "args": [new("an argument")],
            "env": [{"name": "A", "value": new("a variable")}],
        }
    }
    await register(changed(kubeconfig("a token beside a plugin"), user=plugin))
    key = f"-----BEGIN EC PRIVATE KEY-----\n{new('a key')}\n-----END EC PRIVATE KEY-----\n"
    pem = base64.b64encode(key.encode()).decode()
    pair = {"token": None, "client-key-data": pem, "client-certificate-data": pem}
    await register(changed(good, user=pair))
    proxied = changed(
        kubeconfig("a token for a proxy"), cluster={"proxy-url": f"http://u:{new('a proxy')}@127.0.0.1:9"}
    )
    await register(proxied)
    await register(json.dumps({"token": new("a token in no kubeconfig")}))
    for name, reason in registered.items():
        entry = await registrations.ready_when(
            name, lambda it: it["status"] == "False" and it["reason"] not in ("Connecting", "NotSynced")
        )
        assert not reason or entry["reason"] == reason, entry
    # A Secret that follows a Job.
    await planes.management.request(
        "POST",
        resource_path(POLICIES, "dispatchpolicies", namespace=planes.namespace),
        body={
            "apiVersion": POLICIES,
            "kind": "DispatchPolicy",
            "metadata": {"name": "default"},
            "spec": {"propagate": ["Secret"]},
        },
    )
    made = await planes.management.request(
        "POST",
        resource_path("v1", "secrets", namespace=planes.namespace),
        body={"metadata": {"name": "password"}, "stringData": {"password": new("data of a Secret")}},
    )
    assert made.ok, made
    job = make_job(
        "with-a-secret", managed_by=MANAGED_BY, namespace=planes.namespace, completions=3, parallelism=3
    )
    container = job["spec"]["template"]["spec"]["containers"][0]
    container["envFrom"] = [{"secretRef": {"name": "password"}}]
    container["env"] = [{"name": "A", "value": new("a variable of a Job")}]
    await planes.create(job)
    await planes.job_when("with-a-secret", is_complete)

    known["the dispatcher's own token"] = token_of(lab.dispatcher_kubeconfig)
    for worker in ("worker-1", "worker-2"):
        known[f"the token for {worker}"] = str(
            (await registrations.kubeconfig(worker))["users"][0]["user"].get("token", "")
        )
    said = {
        "the log": controller.log.read_text(),
        "the metrics": await asyncio.to_thread(controller.metrics),
        "WorkerClusters": json.dumps(await everything(planes.management, CLUSTERS)),
        "Events": json.dumps(await everything(planes.management, "/api/v1/events")),
        "the Job": json.dumps((await planes.job_when("with-a-secret", is_complete))["status"]),
        "policies": json.dumps(
            await everything(
                planes.management, resource_path(POLICIES, "dispatchpolicies", namespace=planes.namespace)
            )
        ),
    }
    assert "reconcile begins" in said["the log"], "it is at debug level"
    assert "bad-" in said["WorkerClusters"]
    for what, text in known.items():
        for piece in filter(None, pieces(text)):
            for where, found in said.items():
                assert piece not in found, f"{what} is in {where}"


def pieces(text: str) -> list[str]:
    """A secret as it is, in base64, and any 24 characters from several places of it."""
    if len(text) < 24:
        return []
    parts = [text[at : at + 24] for at in range(0, len(text) - 24, max(1, len(text) // 8))]
    return [text, base64.b64encode(text.encode()).decode()[:40], *parts[1 if text.startswith("eyJ") else 0 :]]


def token_of(path: Path) -> str:
    user = yaml.safe_load(path.read_text())["users"][0]["user"]
    return str(user.get("token") or "")


async def everything(api: ApiServer, path: str) -> list[Any]:
    reply = await api.get(path, max_bytes=MAX_LIST_BYTES)
    assert reply.body is not None, reply
    items: list[Any] = reply.body["items"]
    # What people wrote is not what the dispatcher says.
    return [{key: value for key, value in item.items() if key != "spec"} for item in items]
