"""What a replica that takes a Lease over does before it writes: its warm caches are brought up to now.

A cache that lags behind (a watch that hangs unnoticed) would decide on a state that the earlier holder has long
changed. A process that starts has lists that are newer than the earlier one's last write; this gives the same.
"""

import asyncio
import logging
from collections.abc import Container

from dispatcher.clusters import jobs
from dispatcher.clusters.cache import Key, ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.listing import Listing
from dispatcher.clusters.reply import Manifest
from dispatcher.core import names
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.world import World

logger = logging.getLogger(__name__)

WORKER_SECONDS = 5.0
"""How long one worker cluster may hold a takeover up; what it misses then comes by its watch."""
PAGE = 500
MAX_PAGE_BYTES = 4 * 2**20
MAX_OBJECTS = 1_000_000


class _OurJobs(ObjectCache):
    """Passes a list of all Jobs on to the cache of ours."""

    def __init__(self, target: ObjectCache, managed_by: str) -> None:
        super().__init__()
        self._target = target
        self._managed_by = managed_by
        self.highest_version = target.highest_version

    def put(self, manifest: Manifest) -> bool:
        """Keep a Job that is ours; leave every other alone."""
        return manifest["spec"].get("managedBy") == self._managed_by and self._target.put(manifest)

    def sweep(self, listed: Container[Key], list_version: int) -> None:
        """The end of the list."""
        self._target.sweep(listed, list_version)

    def rewind(self, list_version: int) -> None:
        """The store was restored from a backup."""
        self._target.rewind(list_version)


class Takeover:
    """Lists Jobs and mirrors anew into the caches that are already there."""

    def __init__(self, *, management: ApiServer, fleet: Fleet, world: World, managed_by: str) -> None:
        self._management = management
        self._fleet = fleet
        self._world = world
        self._managed_by = managed_by

    async def prepare(self, _shard: int) -> None:
        """Return once every cache is at least as new as this call, but for clusters that do not answer."""
        clusters = [cluster for cluster in self._fleet.clusters.values() if cluster.view.ready]
        await asyncio.gather(self._list_jobs(), *(self._list_mirrors(cluster) for cluster in clusters))
        self._world.mirror_notes.forget_all_edits()

    async def _list_jobs(self) -> None:
        while True:
            target = _OurJobs(self._world.jobs, self._managed_by)
            reply = await self._listing(self._management, target).run()
            if reply.ok:
                return
            logger.warning("the Jobs cannot be listed to take over", extra={"answer": str(reply)})
            await asyncio.sleep(0.5)

    async def _list_mirrors(self, cluster: RegisteredCluster) -> None:
        selector = f"{names.ORIGIN_LABEL}={self._world.rules.origin}"
        try:
            async with asyncio.timeout(WORKER_SECONDS):
                reply = await self._listing(cluster.api, cluster.mirrors, selector).run()
        except TimeoutError:
            reply = None
        if (reply is None or not reply.ok) and cluster.connection is not None:
            logger.warning("a worker's mirrors could not be listed in time", extra={"cluster": cluster.name})
            cluster.connection.reflector.invalidate()

    @staticmethod
    def _listing(api: ApiServer, cache: ObjectCache, label_selector: str = "") -> Listing:
        return Listing(
            api,
            jobs.jobs_path(),
            cache,
            label_selector=label_selector,
            page_size=PAGE,
            max_page_bytes=MAX_PAGE_BYTES,
            max_objects=MAX_OBJECTS,
            timeout=30.0,
            wanted=lambda: True,
        )
