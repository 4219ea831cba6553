"""``clusters/NAME/proxy/…``: a worker's own paths for pods and their logs, so that plain kubectl works on one worker.

Allowed are GETs and watches of pods, GETs of one pod and its log, in one namespace, each of our own mirrors only; and
discovery.
Who may use the path at all, and for which clusters, is asked by the API server itself (``clusters/proxy`` with
resourceNames).
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from dispatcher.clusters import pods as reads
from dispatcher.clusters.client import MAX_LIST_BYTES, TransportError, read_body, resource_path
from dispatcher.clusters.pods import LogBroken, read_log
from dispatcher.clusters.reply import Manifest
from dispatcher.view import discovery
from dispatcher.view.access import Access, User
from dispatcher.view.pod_watch import PodWatch, read_watch
from dispatcher.view.sources import Sources, owner_uid
from dispatcher.view.status import Refused, answer, from_reply

_PODS: Final = re.compile(
    r"/api/v1/namespaces/(?P<namespace>[a-z0-9-]{1,63})/pods(?:/(?P<pod>[a-z0-9][a-z0-9.-]{0,252}))?(?P<log>/log)?"
)
_LIST_PARAMETERS: Final = ("labelSelector", "fieldSelector", "limit", "continue", "includeObject")
_LOG_PARAMETERS: Final = (
    "container",
    "follow",
    "previous",
    "sinceSeconds",
    "sinceTime",
    "tailLines",
    "timestamps",
    "limitBytes",
)


class Proxy:
    """Answers for the paths of workers."""

    def __init__(
        self,
        sources: Sources,
        access: Access,
        slot: Callable[[str], contextlib.AbstractAsyncContextManager[Any]],
    ) -> None:
        self._sources = sources
        self._access = access
        self._slot = slot

    async def serve(self, request: web.Request, user: User, cluster: str, path: str) -> web.StreamResponse:
        """The answer to a path of this worker. Raises Refused."""
        if request.method != "GET":
            raise Refused(405, "only GET is let through to worker clusters")
        self._sources.place(cluster)
        known = {
            "/api": discovery.WORKER_VERSIONS,
            "/apis": discovery.WORKER_GROUPS,
            "/api/v1": discovery.WORKER_RESOURCES,
        }
        if (found := known.get(path.rstrip("/"))) is not None:
            return answer(found)
        match = _PODS.fullmatch(path)
        if match is None or (match["log"] and not match["pod"]):
            raise Refused(404, "let through to worker clusters are pods of one namespace and their logs only")
        namespace, pod = match["namespace"], match["pod"]
        if pod is None and request.query.get("watch") in ("true", "1"):
            await self._access.require(user, "watch", "pods", namespace)
            return await self._watch(request, cluster, namespace)
        if pod is None:
            await self._access.require(user, "list", "pods", namespace)
            return answer(await self._pods(request, cluster, namespace))
        await self._access.require(user, "get", "pods/log" if match["log"] else "pods", namespace)
        manifest = await self._own_pod(cluster, namespace, pod)
        if not match["log"]:
            return answer(manifest)
        return await self._log(request, cluster, namespace, pod)

    async def _own_pod(self, cluster: str, namespace: str, name: str) -> Manifest:
        reply = await reads.get_pod(self._sources.api(cluster), namespace, name)
        if reply.ok and reply.body is not None:
            if owner_uid(reply.body) in await self._sources.mirror_uids(cluster, namespace):
                return reply.body
        elif reply.code != 404:
            raise from_reply(reply, f"cluster {cluster}")
        # What is not ours looks like what does not exist.
        raise Refused(404, f'pods "{name}" not found', details={"name": name, "kind": "pods"})

    async def _watch(self, request: web.Request, cluster: str, namespace: str) -> web.StreamResponse:
        wanted = read_watch(request.query)

        async def read() -> Manifest:
            return await self._pods(request, cluster, namespace)

        watch = PodWatch(read, after=wanted.after)
        events = await watch.news()  # refusals before the answer begins
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await watch.serve(response, events, seconds=wanted.seconds)
        await response.write_eof()
        return response

    async def _pods(self, request: web.Request, cluster: str, namespace: str) -> Manifest:
        """A list, or a Table where that is asked for, of the pods of our mirrors."""
        uids = await self._sources.mirror_uids(cluster, namespace)
        params = {key: request.query[key] for key in _LIST_PARAMETERS if key in request.query}
        # A table's rows must keep the metadata by which they are told apart.
        if params.get("includeObject") == "None":
            del params["includeObject"]
        table = "as=Table" in request.headers.get("Accept", "")
        body = await self._get(cluster, namespace, params, table=table)
        key = "rows" if "rows" in body else "items"
        body[key] = [
            item
            for item in body.get(key) or ()
            if owner_uid(item.get("object") or {"metadata": {}} if key == "rows" else item) in uids
        ]
        return body

    async def _get(self, cluster: str, namespace: str, params: dict[str, str], *, table: bool) -> Manifest:
        api = self._sources.api(cluster)
        path = resource_path("v1", "pods", namespace=namespace)
        if not table:
            reply = await api.get(path, params=params, max_bytes=MAX_LIST_BYTES)
            if not reply.ok or reply.body is None:
                raise from_reply(reply, f"cluster {cluster}")
            return reply.body
        accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
        try:
            async with api.send("GET", path, params=params, accept=accept) as response:
                raw = await read_body(response, MAX_LIST_BYTES)
                reply = api.reply_to(response, raw)
                if not reply.ok or reply.body is None:
                    raise from_reply(reply, f"cluster {cluster}")
                return reply.body
        except TransportError as error:
            raise from_reply(error.reply, f"cluster {cluster}") from None

    async def _log(self, request: web.Request, cluster: str, namespace: str, pod: str) -> web.StreamResponse:
        params = {key: request.query[key] for key in _LOG_PARAMETERS if key in request.query}
        api = self._sources.api(cluster)
        async with self._slot(cluster):
            blocks = read_log(api, namespace, pod, params=params)
            async with contextlib.aclosing(blocks):
                try:
                    first = await anext(blocks, b"")
                except LogBroken as broken:
                    raise from_reply(broken.reply, f"cluster {cluster}") from None
                response = web.StreamResponse(headers={"Content-Type": "text/plain"})
                await response.prepare(request)
                if first:
                    await response.write(first)
                try:
                    async for block in blocks:
                        await response.write(block)
                except LogBroken:
                    # Cut off, not ended: kubectl must not take what came for all there is.
                    if request.transport is not None:
                        request.transport.abort()
                    return response
                await response.write_eof()
                return response
