"""A Job's pods over all clusters: of our own mirrors only, read live."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dispatcher.clusters import pods as reads
from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.reply import Manifest, Outcome
from dispatcher.core import names
from dispatcher.core.placement import PlacementError, parse_placement
from dispatcher.view.status import Refused, from_reply

CLUSTER_ANNOTATION = names.PREFIX + "cluster"
"""On each object that this API serves: where it was read."""
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
_UIDS_A_SELECTOR = 50
_CONTROLLER_UID = "batch.kubernetes.io/controller-uid"


class Place(Protocol):
    """A registered cluster, as far as this API needs it."""

    @property
    def api(self) -> ApiServer:
        """The client for the next request. Raises LookupError where there is no connection."""

    @property
    def health(self) -> tuple[bool, str, str]:
        """Ready, reason, message."""


@dataclasses.dataclass(frozen=True, slots=True)
class Missing:
    """A cluster that could not be read."""

    cluster: str
    why: str

    def __str__(self) -> str:
        return f"cluster {self.cluster} is missing: {self.why}"


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a mirror."""

    cluster: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """``metadata.name``."""
        return str(self.manifest["metadata"]["name"])

    @property
    def uid(self) -> str:
        """``metadata.uid``."""
        return str(self.manifest["metadata"]["uid"])

    @property
    def index(self) -> str:
        """The completion index; empty for a pod that has none."""
        return str((self.manifest["metadata"].get("annotations") or {}).get(INDEX_ANNOTATION, ""))

    @property
    def phase(self) -> str:
        """``status.phase``."""
        return str((self.manifest.get("status") or {}).get("phase") or "Unknown")

    @property
    def ended(self) -> bool:
        """Whether no container of it will write any more."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def containers(self) -> list[str]:
        """All of its containers, those that start first included."""
        spec = self.manifest["spec"]
        return [c["name"] for kind in ("containers", "initContainers") for c in spec.get(kind) or ()]

    @property
    def default_container(self) -> str:
        """The one that kubectl would take."""
        annotations = self.manifest["metadata"].get("annotations") or {}
        named = annotations.get("kubectl.kubernetes.io/default-container")
        return str(named) if named in self.containers else self.containers[0]

    @property
    def order(self) -> tuple[Any, ...]:
        """Pods sort by cluster, index, age."""
        metadata = self.manifest["metadata"]
        index = int(self.index) if self.index.isdecimal() else -1
        return self.cluster, index, metadata.get("creationTimestamp", ""), self.name


class Sources:
    """Reads of mirrors and of what belongs to them."""

    def __init__(
        self,
        *,
        management: ApiServer,
        places: Callable[[], Mapping[str, Place]],
        origin: str,
        managed_by: str,
    ) -> None:
        self._management = management
        self._places = places
        self._origin = origin
        self._managed_by = managed_by

    def place(self, cluster: str) -> Place:
        """A cluster by name. Raises Refused 404."""
        place = self._places().get(cluster)
        if place is None:
            raise Refused(404, f'workerclusters.jobdispatcher.io "{cluster}" not found')
        return place

    def api(self, cluster: str) -> ApiServer:
        """The client for the next request to a cluster. Raises Refused 503 where it cannot be read."""
        ready, reason, message = self.place(cluster).health
        if not ready:
            raise Refused(503, f"cluster {cluster} cannot be read: {reason}: {message}")
        try:
            return self.place(cluster).api
        except LookupError:
            raise Refused(503, f"cluster {cluster} is not connected") from None

    async def job(self, namespace: str, name: str) -> Manifest:
        """A Job of ours. Raises Refused."""
        reply = await self._management.get(resource_path("batch/v1", "jobs", namespace=namespace, name=name))
        if reply.outcome is Outcome.NOT_FOUND:
            raise Refused(404, f'jobs.batch "{name}" not found', details={"name": name, "kind": "jobs"})
        if not reply.ok or reply.body is None:
            raise from_reply(reply, f"Job {namespace}/{name} cannot be read")
        owner = reply.body["spec"].get("managedBy")
        if owner != self._managed_by:
            raise Refused(
                400,
                f"Job {namespace}/{name} is not dispatched: its spec.managedBy is {owner or 'not set'}, "
                f"not {self._managed_by}",
            )
        return reply.body

    def clusters_of(self, job: Manifest) -> list[str]:
        """Where shares of the Job are or were; every cluster, where the placement cannot be read."""
        text = (job["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION)
        try:
            placement = parse_placement(text) if text else None
        except PlacementError:
            return sorted(self._places())
        if placement is None or placement.job_uid != job["metadata"]["uid"]:
            return sorted(self._places())
        return sorted({str(share.cluster) for share in placement.shares} | set(map(str, placement.retired)))

    async def pods(self, job: Manifest, clusters: Sequence[str]) -> tuple[list[Pod], list[Missing]]:
        """The pods of the Job's mirrors on these clusters, and which of them could not be read."""
        found = await asyncio.gather(*(self._or_missing(self._pods_on, job, name) for name in clusters))
        pods = [pod for entry in found if isinstance(entry, list) for pod in entry]
        return sorted(pods, key=lambda pod: pod.order), [e for e in found if isinstance(e, Missing)]

    async def events(self, job: Manifest, clusters: Sequence[str]) -> tuple[list[Manifest], list[Missing]]:
        """The Events of the Job's mirrors and their pods, marked with their cluster."""
        found = await asyncio.gather(*(self._or_missing(self._events_on, job, name) for name in clusters))
        events = [event for entry in found if isinstance(entry, list) for event in entry]
        return events, [e for e in found if isinstance(e, Missing)]

    async def mirror_uids(self, cluster: str, namespace: str, job_uid: str | None = None) -> set[str]:
        """The UIDs of our mirrors in a namespace, or of one Job's. Raises Refused."""
        selector = f"{names.ORIGIN_LABEL}={self._origin}"
        if job_uid is not None:
            selector += f",{names.JOB_UID_LABEL}={job_uid}"
        reply = await reads.list_mirrors(self.api(cluster), namespace, selector)
        if not reply.ok:
            raise from_reply(reply, f"cluster {cluster}")
        return {item["metadata"]["uid"] for item in reads.items_of(reply)}

    async def _or_missing(self, read: Callable[..., Any], job: Manifest, cluster: str) -> Any:
        try:
            return await read(job, cluster)
        except Refused as refused:
            return Missing(cluster, refused.message)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            return Missing(
                cluster, f"cluster {cluster} answers nothing that can be read ({type(error).__name__})"
            )

    async def _pods_on(self, job: Manifest, cluster: str) -> list[Pod]:
        metadata = job["metadata"]
        uids = sorted(await self.mirror_uids(cluster, metadata["namespace"], metadata["uid"]))
        pods = []
        for start in range(0, len(uids), _UIDS_A_SELECTOR):
            some = uids[start : start + _UIDS_A_SELECTOR]
            selector = f"{_CONTROLLER_UID} in ({','.join(some)})"
            reply = await reads.list_pods(self.api(cluster), metadata["namespace"], selector)
            if not reply.ok:
                raise from_reply(reply, f"pods of cluster {cluster}")
            pods += [marked(item, cluster) for item in reads.items_of(reply) if owner_uid(item) in some]
        return [Pod(cluster, manifest) for manifest in pods]

    async def _events_on(self, job: Manifest, cluster: str) -> list[Manifest]:
        metadata = job["metadata"]
        uids = await self.mirror_uids(cluster, metadata["namespace"], metadata["uid"])
        if not uids:
            return []
        about = uids | {pod.uid for pod in await self._pods_on(job, cluster)}
        reply = await reads.list_events(self.api(cluster), metadata["namespace"])
        if not reply.ok:
            raise from_reply(reply, f"Events of cluster {cluster}")
        return [
            marked(item, cluster)
            for item in reads.items_of(reply)
            if (item.get("involvedObject") or {}).get("uid") in about
        ]


def owner_uid(manifest: Manifest) -> str:
    """The UID of an object's controller; empty for one that has none."""
    for owner in manifest["metadata"].get("ownerReferences") or ():
        if owner.get("controller") and owner.get("kind") == "Job":
            return str(owner.get("uid") or "")
    return ""


def marked(manifest: Manifest, cluster: str) -> Manifest:
    """An object with its cluster's name, and without the bookkeeping of field managers."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key != "managedFields"}
    metadata["annotations"] = {**(metadata.get("annotations") or {}), CLUSTER_ANNOTATION: cluster}
    return {**manifest, "metadata": metadata}
