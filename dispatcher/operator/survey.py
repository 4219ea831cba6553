"""What nodes have free on each worker cluster, looked at now and then while a policy divides by it (``Available``).

Every 30 s, and only where a policy with that division exists, each ready cluster is asked for its nodes and its
pods that have not ended, from the API server's cache (``resourceVersion=0``). An account that may not list them
is asked again after ten minutes; until then only declared capacities count there.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import orjson

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import fitting
from dispatcher.core.fitting import Node
from dispatcher.core.job import Manifest
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster

logger = logging.getLogger(__name__)

INTERVAL = 30.0
"""Seconds between two looks at one cluster."""
RETRY = 600.0
"""The same, where the account may not look."""
TICK = 1.0
PAGE_SIZE = 500
MOST_BYTES = 128 * 2**20
"""Of a cluster's nodes or pods; where there are more, only its declared capacity counts."""
TIMEOUT = 30.0
RUNNING = "status.phase!=Succeeded,status.phase!=Failed"


class Surveyed(Protocol):
    """One worker cluster as the survey needs it."""

    @property
    def view(self) -> Cluster: ...

    @property
    def connection(self) -> Any: ...


class _Unanswered(Exception):
    def __init__(self, reply: Reply) -> None:
        self.reply = reply


class Survey:
    """``wanted``: whether anybody divides by what is free; ``clusters``: the registered ones by name."""

    def __init__(
        self,
        *,
        wanted: Callable[[], bool],
        clusters: Callable[[], Mapping[ClusterName, Surveyed]],
    ) -> None:
        self._wanted = wanted
        self._clusters = clusters
        self._nodes: dict[ClusterName, list[Node]] = {}
        self._due: dict[ClusterName, float] = {}
        self._fits: dict[ClusterName, dict[bytes, int]] = {}

    def fits(self, manifest: Manifest) -> dict[ClusterName, int]:
        """How many pods of a Job's template fit on each cluster that was looked at; the others are absent."""
        if not self._nodes:
            return {}
        spec = manifest["spec"]["template"].get("spec") or {}
        key = orjson.dumps(spec)
        found = {}
        for name, nodes in self._nodes.items():
            known = self._fits.setdefault(name, {})
            if key not in known:
                try:
                    known[key] = fitting.how_many_fit(nodes, spec)
                except (ValueError, TypeError, AttributeError, KeyError):
                    continue  # a template that the API servers refuse too, or nodes that are none
            found[name] = known[key]
        return found

    async def run(self) -> None:
        """Look at what is due, until cancelled; a cluster that hangs holds up no other."""
        async with asyncio.TaskGroup() as looks:
            while True:
                looks.create_task(self.look())
                await asyncio.sleep(TICK)

    async def look(self) -> None:
        """Ask every ready cluster whose turn it is, all at once."""
        if not self._wanted():
            self._nodes.clear()
            self._fits.clear()
            self._due.clear()
            return
        now = asyncio.get_running_loop().time()
        clusters = self._clusters()
        for name in [name for name in self._nodes if name not in clusters or not clusters[name].view.ready]:
            self._forget(name)
        due = [
            (name, cluster.connection.api)
            for name, cluster in clusters.items()
            if cluster.view.ready and cluster.connection is not None and self._due.get(name, now) <= now
        ]
        await asyncio.gather(*(self._ask(name, api) for name, api in due))

    async def _ask(self, name: ClusterName, api: ApiServer) -> None:
        self._due[name] = asyncio.get_running_loop().time() + INTERVAL
        try:
            async with asyncio.timeout(INTERVAL):
                nodes = await self._read(api)
        except _Unanswered as unanswered:
            reply = unanswered.reply
            if reply.outcome is Outcome.FORBIDDEN:
                self._due[name] = asyncio.get_running_loop().time() + RETRY
            logger.info("free nodes not known", extra={"cluster": name, "answer": str(reply)})
            self._forget(name)
            return
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, TimeoutError) as error:
            logger.warning("free nodes not readable", extra={"cluster": name, "error": type(error).__name__})
            self._forget(name)
            return
        self._nodes[name] = nodes
        self._fits[name] = {}

    def _forget(self, name: ClusterName) -> None:
        self._nodes.pop(name, None)
        self._fits.pop(name, None)

    async def _read(self, api: ApiServer) -> list[Node]:
        nodes: dict[str, Node] = {}

        def add(items: list[Manifest]) -> None:
            for item in items:
                node = fitting.read_node(item)
                if node is not None:
                    nodes[node.name] = node

        def take(items: list[Manifest]) -> None:
            for item in items:
                fitting.take(nodes, item)

        await _each_page(api, "nodes", {}, add)
        await _each_page(api, "pods", {"fieldSelector": RUNNING}, take)
        return list(nodes.values())


async def _each_page(
    api: ApiServer, resource: str, params: Mapping[str, str], use: Callable[[list[Manifest]], None]
) -> None:
    """Read a list, page by page where the server pages it, each used in a thread: large ones take a while."""
    token, size = "", 0
    while True:
        paging = {"continue": token} if token else {"resourceVersion": "0"}
        reply = await api.request(
            "GET",
            resource_path("v1", resource),
            params={**params, "limit": PAGE_SIZE, **paging},
            timeout=TIMEOUT,
            max_bytes=MOST_BYTES - size,
        )
        if not reply.ok or reply.body is None:
            raise _Unanswered(reply)
        size += reply.size
        await asyncio.to_thread(use, reply.body.get("items") or [])
        token = (reply.body.get("metadata") or {}).get("continue") or ""
        if not token:
            return
