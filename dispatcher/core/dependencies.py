"""ConfigMaps and Secrets that follow a Job: which its pod template names, and what is to be written on a worker.

A copy is owned by the mirrors that use it, so that the worker's garbage collector takes it with the last of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from dispatcher.core import names
from dispatcher.core.actions import CopyDependencies, ObjectRef
from dispatcher.core.job import Job, Manifest

if TYPE_CHECKING:
    from dispatcher.core.mirror import Mirror
    from dispatcher.core.observation import Observation
    from dispatcher.core.placement import Share

CONFIG_MAP = "ConfigMap"
SECRET = "Secret"
EVERYWHERE = ObjectRef(CONFIG_MAP, "kube-root-ca.crt")
"""Every cluster makes its own in each namespace; the management cluster's would be wrong there."""
ACCOUNT_TOKEN = "kubernetes.io/service-account-token"
"""Type of a Secret that is worth nothing on another cluster, and much on its own."""

_SECRET_REFERENCES = (
    ("cephfs", "secretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("storageos", "secretRef"),
    ("csi", "nodePublishSecretRef"),
)
"""Kinds of volumes with a Secret of the pod's namespace, by the field that names it (k8s.io/api/core/v1)."""


class Fault(StrEnum):
    """Why something that a Job needs is not on a worker; the reason on the Job."""

    MISSING = "DependencyMissing"
    UNREADABLE = "DependencyUnreadable"
    NAME_TAKEN = "DependencyNameTaken"
    FORBIDDEN = "DependencyForbidden"
    REFUSED = "DependencyRefused"


@dataclass(frozen=True, slots=True)
class Source:
    """An object on the management cluster. ``version``: UID and resourceVersion, empty where there is none.

    ``fault``: why it is not known whether there is one.
    """

    version: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Provision:
    """What is known of one object beside one mirror. ``version``: of the source, as last seen in place there.

    ``fault``: why the last try did not do what it should; the next one is not before ``retry_at``.
    """

    version: str = ""
    fault: Fault | None = None
    message: str = ""
    retry_at: datetime | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Supply:
    """Whether a mirror that is suspended has to wait, why (fault and message), and what is to be done about it."""

    holds: bool = False
    action: CopyDependencies | None = None
    fault: Fault | None = None
    message: str = ""


SUPPLIED = Supply()


def named_by(template: Manifest, kinds: Iterable[str]) -> dict[ObjectRef, bool]:
    """The objects of these kinds that a pod template names; the value says whether a pod needs it to start."""
    found: dict[ObjectRef, bool] = {}
    wanted = frozenset(kinds)
    for kind, name, optional in _references(template.get("spec") or {}):
        ref = ObjectRef(kind, name)
        if name and kind in wanted and ref != EVERYWHERE:
            found[ref] = found.get(ref, False) or not optional
    return found


def _references(spec: Manifest) -> Iterator[tuple[str, str, bool]]:
    """Kind, name and ``optional`` of each place in a pod's spec."""
    for entry in spec.get("imagePullSecrets") or ():
        yield SECRET, entry.get("name") or "", False
    for field in ("initContainers", "containers"):
        for container in spec.get(field) or ():
            for variable in container.get("env") or ():
                origin = variable.get("valueFrom") or {}
                yield from _reference(CONFIG_MAP, origin.get("configMapKeyRef"))
                yield from _reference(SECRET, origin.get("secretKeyRef"))
            for source in container.get("envFrom") or ():
                yield from _reference(CONFIG_MAP, source.get("configMapRef"))
                yield from _reference(SECRET, source.get("secretRef"))
    for volume in spec.get("volumes") or ():
        yield from _reference(CONFIG_MAP, volume.get("configMap"))
        yield from _reference(SECRET, volume.get("secret"), "secretName")
        for source in (volume.get("projected") or {}).get("sources") or ():
            yield from _reference(CONFIG_MAP, source.get("configMap"))
            yield from _reference(SECRET, source.get("secret"))
        yield from _reference(SECRET, volume.get("azureFile"), "secretName")
        for kind, field in _SECRET_REFERENCES:
            yield from _reference(SECRET, (volume.get(kind) or {}).get(field))


def _reference(kind: str, entry: Any, field: str = "name") -> Iterator[tuple[str, str, bool]]:
    if isinstance(entry, Mapping):
        yield kind, entry.get(field) or "", entry.get("optional") is True


def of_job(job: Job, kinds: frozenset[str]) -> dict[ObjectRef, bool]:
    """As :func:`named_by`, of the Job's template."""
    return named_by(job.spec["template"], kinds) if kinds else {}


def follow(observation: "Observation", share: "Share") -> bool:
    """Whether a share's mirror waits for objects. On the management cluster itself they are there already."""
    cluster = observation.clusters.get(share.cluster)
    local = cluster is not None and cluster.local
    return not local and bool(of_job(observation.job, observation.policy.propagate))


def supply(observation: "Observation", share: "Share", mirror: "Mirror") -> Supply:
    """What a live mirror lacks. What it had once is not missed: a source that goes later stops nothing."""
    if observation.job.suspend or not follow(observation, share):
        return SUPPLIED
    provided = observation.provided.get((share.cluster, mirror.uid), {})
    holds = False
    due: list[ObjectRef] = []
    faults: list[tuple[Fault, str]] = []
    for ref, required in of_job(observation.job, observation.policy.propagate).items():
        source, done = observation.sources.get(ref), provided.get(ref, Provision())
        if source is None:
            holds = holds or not done.version
        elif source.fault:
            holds = holds or not done.version
            faults.append((Fault.UNREADABLE, f"{ref} cannot be read: {source.fault}"))
        elif not source.version:
            if required and not done.version:
                holds = True
                text = f"There is no {ref} in namespace {observation.job.namespace}; create it"
                faults.append((Fault.MISSING, text))
        elif done.version != source.version:
            holds = holds or not done.version
            if done.fault is not None:
                faults.append((done.fault, done.message))
            if done.retry_at is None or observation.now >= done.retry_at:
                due.append(ref)
    if not (holds or due):
        return SUPPLIED
    fault, message = min(faults, default=(None, ""))
    action = CopyDependencies(share.cluster, share.mirror, mirror.uid, tuple(due)) if due else None
    return Supply(holds, action, fault, message)


def retries(observation: "Observation") -> Iterator[datetime]:
    """When copies that failed are tried again."""
    for objects in observation.provided.values():
        for done in objects.values():
            if done.retry_at is not None:
                yield done.retry_at


class Step(StrEnum):
    """What to do about an object's name on a worker."""

    CREATE = "Create"
    UPDATE = "Update"
    KEEP = "Keep"
    WAIT = "Wait"
    """It is being deleted."""
    FOREIGN = "Foreign"
    """Somebody else's, not to be touched."""


def step(existing: Manifest | None, *, origin: str, version: str, owner_uid: str) -> Step:
    """What to do, given the object's metadata there (None: there is none) and the source's version."""
    if existing is None:
        return Step.CREATE
    if (existing.get("labels") or {}).get(names.ORIGIN_LABEL) != origin:
        return Step.FOREIGN
    if "deletionTimestamp" in existing:
        return Step.WAIT
    current = (existing.get("annotations") or {}).get(names.SOURCE_ANNOTATION) == version
    owned = any(owner.get("uid") == owner_uid for owner in existing.get("ownerReferences") or ())
    return Step.KEEP if current and owned else Step.UPDATE


def version_of(metadata: Manifest) -> str:
    """What tells one state of a source from every other."""
    return f"{metadata['uid']}/{metadata['resourceVersion']}"


def make_copy(
    source: Manifest, *, kind: str, origin: str, mirror: str, mirror_uid: str, existing: Manifest | None
) -> dict[str, Any]:
    """The whole object to POST, or to PUT over ``existing`` (its metadata), whose other owners stay.

    Labels and annotations stay behind: they are for whatever tends the source. So does ``immutable``: a copy follows
    a source that was made anew under its name.
    """
    metadata: dict[str, Any] = dict(existing or {})
    metadata.pop("managedFields", None)
    metadata |= {"name": source["metadata"]["name"], "namespace": source["metadata"]["namespace"]}
    metadata["labels"] = {**(metadata.get("labels") or {}), names.ORIGIN_LABEL: origin}
    version = version_of(source["metadata"])
    metadata["annotations"] = {**(metadata.get("annotations") or {}), names.SOURCE_ANNOTATION: version}
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("uid") != mirror_uid]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": mirror, "uid": mirror_uid}
    metadata["ownerReferences"] = [*owners, owner]
    content = {field: source[field] for field in ("data", "binaryData", "type") if source.get(field)}
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata, **content}
