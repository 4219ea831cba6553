"""The Jobs of one cluster, created, deleted and watched by its administrator."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from dispatcher.clusters import jobs
from dispatcher.clusters.cache import ObjectCache, OnChange
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.clusters.reflector import Reflector
from dispatcher.clusters.reply import Outcome
from hack.lab import Plane


class ClusterJobs:
    """An async context: in it, ``cache`` follows the plane's Jobs and ``on_change`` is told of each change."""

    def __init__(self, plane: Plane, *, on_change: OnChange | None = None) -> None:
        self.name = plane.name
        self.cache = ObjectCache(on_change=on_change)
        self._kubeconfig = plane.kubeconfig
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._api = ApiServer(await load_kubeconfig_file(self._kubeconfig), timeout=30.0)
        self._stack.push_async_callback(self._api.close)
        reflector = Reflector(self._api, jobs.jobs_path(), self.cache)
        task = asyncio.create_task(reflector.run(), name=f"watch {self.name}")
        self._stack.push_async_callback(_cancel, task)
        await reflector.synced.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """POST a Job. Raises RuntimeError with the server's refusal."""
        reply = await jobs.create_job(self._api, manifest["metadata"]["namespace"], dict(manifest))
        if not reply.ok or reply.body is None:
            raise RuntimeError(f"{self.name}: Job {manifest['metadata']['name']} was refused: {reply}")
        return reply.body

    async def delete(self, job: Mapping[str, Any]) -> None:
        """DELETE this Job, if it is still there, with background propagation."""
        metadata = job["metadata"]
        reply = await jobs.delete_job(self._api, metadata["namespace"], metadata["name"], metadata["uid"])
        if not reply.ok and reply.outcome is not Outcome.NOT_FOUND:
            raise RuntimeError(f"{self.name}: Job {metadata['name']} could not be deleted: {reply}")


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
