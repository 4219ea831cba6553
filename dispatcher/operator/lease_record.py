"""A Lease of ``coordination.k8s.io/v1`` as a record, and the bodies of the requests that change it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dispatcher.core import names

API_VERSION = "coordination.k8s.io/v1"


def micro_time(moment: datetime) -> str:
    """``metav1.MicroTime``."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def lease_name(origin: str, shard: int) -> str:
    """The name of a shard's Lease; shard 0's is also the one of a dispatcher without shards."""
    return f"job-dispatcher-{origin}" if shard == 0 else f"job-dispatcher-{origin}-{shard}"


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What is read of a Lease. ``holder`` is empty when nobody holds it. ``duration`` in seconds."""

    manifest: dict[str, Any]
    version: str
    holder: str
    duration: float
    transitions: int
    shards: int
    agreed_shards: int | None
    wanted_by: str


def read_lease(manifest: dict[str, Any]) -> LeaseRecord:
    """Read a Lease; fields that are missing or of a wrong type count as not set."""
    spec = manifest.get("spec") or {}
    annotations = manifest["metadata"].get("annotations") or {}

    def count(annotation: str) -> int | None:
        text = str(annotations.get(annotation) or "")
        return int(text) if text.isdecimal() and len(text) < 6 else None

    return LeaseRecord(
        manifest=manifest,
        version=str(manifest["metadata"].get("resourceVersion", "")),
        holder=str(spec.get("holderIdentity") or ""),
        duration=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        shards=count(names.SHARDS_ANNOTATION) or 1,
        agreed_shards=count(names.AGREED_SHARDS_ANNOTATION),
        wanted_by=str(annotations.get(names.WANTED_BY_ANNOTATION) or ""),
    )


def new_lease(
    *, namespace: str, origin: str, shard: int, shards: int, holder: str, duration: int, now: datetime
) -> dict[str, Any]:
    """The Lease of a shard that nobody has held so far, held by ``holder``."""
    moment = micro_time(now)
    annotations = {names.SHARDS_ANNOTATION: str(shards)}
    if shard == 0:
        annotations[names.AGREED_SHARDS_ANNOTATION] = str(shards)
    return {
        "apiVersion": API_VERSION,
        "kind": "Lease",
        "metadata": {
            "name": lease_name(origin, shard),
            "namespace": namespace,
            "labels": {names.ORIGIN_LABEL: origin},
            "annotations": annotations,
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": duration,
            "acquireTime": moment,
            "renewTime": moment,
            "leaseTransitions": 0,
        },
    }


def acquired(
    record: LeaseRecord, *, holder: str, duration: int, shards: int, now: datetime
) -> dict[str, Any]:
    """The Lease taken by another holder; its resourceVersion guards the PUT."""
    moment = micro_time(now)
    changes: dict[str, Any] = {"acquireTime": moment, "leaseTransitions": record.transitions + 1}
    return _changed(
        record,
        changes | {"holderIdentity": holder, "leaseDurationSeconds": duration, "renewTime": moment},
        {names.SHARDS_ANNOTATION: str(shards), names.WANTED_BY_ANNOTATION: None},
    )


def renewed(record: LeaseRecord, *, duration: int, now: datetime) -> dict[str, Any]:
    """The Lease with another renewTime."""
    return _changed(record, {"leaseDurationSeconds": duration, "renewTime": micro_time(now)}, {})


def released(record: LeaseRecord, *, now: datetime) -> dict[str, Any]:
    """The Lease without a holder. Who wanted it stays noted: it has the first go."""
    return _changed(
        record, {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": micro_time(now)}, {}
    )


def wanted(record: LeaseRecord, by: str) -> dict[str, Any]:
    """The Lease with a request to its holder."""
    return _changed(record, {}, {names.WANTED_BY_ANNOTATION: by})


def recounted(record: LeaseRecord, shards: int) -> dict[str, Any]:
    """Shard 0's Lease with another number of shards for all replicas."""
    return _changed(record, {}, {names.AGREED_SHARDS_ANNOTATION: str(shards)})


def _changed(record: LeaseRecord, spec: dict[str, Any], annotations: dict[str, str | None]) -> dict[str, Any]:
    metadata = dict(record.manifest["metadata"])
    merged = {**(metadata.get("annotations") or {}), **annotations}
    metadata["annotations"] = {key: value for key, value in merged.items() if value is not None}
    return {**record.manifest, "metadata": metadata, "spec": {**record.manifest.get("spec", {}), **spec}}
