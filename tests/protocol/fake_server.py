"""An API server that misbehaves on command.

It keeps Jobs and lists them in pages like a real one; everything else (watches, refusals, silence) is staged by the
test, which meets each watch as a ``Watch`` and decides what it says.
"""

import asyncio
import contextlib
import dataclasses
import json
import ssl
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

PATIENCE = 60.0
"""Seconds that a test waits for what must come; a machine may be busy."""

JOBS = "/apis/batch/v1/jobs"
KUBE_SYSTEM = "/api/v1/namespaces/kube-system"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


@dataclasses.dataclass(frozen=True)
class Answer:
    """One staged answer. ``raw`` instead of ``body``: bytes as they are; ``hang``: none at all."""

    status: int = 200
    body: dict[str, Any] | None = None
    raw: bytes | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    content_type: str = "application/json"
    hang: bool = False
    cut: bool = False
    """Half of the body, then the connection is gone."""


def status(code: int, reason: str = "", message: str = "", **details: Any) -> Answer:
    """A refusal as API servers send it."""
    body: dict[str, Any] = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    if reason:
        body["reason"] = reason
    if message:
        body["message"] = message
    if details:
        body["details"] = details
    return Answer(code, body)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One request that came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Watch:
    """One open watch, seen from the server."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self._writes: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._cut = False
        self.closed = asyncio.Event()

    @property
    def version(self) -> str:
        """The resourceVersion it starts at."""
        return self.seen.query.get("resourceVersion", "")

    def send(self, kind: str, item: dict[str, Any]) -> None:
        self.raw(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def bookmark(self, version: int) -> None:
        self.send("BOOKMARK", {"kind": "Job", "metadata": {"resourceVersion": str(version)}})

    def raw(self, data: bytes) -> None:
        self._writes.put_nowait(data)

    def end(self) -> None:
        """As a server does at its own time limit."""
        self._writes.put_nowait(None)

    def cut(self) -> None:
        """As a crash does: no last chunk."""
        self._cut = True
        self._writes.put_nowait(None)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        try:
            while (data := await self._writes.get()) is not None:
                await response.write(data)
            if self._cut and request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass
        finally:
            self.closed.set()
        return response


class FakeApiServer:
    """Serves on the loopback interface. ``stage`` answers for a path; what is not staged behaves well."""

    def __init__(self) -> None:
        self.url = ""
        self.version = 100
        self.uid = "cluster-1"
        self.git_version = "v1.36.3"
        self.denied: set[tuple[str, str]] = set()
        """(verb, resource or resource/subresource) that an access review denies."""
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.seen: list[Seen] = []
        self.on_watch: Callable[[Watch], None] = lambda watch: None
        """Called with each watch that opens: what every watch is to say first."""
        self._staged: dict[tuple[str, str], deque[Answer]] = defaultdict(deque)
        self._standing: dict[tuple[str, str], Answer] = {}
        self._watches: asyncio.Queue[Watch] = asyncio.Queue()
        self._open: set[Watch] = set()
        self._runner: web.AppRunner | None = None
        self._released = asyncio.Event()
        self._port = 0

    def stage(self, method: str, path: str, *answers: Answer, standing: bool = False) -> None:
        """These answers come next, one each; ``standing``: the one answer comes until ``unstage``.

        The method ``WATCH`` means GETs with ``watch=1``.
        """
        if standing:
            (self._standing[method, path],) = answers
        else:
            self._staged[method, path].extend(answers)

    def unstage(self) -> None:
        """Behave well from now on; requests left hanging are answered."""
        self._staged.clear()
        self._standing.clear()
        self._released.set()
        self._released = asyncio.Event()

    def job(self, name: str, *, uid: str = "", namespace: str = "ns", **fields: Any) -> dict[str, Any]:
        """Write a Job: the next resourceVersion, stored, returned as a watch would show it."""
        self.version += 1
        item = make_job(name, self.version, uid=uid, namespace=namespace, **fields)
        self.objects[namespace, name] = item
        return item

    def remove(self, name: str, *, namespace: str = "ns") -> dict[str, Any]:
        """Remove a Job; returned as a DELETED event shows it."""
        self.version += 1
        item = self.objects.pop((namespace, name))
        return item | {"metadata": item["metadata"] | {"resourceVersion": str(self.version)}}

    async def next_watch(self) -> Watch:
        async with asyncio.timeout(PATIENCE):
            return await self._watches.get()

    def no_watch_waits(self) -> bool:
        return self._watches.empty()

    def count(self, method: str, path: str) -> int:
        """Requests seen; the method ``WATCH`` as in ``stage``."""
        return sum(1 for seen in self.seen if (_method(seen), seen.path) == (method, path))

    def queries(self, method: str, path: str) -> list[dict[str, str]]:
        return [seen.query for seen in self.seen if (_method(seen), seen.path) == (method, path)]

    async def start(self, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen; again on the same port after ``stop``."""
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port, ssl_context=tls, reuse_address=True).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Refuse connections from now on and drop those that are open."""
        self._released.set()
        for watch in self._open:
            watch.cut()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(
            request.method, request.path, dict(request.query), dict(request.headers), await request.read()
        )
        self.seen.append(seen)
        key = (_method(seen), seen.path)
        answer = self._staged[key].popleft() if self._staged[key] else self._standing.get(key)
        if answer is not None:
            return await self._give(answer, request)
        if key[0] == "WATCH":
            watch = Watch(seen)
            self._open.add(watch)
            self._watches.put_nowait(watch)
            self.on_watch(watch)
            try:
                return await watch.serve(request)
            finally:
                self._open.discard(watch)
        return await self._give(self._behave(seen), request)

    async def _give(self, answer: Answer, request: web.Request) -> web.StreamResponse:
        raw = answer.raw if answer.raw is not None else json.dumps(answer.body or {}).encode()
        if answer.hang:
            await self._released.wait()
        if answer.cut:
            response = web.StreamResponse(status=answer.status, headers={"Content-Length": str(len(raw))})
            await response.prepare(request)
            await response.write(raw[: len(raw) // 2])
            assert request.transport is not None
            request.transport.abort()
            return response
        return web.Response(
            status=answer.status, body=raw, headers=answer.headers, content_type=answer.content_type
        )

    def _behave(self, seen: Seen) -> Answer:
        match seen.method, seen.path:
            case "GET", "/version":
                return Answer(body={"gitVersion": self.git_version})
            case "GET", path if path == KUBE_SYSTEM:
                metadata = {"name": "kube-system", "uid": self.uid}
                return Answer(body={"kind": "Namespace", "apiVersion": "v1", "metadata": metadata})
            case "POST", path if path == REVIEWS:
                return self._review(json.loads(seen.body))
            case "GET", path if path == JOBS:
                return self._page(seen.query)
        return status(404, "NotFound", "not staged")

    def _review(self, body: dict[str, Any]) -> Answer:
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource", ""))))
        allowed = (asked["verb"], resource) not in self.denied
        return Answer(201, body | {"status": {"allowed": allowed}})

    def _page(self, query: dict[str, str]) -> Answer:
        items = list(self.objects.values())
        start = int(query.get("continue", "0"))
        end = start + int(query.get("limit") or len(items) or 1)
        metadata = {"resourceVersion": str(self.version)}
        if end < len(items):
            metadata["continue"] = str(end)
        # Items of a list come without kind and apiVersion.
        bare = [
            {key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in items
        ]
        body = {"kind": "JobList", "apiVersion": "batch/v1", "metadata": metadata, "items": bare[start:end]}
        return Answer(body=body)


def make_job(
    name: str, version: int, *, uid: str = "", namespace: str = "ns", **fields: Any
) -> dict[str, Any]:
    """A Job as an API server shows it."""
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(version),
    }
    return {"kind": "Job", "apiVersion": "batch/v1", "metadata": metadata, "spec": {}, **fields}


async def until(condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
    """Wait for a condition; fails the test when it does not come true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def running(*, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeApiServer]:
    """A started server, stopped at the end."""
    server = FakeApiServer()
    await server.start(tls=tls)
    try:
        yield server
    finally:
        await server.stop()


def _method(seen: Seen) -> str:
    return "WATCH" if "watch" in seen.query else seen.method
