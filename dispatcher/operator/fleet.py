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
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.expiry import credentials_expiry
from dispatcher.clusters.foreign_jobs import kept, weight
from dispatcher.clusters.health import Health
from dispatcher.clusters.kubeconfig import KubeconfigError, parse_kubeconfig
from dispatcher.clusters.worker import WorkerConnection
from dispatcher.core import names
from dispatcher.core.mirror import job_uid_of, only_gathers
from dispatcher.operator.cluster_status import StatusPublisher
from dispatcher.operator.queue import Key
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.settings import Settings
from dispatcher.operator.world import World, mirror_is_at_rest, utc_now

logger = logging.getLogger(__name__)

DEFAULT_KEY = "kubeconfig"
WRITES_AT_ONCE = 12
"""To one cluster, as long as it answers in good time: each more of them is one more TLS handshake."""


def _set_by_us(manifest: dict[str, Any]) -> tuple[Any, ...]:
    """The parts of a mirror that only we should change."""
    metadata = manifest["metadata"]
    return manifest.get("spec"), metadata.get("labels"), metadata.get("annotations")


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
        self._secrets = secrets
        self.clusters: dict[names.ClusterName, RegisteredCluster] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.status = StatusPublisher(management, self.clusters)
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
            before = cluster.manifest["metadata"]
            meta_changed = any(
                before.get(field) != manifest["metadata"].get(field)
                for field in ("labels", "annotations", "deletionTimestamp")
            )
            cluster.manifest = manifest
            if not spec_changed and not meta_changed:
                return
            self.status.due(name)
        cluster.changed()
        if spec_changed:
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
            if old is not None and new is not None and _set_by_us(old) != _set_by_us(new):
                metadata = new["metadata"]
                key = self._world.key_of(job_uid_of(new) or "")
                if key is not None and not self.is_writing(key, name, metadata["name"]):
                    self._world.mirror_notes.edited_by_others(name, new)
            self._world.mirror_notes.pods_changed(name, old, new)
            if old is not None and new is not None and only_gathers(old, new):
                return  # the settled counters come right after
            if new is not None:
                self._world.mirror_changed(new, name)
            if old is not None and (new is None or job_uid_of(old) != job_uid_of(new)):
                self._world.mirror_changed(old, name)  # it may have lost the label that names its Job

        def on_delete(last: dict[str, Any], _final: bool) -> None:
            self._world.mirror_notes.deleted(name, last)

        return ObjectCache(
            trim=kept,
            packs=mirror_is_at_rest,
            weigh=weight,
            max_weight=self._settings.worker_memory_limit * 2**20,
            index=job_uid_of,
            on_change=on_change,
            on_delete=on_delete,
        )

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

    def secret_of(self, cluster: RegisteredCluster) -> dict[str, Any] | None:
        """The Secret with a cluster's kubeconfig, as last seen."""
        return self._secrets.get(self._settings.namespace, self._secret_ref(cluster)[0])

    def renews_token(self, cluster: RegisteredCluster) -> bool:
        """Whether the dispatcher renews this cluster's token."""
        labels = (self.secret_of(cluster) or {}).get("metadata", {}).get("labels") or {}
        asked_for = labels.get(names.TOKEN_RENEWAL_LABEL) == names.TOKEN_RENEWAL_ENABLED
        return self._settings.token_renewal and asked_for

    def secret_key_of(self, cluster: RegisteredCluster) -> str:
        """The key in it."""
        return self._secret_ref(cluster)[1]

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
            api = ApiServer.from_credentials(credentials, writes=WRITES_AT_ONCE, observe=observe)
        except KubeconfigError as error:
            cluster.fault = error
            self._health_changed(cluster)
            return
        cluster.fault = None
        cluster.credentials = text
        cluster.credentials_expiry = credentials_expiry(credentials)
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
        was_ready = cluster.view.ready
        self._find_twins()
        cluster.changed()
        if cluster.view.ready and not was_ready:
            self._world.mirror_notes.forget_attempts(cluster.name)
        self._world.wake_all()
        self._health_turned.set()
        if not cluster.tried:
            return  # what was published before the start still says more than "connecting"
        self.status.due(cluster.name)

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
                self.status.due(cluster.name)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Close every connection."""
        stops = [c.connection.stop() for c in self.clusters.values() if c.connection is not None]
        await asyncio.gather(*stops)
        for task in list(self._tasks):
            task.cancel()
