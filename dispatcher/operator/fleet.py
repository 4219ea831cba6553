"""The registered worker clusters: each WorkerCluster with its Secret becomes a connection.

A cluster whose Secret cannot be used is registered all the same, not ready and with the reason, so
that Jobs which have a share there wait for it.
"""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable
from typing import Any

from dispatcher import metrics
from dispatcher.clusters import client, jobs
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.health import Health
from dispatcher.clusters.kubeconfig import KubeconfigError, parse_kubeconfig
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.clusters.worker import WorkerConnection
from dispatcher.core import names
from dispatcher.core.job import timestamp
from dispatcher.core.observation import Cluster
from dispatcher.operator.queue import Key
from dispatcher.operator.settings import Settings
from dispatcher.operator.world import World, utc_now

logger = logging.getLogger(__name__)

DEFAULT_KEY = "kubeconfig"
COUNT_INTERVAL = 10.0
"""Seconds between two looks at the counts in a WorkerCluster's status; they are for people."""


def job_uid_of(manifest: dict[str, Any]) -> str | None:
    """The management Job's UID that a mirror carries."""
    uid = (manifest["metadata"].get("labels") or {}).get(names.JOB_UID_LABEL)
    return uid if isinstance(uid, str) else None


def _set_by_us(manifest: dict[str, Any]) -> tuple[Any, ...]:
    """The parts of a mirror that only we should change."""
    metadata = manifest["metadata"]
    return manifest.get("spec"), metadata.get("labels"), metadata.get("annotations")


class RegisteredCluster:
    """One WorkerCluster: its object, its connection if it has one, and its mirrors."""

    def __init__(self, manifest: dict[str, Any], mirrors: ObjectCache) -> None:
        self.manifest = manifest
        self.mirrors = mirrors
        self.connection: WorkerConnection | None = None
        self.credentials: str | None = None
        self.fault: KubeconfigError | None = KubeconfigError("Connecting", "not connected yet")
        self.twin: str = ""
        """What else is registered for the same cluster; empty where nothing is."""
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
                labels=self.manifest["metadata"].get("labels") or {},
                namespace_selector=spec.get("namespaceSelector"),
            )
        return self._view

    def changed(self) -> None:
        """Form the view anew at the next look."""
        self._view = None


