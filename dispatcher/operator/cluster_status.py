"""The status of WorkerClusters: written when it changed, by one task, apart from everything else."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from dispatcher.clusters import client
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.reply import Outcome
from dispatcher.core import names
from dispatcher.core.job import timestamp
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.world import utc_now

logger = logging.getLogger(__name__)

LISTED_MIRRORS = 5
COUNT_INTERVAL = 10.0
"""Seconds between two looks at the counts in a WorkerCluster's status; they are for people."""


class StatusPublisher:
    """Writes the status of the clusters that :meth:`due` named, and of all with new counts."""

    def __init__(
        self, management: ApiServer, clusters: Mapping[names.ClusterName, RegisteredCluster]
    ) -> None:
        self._management = management
        self._clusters = clusters
        self._due: set[names.ClusterName] = set()
        self._wake = asyncio.Event()

    def due(self, name: names.ClusterName) -> None:
        """This cluster's status may have changed."""
        self._due.add(name)
        self._wake.set()

    async def run(self) -> None:
        """Write each WorkerCluster's status when it changed, for as long as the process runs."""
        while True:
            try:
                async with asyncio.timeout(COUNT_INTERVAL):
                    await self._wake.wait()
            except TimeoutError:
                self._due.update(cluster.name for cluster in self._clusters.values() if cluster.view.ready)
            self._wake.clear()
            due, self._due = self._due, set()
            for name in sorted(due):
                cluster = self._clusters.get(name)
                if cluster is not None and not await self._publish(cluster):
                    self._due.add(name)
            if self._due:
                await asyncio.sleep(1.0)
                self._wake.set()

    async def _publish(self, cluster: RegisteredCluster) -> bool:
        before = cluster.manifest.get("status") or {}
        status = next_status(cluster, before)
        if status == before:
            return True
        path = client.resource_path(
            f"{names.API_GROUP}/{names.API_VERSION}", "workerclusters", name=cluster.name, sub="status"
        )
        body = {"metadata": {"uid": cluster.manifest["metadata"]["uid"]}, "status": status}
        reply = await self._management.request("PATCH", path, body=body, content_type=client.MERGE_PATCH)
        if reply.ok and reply.body is not None:
            # The status only: a spec that the watch has not brought yet would never be seen to change.
            cluster.manifest = {**cluster.manifest, "status": reply.body.get("status") or {}}
            return True
        logger.warning(
            "WorkerCluster status not written", extra={"cluster": cluster.name, "answer": str(reply)}
        )
        return reply.outcome in (Outcome.NOT_FOUND, Outcome.CONFLICT, Outcome.INVALID)


def drained(cluster: RegisteredCluster) -> tuple[bool, str, str]:
    """The condition Drained of a cluster that is being emptied: status, reason, and what it waits for."""
    ready, reason, _message = cluster.health
    if not ready:
        text = f"it cannot be seen what is left there ({reason}); if it will not come back: "
        return False, "ClusterUnreachable", text + f"kubectl dispatch forget {cluster.name}"
    left = cluster.left_mirrors()
    if not left:
        return True, "Drained", "no mirror is left"
    more = f" and {len(left) - LISTED_MIRRORS} more" if len(left) > LISTED_MIRRORS else ""
    return False, "WaitingForMirrors", f"{len(left)} left: {', '.join(left[:LISTED_MIRRORS])}{more}"


def next_status(cluster: RegisteredCluster, before: dict[str, Any]) -> dict[str, Any]:
    """The status of a WorkerCluster; lastTransitionTime moves only when Ready turns."""
    ready, reason, message = cluster.health
    status = dict(before)
    conditions = {entry["type"]: dict(entry) for entry in before.get("conditions") or ()}
    found = {"Ready": (ready, reason, message)}
    if cluster.drains:
        found["Drained"] = drained(cluster)
    else:
        conditions.pop("Drained", None)
    for kind, (holds, why, text) in found.items():
        value = "True" if holds else "False"
        old = conditions.get(kind, {})
        turned = old.get("status") != value
        conditions[kind] = {
            "type": kind,
            "status": value,
            "reason": why,
            "message": text[:1024],
            "lastTransitionTime": timestamp(utc_now()) if turned else old.get("lastTransitionTime"),
            "observedGeneration": cluster.manifest["metadata"].get("generation", 0),
        }
    status["conditions"] = list(conditions.values())
    if cluster.connection is not None:
        if cluster.connection.cluster_uid and ready:
            status["clusterUID"] = cluster.connection.cluster_uid
        if cluster.connection.server_version:
            status["serverVersion"] = cluster.connection.server_version
    if ready:
        status["mirrors"] = len(cluster.mirrors)
        status["activePods"] = sum(
            (m.get("status") or {}).get("active") or 0 for m in cluster.mirrors.unpacked()
        )
    return status
