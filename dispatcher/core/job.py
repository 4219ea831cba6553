"""A Job as the API server shows it, read once into a record.

Manifests are the raw JSON objects of ``batch/v1``; they come defaulted from the API server, so the
fallbacks here only repeat its documented defaults for the fields that a caller may leave out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Manifest = Mapping[str, Any]
"""A Kubernetes object as decoded from JSON. Never changed in place: caches share it."""

DEFAULT_BACKOFF_LIMIT = 6
TERMINAL = ("Complete", "Failed")


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of ``status.conditions``; only what decisions look at."""

    type: str
    status: str
    reason: str
    message: str


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with whole seconds, the form of ``metav1.Time``."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None) -> datetime | None:
    """The moment of a ``metav1.Time``; None for none or one that cannot be read."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def read_conditions(status: Manifest) -> dict[str, Condition]:
    """The conditions of a status, by type."""
    return {
        entry["type"]: Condition(
            entry["type"], entry.get("status", "Unknown"), entry.get("reason", ""), entry.get("message", "")
        )
        for entry in status.get("conditions") or ()
        if "type" in entry
    }


def is_finished(conditions: Mapping[str, Condition]) -> bool:
    """Whether Complete or Failed is True."""
    for kind in TERMINAL:
        found = conditions.get(kind)
        if found is not None and found.status == "True":
            return True
    return False


def has_ended(manifest: Manifest) -> bool:
    """The same of a Job's manifest, without reading anything else of it."""
    conditions = (manifest.get("status") or {}).get("conditions") or ()
    return any(entry.get("type") in TERMINAL and entry.get("status") == "True" for entry in conditions)


@dataclass(frozen=True, slots=True)
class Job:
    """A Job of the management cluster.

    ``completions`` is None for a work queue. ``resource_version`` guards every write.
    """

    manifest: Manifest
    namespace: str
    name: str
    uid: str
    resource_version: str
    annotations: Mapping[str, str]
    finalizers: tuple[str, ...]
    deleted_at: datetime | None
    parallelism: int
    completions: int | None
    indexed: bool
    suspend: bool
    backoff_limit: int
    active_deadline: int | None
    status: Manifest
    conditions: Mapping[str, Condition]
    finished: bool
    """Complete or Failed is True: nothing of it may run any more."""
    start_time: datetime | None

    @property
    def key(self) -> str:
        """``namespace/name``, the key of the planner's hash and of the queue."""
        return f"{self.namespace}/{self.name}"

    @property
    def epoch(self) -> int:
        """Its resourceVersion as a number: what is decided later has a higher one. 0 where it is no number."""
        return int(self.resource_version) if self.resource_version.isdecimal() else 0

    @property
    def spec(self) -> Manifest:
        """The Job's ``spec``."""
        spec: Manifest = self.manifest["spec"]
        return spec

    def is_true(self, condition: str) -> bool:
        """Whether a condition stands at True."""
        found = self.conditions.get(condition)
        return found is not None and found.status == "True"

    def count(self, field: str) -> int:
        """A published counter of the status; 0 where it is absent."""
        return int(self.status.get(field) or 0)


def read_job(manifest: Manifest) -> Job:
    """Read a ``batch/v1`` Job.

    Raises :class:`KeyError` for what is not an object of the API server (no metadata, spec or uid).
    """
    metadata = manifest["metadata"]
    spec = manifest["spec"]
    status = manifest.get("status") or {}
    conditions = read_conditions(status)
    parallelism = spec.get("parallelism")
    completions = spec.get("completions")
    if parallelism is None and completions is None:
        completions = 1
    return Job(
        manifest=manifest,
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        annotations=metadata.get("annotations") or {},
        finalizers=tuple(metadata.get("finalizers") or ()),
        deleted_at=parse_timestamp(metadata.get("deletionTimestamp")),
        parallelism=1 if parallelism is None else parallelism,
        completions=completions,
        indexed=spec.get("completionMode") == "Indexed",
        suspend=bool(spec.get("suspend")),
        backoff_limit=spec.get("backoffLimit", DEFAULT_BACKOFF_LIMIT),
        active_deadline=spec.get("activeDeadlineSeconds"),
        status=status,
        conditions=conditions,
        finished=is_finished(conditions),
        start_time=parse_timestamp(status.get("startTime")),
    )
