"""The watches on the management cluster.

Our own resources and namespaces by kopf: low-level events only, each becomes a change of a cache. kopf retries,
reconnects and relists by itself.

Jobs by the reflector that also watches the workers: nearly all events are theirs, kopf takes about half a millisecond
of CPU for each, and after a relist it tells nothing of what went in the gap.
"""

import logging
from collections.abc import Iterator
from typing import Any

import kopf
from kubernetes.aio.client.configuration import Configuration

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.reflector import Reflector
from dispatcher.core import names
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.world import World

logger = logging.getLogger(__name__)

ERROR_BACKOFF_CAP = 10.0


class EndlessBackoffs:
    """Pauses between kopf's retries, in seconds: growing, and never used up, or kopf would end the operator."""

    def __iter__(self) -> Iterator[float]:
        pause = 0.2
        while True:
            yield pause
            pause = min(ERROR_BACKOFF_CAP, pause * 2)


class NoDiffBase(kopf.DiffBaseStorage):
    """kopf compares each object with its last state, by deep copies; events need none of that."""

    def build(self, **_: Any) -> Any:
        """Nothing to compare."""
        return {}

    def fetch(self, **_: Any) -> Any:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored."""


class NoProgress(kopf.ProgressStorage):
    """Events have no progress that would have to survive a restart."""

    def fetch(self, **_: Any) -> Any:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored."""

    def purge(self, **_: Any) -> None:
        """Nothing is stored."""

    def touch(self, **_: Any) -> None:
        """Nothing is stored."""

    def clear(self, *, essence: Any) -> Any:
        """The same object: nothing of ours is in it."""
        return essence


def connection_info(configuration: Configuration) -> kopf.ConnectionInfo:
    """The client's credentials in kopf's form."""
    # "Bearer TOKEN" of a kubeconfig, "bearer TOKEN" of a pod's account.
    token = (configuration.api_key or {}).get("BearerToken", "").rpartition(" ")[2]
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        ca_data=configuration.ca_cert_data if not configuration.ssl_ca_cert else None,
        insecure=not configuration.verify_ssl,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        scheme="Bearer" if token else None,
        token=token or None,
    )


def kopf_settings() -> kopf.OperatorSettings:
    """kopf without its scans, its Events on objects, and its habit of giving up."""
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.networking.error_backoffs = EndlessBackoffs()
    settings.networking.request_timeout = 30
    settings.watching.connect_timeout = 10
    settings.watching.server_timeout = 300
    # The handlers only fill caches: nothing of theirs is worth waiting for at the end.
    settings.queueing.exit_timeout = 0.1
    settings.background.instant_exit_timeout = 0.1
    return settings


def build_registry(*, world: World, fleet: Fleet, configuration: Configuration) -> kopf.OperatorRegistry:
    """All handlers. Each does nothing but put what it was told into a cache."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry, id="login")
    async def login(**_: Any) -> kopf.ConnectionInfo:
        await configuration.get_api_key_with_prefix("BearerToken")
        return connection_info(configuration)

    @kopf.on.event(names.API_GROUP, names.API_VERSION, "workerclusters", registry=registry, id="clusters")
    async def cluster_event(event: Any, **_: Any) -> None:
        manifest = plain(event["object"])
        if event["type"] == "DELETED":
            fleet.remove(manifest["metadata"]["name"])
        else:
            fleet.update(manifest)

    @kopf.on.event(names.API_GROUP, names.API_VERSION, "dispatchpolicies", registry=registry, id="policies")
    async def policy_event(event: Any, **_: Any) -> None:
        world.policy_changed(plain(event["object"]), gone=event["type"] == "DELETED")

    @kopf.on.event("", "v1", "namespaces", registry=registry, id="namespaces")
    async def namespace_event(event: Any, **_: Any) -> None:
        metadata = event["object"]["metadata"]
        if event["type"] == "DELETED":
            world.namespace_labels.pop(metadata["name"], None)
        else:
            take_namespace(world, plain(event["object"]))

    return registry


def watch_jobs(api: ApiServer, world: World, *, managed_by: str) -> Reflector:
    """The watch that fills ``world.jobs``, to be run by the caller.

    Ours are Jobs with ``managed_by`` in ``spec.managedBy``, which never changes in a Job's life; not the mirrors beside
    their Jobs (``spec.local``), whoever gave them that value.
    """

    def is_ours(manifest: dict[str, Any]) -> bool:
        if manifest["spec"].get("managedBy") != managed_by:
            return False
        labels = manifest["metadata"].get("labels") or {}
        return names.JOB_UID_LABEL not in labels or labels.get(names.ORIGIN_LABEL) != world.rules.origin

    world.jobs.accepts = is_ours
    return Reflector(api, jobs.jobs_path(), world.jobs, on_version=world.echo.saw)


def take_namespace(world: World, manifest: dict[str, Any]) -> None:
    """Keep a namespace's labels; WorkerClusters select by them."""
    metadata = manifest["metadata"]
    world.namespace_labelled(metadata["name"], metadata.get("labels") or {})


def plain(body: Any) -> dict[str, Any]:
    """The raw JSON object of an event."""
    return dict(body)
