"""One registered worker cluster: its WorkerCluster object, its connection, and its mirrors."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import KubeconfigError
from dispatcher.clusters.reply import Reply
from dispatcher.clusters.worker import WorkerConnection
from dispatcher.core import names
from dispatcher.core.job import parse_timestamp
from dispatcher.core.mirror import read_mirror
from dispatcher.core.observation import Cluster
from dispatcher.core.policy import Taint, TaintEffect, read_taints
from dispatcher.operator.world import utc_now


class RegisteredCluster:
    """One WorkerCluster: its object, its connection if it has one, and its mirrors."""

    def __init__(self, manifest: dict[str, Any], mirrors: ObjectCache) -> None:
        self.manifest = manifest
        self.mirrors = mirrors
        self.connection: WorkerConnection | None = None
        self.credentials: str | None = None
        self.credentials_expiry: datetime | None = None
        self.fault: KubeconfigError | None = KubeconfigError("Connecting", "not connected yet")
        self.twin: str = ""
        """What else is registered for the same cluster; empty where nothing is."""
        self._was_ready = False
        self._away: datetime | None = None
        self._tainted_since: dict[Taint, datetime] = {}
        self._view: Cluster | None = None

    @property
    def name(self) -> names.ClusterName:
        """``metadata.name``."""
        return names.ClusterName(self.manifest["metadata"]["name"])

    @property
    def expected_uid(self) -> str | None:
        """The UID of the cluster's kube-system namespace as first recorded."""
        uid = (self.manifest.get("status") or {}).get("clusterUID")
        return uid if isinstance(uid, str) and uid else None

    @property
    def api(self) -> ApiServer:
        """The client to use for the next request; only a connected cluster is ever asked."""
        if self.connection is None:
            raise LookupError(f"cluster {self.name} has no connection")
        return self.connection.api

    @property
    def tried(self) -> bool:
        """Whether the first try to connect has ended, well or not."""
        if self.connection is None:
            return self.fault is not None and self.fault.reason != "Connecting"
        return self.connection.health.ready or self.connection.health.reason not in (
            "Connecting",
            "NotSynced",
        )

    def note_failure(self, reply: Reply) -> None:
        """A request failed in a way that may be the cluster's."""
        if self.connection is not None:
            self.connection.note_failure(reply)

    @property
    def health(self) -> tuple[bool, str, str]:
        """Ready, reason, message."""
        if self.fault is not None:
            return False, self.fault.reason, self.fault.message
        if self.connection is None:
            return False, "Connecting", "not connected yet"
        if self.twin:
            text = f"this is the same cluster as {self.twin} (the UID of kube-system says so); remove one of the two"
            return False, "AlreadyRegistered", text
        health = self.connection.health
        return health.ready, health.reason.value, health.message

    @property
    def leaving(self) -> bool:
        """The WorkerCluster is being deleted."""
        return "deletionTimestamp" in self.manifest["metadata"]

    @property
    def forgotten(self) -> bool:
        """A person has said that nothing is to be waited for there."""
        return (self.manifest["metadata"].get("annotations") or {}).get(names.FORGET_ANNOTATION) == "true"

    @property
    def drains(self) -> bool:
        """It is being emptied: removed, or under a NoExecute taint."""
        effects = {taint.effect for taint in read_taints(self.manifest.get("spec") or {})}
        return self.leaving or TaintEffect.NO_EXECUTE in effects

    def left_mirrors(self) -> list[str]:
        """What a drain waits for, as ``namespace/name``: unfinished mirrors; all of them where it is removed."""
        unfinished = (m for m in self.mirrors.unpacked() if not read_mirror(m, self.name).finished)
        left = self.mirrors if self.leaving else unfinished
        return sorted(f"{mirror['metadata']['namespace']}/{mirror['metadata']['name']}" for mirror in left)

    @property
    def view(self) -> Cluster:
        """As a decision sees it."""
        if self._view is None:
            spec = self.manifest.get("spec") or {}
            ready, reason, message = self.health
            uid = self.connection.cluster_uid if self.connection else self.expected_uid
            self._view = Cluster(
                name=self.name,
                uid=uid or "",
                ready=ready,
                reason=reason,
                message=message,
                weight=spec.get("weight", 1),
                unschedulable=bool(spec.get("unschedulable")),
                away_since=self._away_since(ready),
                leaving=self.leaving,
                capacity=(spec.get("capacity") or {}).get("parallelism"),
                taints=read_taints(spec),
                tainted_since=self._seen_taints(read_taints(spec)),
                labels=self.manifest["metadata"].get("labels") or {},
                namespace_selector=spec.get("namespaceSelector"),
                local=bool(spec.get("local")),
                create_namespace=bool(spec.get("createNamespace")),
            )
        return self._view

    def _away_since(self, ready: bool) -> datetime | None:
        """Since when it is not ready: as published, if no process has seen it ready since."""
        if ready:
            self._was_ready, self._away = True, None
        elif self._away is None:
            self._away = (None if self._was_ready else self._published_away()) or utc_now()
        return self._away

    def _published_away(self) -> datetime | None:
        for entry in (self.manifest.get("status") or {}).get("conditions") or ():
            if entry.get("type") == "Ready" and entry.get("status") == "False":
                return parse_timestamp(entry.get("lastTransitionTime"))
        return None

    def _seen_taints(self, taints: tuple[Taint, ...]) -> Mapping[Taint, datetime]:
        self._tainted_since = {taint: self._tainted_since.get(taint, utc_now()) for taint in taints}
        return self._tainted_since

    def changed(self) -> None:
        """Form the view anew at the next look."""
        self._view = None
