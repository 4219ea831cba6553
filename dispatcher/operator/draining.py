"""WorkerClusters that are being deleted: held by a finalizer until nothing of ours is left there."""

import asyncio
import logging
from collections.abc import Mapping

from dispatcher.clusters.cache import resource_version
from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path
from dispatcher.clusters.reply import Outcome
from dispatcher.core import names
from dispatcher.operator.cluster_status import StatusPublisher
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.world import World

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two looks at clusters that are being emptied."""


class Drainer:
    """Puts the finalizer on every WorkerCluster, and takes it off one that is empty or was forgotten."""

    def __init__(
        self,
        *,
        management: ApiServer,
        clusters: Mapping[names.ClusterName, RegisteredCluster],
        world: World,
        status: StatusPublisher,
    ) -> None:
        self._management = management
        self._clusters = clusters
        self._world = world
        self._status = status

    async def run(self) -> None:
        """Look again and again for as long as the process runs."""
        while True:
            await asyncio.sleep(INTERVAL)
            for cluster in list(self._clusters.values()):
                await self._look(cluster)

    async def _look(self, cluster: RegisteredCluster) -> None:
        held = names.DRAIN_FINALIZER in (cluster.manifest["metadata"].get("finalizers") or ())
        if cluster.drains:
            self._status.due(cluster.name)
        if not cluster.leaving and not held:
            await self._set_finalizer(cluster, present=True)
        elif cluster.leaving and held:
            self._world.wake_users_of(cluster.name)
            if cluster.forgotten or self._is_empty(cluster):
                await self._set_finalizer(cluster, present=False)

    def _is_empty(self, cluster: RegisteredCluster) -> bool:
        if self._world.holds_share(cluster.name):
            return False
        never_used = cluster.expected_uid is None or bool(cluster.twin)
        return never_used or (cluster.view.ready and not cluster.left_mirrors())

    async def _set_finalizer(self, cluster: RegisteredCluster, *, present: bool) -> None:
        metadata = cluster.manifest["metadata"]
        others = [entry for entry in metadata.get("finalizers") or () if entry != names.DRAIN_FINALIZER]
        body = {
            "metadata": {
                "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"],
                "finalizers": [*others, names.DRAIN_FINALIZER] if present else others,
            }
        }
        path = resource_path(f"{names.API_GROUP}/{names.API_VERSION}", "workerclusters", name=cluster.name)
        reply = await self._management.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        if reply.ok and reply.body is not None:
            if resource_version(reply.body) > resource_version(cluster.manifest):
                cluster.manifest = reply.body  # else the watch was faster, and may have brought more
            logger.info(
                "WorkerCluster is drained before it goes" if present else "WorkerCluster is released",
                extra={"cluster": cluster.name},
            )
        elif reply.outcome not in (Outcome.CONFLICT, Outcome.NOT_FOUND):
            logger.warning("finalizer not written", extra={"cluster": cluster.name, "answer": str(reply)})
