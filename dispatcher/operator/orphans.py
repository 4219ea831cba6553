"""Mirrors whose Job is gone: found by a live look at the management cluster, then removed.

Never concluded from a cache: only a 404 or another UID from the API server makes a mirror an orphan.
"""

import asyncio
import logging
from typing import Any

from dispatcher import metrics
from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.reply import Outcome
from dispatcher.core import names
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.world import World

logger = logging.getLogger(__name__)


class OrphanCollector:
    """Looks every ``interval`` seconds for mirrors of Jobs that are not known here."""

    def __init__(
        self, *, fleet: Fleet, world: World, management: ApiServer, managed_by: str, interval: float
    ) -> None:
        self._fleet = fleet
        self._world = world
        self._management = management
        self._managed_by = managed_by
        self._interval = interval

    async def run(self) -> None:
        """Collect for as long as the process runs."""
        while True:
            await asyncio.sleep(self._interval)
            await self.collect()

    async def collect(self) -> None:
        """One look at all connected clusters."""
        for cluster in list(self._fleet.clusters.values()):
            if not cluster.view.ready:
                continue
            for uid in cluster.mirrors.groups():
                if self._world.key_of(uid) is None:
                    for mirror in cluster.mirrors.in_group(uid):
                        await self._check(cluster, mirror)

    async def _check(self, cluster: RegisteredCluster, mirror: dict[str, Any]) -> None:
        metadata = mirror["metadata"]
        if "deletionTimestamp" in metadata:
            return
        name = (metadata.get("annotations") or {}).get(names.JOB_NAME_ANNOTATION) or metadata["name"]
        uid = metadata["labels"][names.JOB_UID_LABEL]
        reply = await jobs.get_job(self._management, metadata["namespace"], name)
        if reply.ok and reply.body is not None and reply.body["metadata"]["uid"] == uid:
            if reply.body["spec"].get("managedBy") == self._managed_by:
                self._world.jobs.put(reply.body)
            return
        if not reply.ok and reply.outcome is not Outcome.NOT_FOUND:
            return
        deleted = await jobs.delete_job(cluster.api, metadata["namespace"], metadata["name"], metadata["uid"])
        if deleted.ok or deleted.outcome is Outcome.NOT_FOUND:
            metrics.ORPHANS_REMOVED.labels(cluster.name).inc()
            logger.info(
                "orphan removed",
                extra={"cluster": cluster.name, "mirror": f"{metadata['namespace']}/{metadata['name']}"},
            )
