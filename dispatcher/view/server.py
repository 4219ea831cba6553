"""The aggregated API server: TLS, who asks, routes, and what keeps its certificates current."""

import asyncio
import contextlib
import datetime
import functools
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from dispatcher.clusters.client import ApiServer
from dispatcher.view import discovery
from dispatcher.view.access import Access
from dispatcher.view.certificates import ServingCertificate
from dispatcher.view.following import Follow
from dispatcher.view.front_proxy import FrontProxy
from dispatcher.view.lines import Output
from dispatcher.view.logs import LogReader
from dispatcher.view.options import read_options
from dispatcher.view.proxy import Proxy
from dispatcher.view.sources import Missing, Place, Sources
from dispatcher.view.status import Refused, answer, warning

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 15.0
"""Between two looks at the front proxy's CA and our own certificate."""
STREAMS_A_CLUSTER: Final = 64
"""Logs open at once on one cluster; the controller's own requests share its connection pool of 100."""
GLANCE_SECONDS: Final = 1.0
"""For which a follow waits for clusters before it begins; those that are slower come in when they answer."""
STOP_SECONDS: Final = 3.0

_PLAIN_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._:~-]+)+/?")
"""No empty segment, no dot segments, nothing escaped."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ViewServer:
    """Serves until it is stopped. ``host`` and ``port``: where; ``service``: the Service the API server asks for."""

    def __init__(
        self,
        *,
        management: ApiServer,
        places: Callable[[], Mapping[str, Place]],
        origin: str,
        managed_by: str,
        namespace: str,
        service: str,
        host: str,
        port: int,
        now: Callable[[], datetime.datetime],
    ) -> None:
        self._management = management
        self._sources = Sources(management=management, places=places, origin=origin, managed_by=managed_by)
        self._access = Access(management)
        self._front_proxy = FrontProxy(management)
        self._certificate = ServingCertificate(management, namespace=namespace, service=service)
        self._address = host, port
        self._now = now
        self._stopping = asyncio.Event()
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._proxy = Proxy(self._sources, self._access, self._slot)

    async def run(self) -> None:
        """Serve until cancelled. Raises OSError where the address cannot be had."""
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,  # or a quiet follow would outlive its reader
            shutdown_timeout=STOP_SECONDS,
            # A front proxy may send a header for each of a person's hundreds of groups.
            max_headers=4096,
            max_field_size=64 * 1024,
            max_line_size=64 * 1024,
        )
        await runner.setup()
        try:
            site = web.TCPSite(runner, *self._address, ssl_context=self._front_proxy.listening)
            await site.start()
            while True:
                await self._look()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._stopping.set()
            await runner.cleanup()
            await self._management.close()

    async def _look(self) -> None:
        """Take over what has changed. Whatever goes wrong, the server goes on with what it has."""
        try:
            await self._front_proxy.refresh()
        except Exception:
            logger.exception("the view API cannot take over the published front proxy CA")
        try:
            made = await self._certificate.keep(self._now())
            if made is not None:
                self._front_proxy.serve_with(*made)
                logger.info("the view API serves with a new certificate")
        except Exception:
            logger.exception("the view API cannot renew its certificate")

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._refusals])
        job = discovery.ROOT + "/namespaces/{namespace}/jobs/{job}"
        for path, content in (
            ("/apis", discovery.GROUPS),
            (f"/apis/{discovery.GROUP}", discovery.GROUP_INFO),
            (discovery.ROOT, discovery.RESOURCES),
            ("/openapi/v2", discovery.OPENAPI),
        ):
            app.router.add_get(path, self._constant(content))
        app.router.add_get(f"{job}/pods", self._pods)
        app.router.add_get(f"{job}/events", self._events)
        app.router.add_get(f"{job}/log", self._log)
        app.router.add_route("*", discovery.ROOT + "/clusters/{cluster}/proxy{path:(/.*)?}", self._proxied)
        return app

    @web.middleware
    async def _refusals(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            request["user"] = self._front_proxy.user_of(request)
            if not _PLAIN_PATH.fullmatch(request.raw_path.partition("?")[0]):
                # The API server has judged the path as it was written; nothing here may read it in another way.
                raise Refused(400, "only paths of plain names are served")
            return await handler(request)
        except Refused as refused:
            response = refused.response()
            if refused.code == 401:
                response.force_close()  # a proxy whose certificate has changed shows the new one next time
            return response
        except web.HTTPException as error:
            return Refused(error.status, f"{request.method} {request.path}: {error.reason}").response()

    @staticmethod
    def _constant(content: Any) -> Handler:
        async def handler(_request: web.Request) -> web.Response:
            return answer(content)

        return handler

    async def _pods(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["job"]
        await self._access.require(request["user"], "list", "pods", namespace)
        job = await self._sources.job(namespace, name)
        pods, missing = await self._sources.pods(job, self._sources.clusters_of(job))
        items = [pod.manifest for pod in pods]
        return _list("Pod", items, [str(entry) for entry in missing])

    async def _events(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["job"]
        await self._access.require(request["user"], "list", "events", namespace)
        job = await self._sources.job(namespace, name)
        events, missing = await self._sources.events(job, self._sources.clusters_of(job))
        return _list("Event", events, [str(entry) for entry in missing])

    async def _log(self, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info["job"]
        options = read_options(request.query)
        await self._access.require(request["user"], "get", "pods/log", namespace)
        job = await self._sources.job(namespace, name)
        response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache"})
        output = Output(response, frames=options.frames, prefix=options.prefix)
        reader = LogReader(self._sources, output, options=options, slot=self._slot)
        missing: list[Missing] = []
        if options.follow:
            pods = await reader.glance(job, seconds=GLANCE_SECONDS)
        else:
            pods, missing = await reader.find(job)
        if not options.follow and not pods and not missing:
            raise Refused(404, _none(options, namespace, name))
        if pods and options.container and all(options.container not in pod.containers for pod in pods):
            known = ", ".join(sorted({c for pod in pods for c in pod.containers}))
            raise Refused(400, f"container {options.container} is not one of the Job's: {known}")
        if not options.frames:
            for entry in missing:
                response.headers.add("Warning", warning(str(entry)))
        await response.prepare(request)
        gone = False  # the reader
        try:
            if options.follow:
                refresh = functools.partial(self._sources.job, namespace, name)
                await Follow(reader, job, refresh=refresh, stopping=self._stopping).run()
            else:
                await reader.read(pods, missing)
        except* OSError:
            gone = True
        except* Refused as group:
            await output.notice(str(group.exceptions[0]), error=True)
        if not gone:
            await response.write_eof()
        return response

    async def _proxied(self, request: web.Request) -> web.StreamResponse:
        cluster, path = request.match_info["cluster"], request.match_info["path"]
        return await self._proxy.serve(request, request["user"], cluster, path or "/")

    @contextlib.asynccontextmanager
    async def _slot(self, cluster: str) -> AsyncIterator[None]:
        slots = self._slots.setdefault(cluster, asyncio.Semaphore(STREAMS_A_CLUSTER))
        async with slots:
            yield


def _list(kind: str, items: list[dict[str, Any]], warnings: list[str]) -> web.Response:
    typed = [{"apiVersion": "v1", "kind": kind, **item} for item in items]
    body = {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {}, "items": typed}
    return answer(body, warnings=warnings)


def _none(options: Any, namespace: str, name: str) -> str:
    said = [
        f"{key} {value}"
        for key, value in (("pod", options.pod), ("index", options.index), ("cluster", options.cluster))
        if value
    ]
    return f"Job {namespace}/{name} has no pod" + (f" with {', '.join(said)}" if said else " yet")