class Fleet:
    """Keeps connections equal to the WorkerCluster objects and their Secrets."""

    def __init__(
        self,
        *,
        settings: Settings,
        world: World,
        management: ApiServer,
        management_uid: str,
        local_api: Callable[[], ApiServer],
        secrets: ObjectCache,
    ) -> None:
        self._management_uid = management_uid
        self.is_writing: Callable[[Key, names.ClusterName, str], bool] = lambda _key, _cluster, _mirror: False
        """Whether a write of ours for a mirror is under way (set by the process)."""
        self._local_api = local_api
        self._settings = settings
        self._world = world
        self._management = management
        self._secrets = secrets
        self.clusters: dict[names.ClusterName, RegisteredCluster] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._status_due: set[names.ClusterName] = set()
        self._status_wake = asyncio.Event()
        self._health_turned = asyncio.Event()
        secrets.on_change = self._secret_changed

    def get(self, name: names.ClusterName) -> RegisteredCluster | None:
        """A cluster that requests can be sent to, by name."""
        cluster = self.clusters.get(name)
        return cluster if cluster is not None and cluster.connection is not None else None

    @property
    def tried(self) -> bool:
        """Every cluster has answered or failed once."""
        return all(cluster.tried for cluster in self.clusters.values())

    async def all_tried(self) -> None:
        """Wait until every cluster has answered or failed once."""
        while not self.tried:
            self._health_turned.clear()
            await self._health_turned.wait()

    def update(self, manifest: dict[str, Any]) -> None:
        """A WorkerCluster was made or changed."""
        name = names.ClusterName(manifest["metadata"]["name"])
        cluster = self.clusters.get(name)
        if cluster is None:
            cluster = RegisteredCluster(manifest, self._mirror_cache(name))
            self.clusters[name] = cluster
            self._world.workers[name] = cluster
            spec_changed = True
        else:
            spec_changed = cluster.manifest.get("spec") != manifest.get("spec")
            labels_changed = cluster.manifest["metadata"].get("labels") != manifest["metadata"].get("labels")
            cluster.manifest = manifest
            if not spec_changed and not labels_changed:
                return
        cluster.changed()
        self._connect(cluster)
        self._world.wake_all()

    def remove(self, name: names.ClusterName) -> None:
        """A WorkerCluster is gone; its mirrors are out of sight, not deleted."""
        cluster = self.clusters.pop(name, None)
        self._world.workers.pop(name, None)
        if cluster is not None and cluster.connection is not None:
            self._spawn(cluster.connection.stop())
        self._world.wake_all()

    def _mirror_cache(self, name: names.ClusterName) -> ObjectCache:
        def on_change(old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
            manifest = new or old
            if old is not None and new is not None and _set_by_us(old) != _set_by_us(new):
                metadata = new["metadata"]
                key = self._world.key_of(job_uid_of(new) or "")
                if key is not None and not self.is_writing(key, name, metadata["name"]):
                    self._world.mirror_edited(name, new)
            if manifest is not None:
                self._world.mirror_changed(manifest)

        def on_delete(last: dict[str, Any], _final: bool) -> None:
            if self._world.mirror_deleted(name, last):
                self._spawn(self._prove(name, last))

        return ObjectCache(index=job_uid_of, on_change=on_change, on_delete=on_delete)

    async def _prove(self, name: names.ClusterName, last: dict[str, Any]) -> None:
        """Find out whether a mirror that left our watch is gone, or only lost its labels; put these back."""
        metadata = last["metadata"]
        while (cluster := self.get(name)) is not None:
            reply = await jobs.get_job(cluster.api, metadata["namespace"], metadata["name"])
            if reply.outcome is Outcome.NOT_FOUND:
                self._world.mirror_proven(name, last, gone=True)
                return
            if reply.ok and reply.body is not None:
                if reply.body["metadata"]["uid"] != metadata["uid"]:
                    self._world.mirror_proven(name, last, gone=True)
                    return
                patch = {"metadata": {"uid": metadata["uid"], "labels": metadata["labels"]}}
                reply = await jobs.patch_job(cluster.api, metadata["namespace"], metadata["name"], patch)
                if reply.ok and reply.body is not None:
                    cluster.mirrors.put(reply.body)
                    self._world.mirror_proven(name, last, gone=False)
                    return
            cluster.note_failure(reply)
            await asyncio.sleep(1.0)

    def _secret_changed(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        manifest = new or old
        name = manifest["metadata"]["name"] if manifest else ""
        for cluster in self.clusters.values():
            if self._secret_ref(cluster)[0] == name:
                self._connect(cluster)

    @staticmethod
    def _secret_ref(cluster: RegisteredCluster) -> tuple[str, str]:
        ref = (cluster.manifest.get("spec") or {}).get("kubeconfigSecretRef") or {}
        return ref.get("name", ""), ref.get("key", DEFAULT_KEY)

    def _kubeconfig(self, cluster: RegisteredCluster) -> bytes:
        name, key = self._secret_ref(cluster)
        where = f"{self._settings.namespace}/{name}"
        secret = self._secrets.get(self._settings.namespace, name)
        if secret is None:
            raise KubeconfigError("SecretNotFound", f"there is no Secret {where}; create it with key {key}")
        data = (secret.get("data") or {}).get(key)
        if not data:
            raise KubeconfigError("SecretKeyMissing", f"Secret {where} has no key {key}; add it")
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise KubeconfigError("SecretUnreadable", f"key {key} of Secret {where} is no base64") from None

    def _connect(self, cluster: RegisteredCluster) -> None:
        """Connect, or go on with new credentials, or say why not."""
        if (cluster.manifest.get("spec") or {}).get("local"):
            if cluster.connection is None:
                cluster.fault = None
                self._start(cluster, self._local_api())
            return
        try:
            raw = self._kubeconfig(cluster)
            text = raw.decode("utf-8", "replace")
            if cluster.credentials == text and cluster.connection is not None:
                cluster.connection.retry_now()
                return
            credentials = parse_kubeconfig(raw, allow_insecure=self._settings.allow_insecure_kubeconfigs)
            observe = metrics.observe_requests(cluster.name)
            api = ApiServer.from_credentials(credentials, observe=observe)
        except KubeconfigError as error:
            cluster.fault = error
            self._health_changed(cluster)
            return
        cluster.fault = None
        cluster.credentials = text
        if cluster.connection is not None:
            self._spawn(cluster.connection.replace(api))
            return
        self._start(cluster, api)

    def _start(self, cluster: RegisteredCluster, api: ApiServer) -> None:
        cluster.connection = WorkerConnection(
            cluster.name,
            api,
            cluster.mirrors,
            label_selector=f"{names.ORIGIN_LABEL}={self._world.rules.origin}",
            expected_uid=cluster.expected_uid,
            now=utc_now,
            on_health=lambda _health: self._health_changed(cluster),
        )
        cluster.connection.start()

    def _health_changed(self, cluster: RegisteredCluster, _health: Health | None = None) -> None:
        self._find_twins()
        cluster.changed()
        self._world.wake_all()
        self._health_turned.set()
        if not cluster.tried:
            return  # what was published before the start still says more than "connecting"
        self._status_due.add(cluster.name)
        self._status_wake.set()
        metrics.CLUSTER_READY.labels(cluster.name).set(1 if cluster.health[0] else 0)

    def _find_twins(self) -> None:
        """Of several registrations of one cluster, only the oldest is used; the management one only as local."""
        first: dict[str, str] = {}
        by_age = sorted(
            self.clusters.values(),
            key=lambda c: (c.manifest["metadata"].get("creationTimestamp", ""), c.name),
        )
        for cluster in by_age:
            uid = cluster.connection.cluster_uid if cluster.connection is not None else None
            if not uid:
                continue
            local = bool((cluster.manifest.get("spec") or {}).get("local"))
            twin = first.get(uid, "")
            if uid == self._management_uid and not local:
                twin = "the management cluster (use spec.local: true for it)"
            first.setdefault(uid, f"WorkerCluster {cluster.name}")
            if twin != cluster.twin:
                cluster.twin = twin
                cluster.changed()
                self._status_due.add(cluster.name)
                self._status_wake.set()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def publish(self) -> None:
        """Write each WorkerCluster's status when it changed, for as long as the process runs."""
        while True:
            try:
                async with asyncio.timeout(COUNT_INTERVAL):
                    await self._status_wake.wait()
            except TimeoutError:
                self._status_due.update(
                    cluster.name for cluster in self.clusters.values() if cluster.view.ready
                )
            self._status_wake.clear()
            due, self._status_due = self._status_due, set()
            for name in sorted(due):
                cluster = self.clusters.get(name)
                if cluster is not None and not await self._publish(cluster):
                    self._status_due.add(name)
            if self._status_due:
                await asyncio.sleep(1.0)
                self._status_wake.set()

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
            cluster.manifest = reply.body
            return True
        logger.warning(
            "WorkerCluster status not written", extra={"cluster": cluster.name, "answer": str(reply)}
        )
        return reply.outcome in (Outcome.NOT_FOUND, Outcome.CONFLICT, Outcome.INVALID)

    async def stop(self) -> None:
        """Close every connection."""
        stops = [c.connection.stop() for c in self.clusters.values() if c.connection is not None]
        await asyncio.gather(*stops)
        for task in list(self._tasks):
            task.cancel()


def next_status(cluster: RegisteredCluster, before: dict[str, Any]) -> dict[str, Any]:
    """The status of a WorkerCluster; lastTransitionTime moves only when Ready turns."""
    ready, reason, message = cluster.health
    status = dict(before)
    conditions = {entry["type"]: dict(entry) for entry in before.get("conditions") or ()}
    value = "True" if ready else "False"
    old = conditions.get("Ready", {})
    turned = old.get("status") != value
    conditions["Ready"] = {
        "type": "Ready",
        "status": value,
        "reason": reason,
        "message": message[:1024],
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
        status["activePods"] = sum((m.get("status") or {}).get("active") or 0 for m in cluster.mirrors)
    return status
