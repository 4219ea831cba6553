"""A mirror as it was last seen on its worker cluster."""

from collections.abc import Mapping
from dataclasses import dataclass

from dispatcher.core import names
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import Condition, Manifest, is_finished, read_conditions
from dispatcher.core.placement import Counts, Share

TOLD_AT_ONCE = ("startTime", "conditions", "completedIndexes", "failedIndexes", "completionTime")
"""Of a status, what counts while pods are uncounted."""
LASTING = ("uid", "labels", "annotations", "deletionTimestamp", "finalizers")
"""Of the metadata, what does not change with every write."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """What decisions read of a mirror Job.

    ``gone``: the object is deleted and this is its last state. ``transient``: finished pods are still
    in ``uncountedTerminatedPods``; the Job controller writes the settled counters right after.
    """

    manifest: Manifest
    cluster: names.ClusterName
    name: str
    uid: str
    resource_version: str
    share_id: int | None
    seeded: bool
    suspend: bool
    deleting: bool
    gone: bool
    transient: bool
    conditions: Mapping[str, Condition]
    finished: bool
    """Complete or Failed."""

    @property
    def spec(self) -> Manifest:
        """The mirror's ``spec``."""
        spec: Manifest = self.manifest["spec"]
        return spec

    @property
    def status(self) -> Manifest:
        """The mirror's ``status``, empty before the first write."""
        return self.manifest.get("status") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        """The mirror's annotations."""
        return self.manifest["metadata"].get("annotations") or {}

    @property
    def started(self) -> bool:
        """The worker's Job controller has acknowledged that it runs (or did run) it."""
        return "startTime" in self.status and not self.is_true("Suspended")

    def count(self, field: str) -> int:
        """A counter of the status; 0 where it is absent."""
        return int(self.status.get(field) or 0)

    def is_true(self, condition: str) -> bool:
        """Whether a condition stands at True."""
        found = self.conditions.get(condition)
        return found is not None and found.status == "True"

    @property
    def fenced(self) -> bool:
        """It is stopped for certain: the controller has acknowledged the suspension and nothing of it runs."""
        return self.suspend and self.is_true("Suspended") and self.still

    @property
    def still(self) -> bool:
        """No pod of it is active, terminating or uncounted."""
        status = self.status
        return not (status.get("active") or status.get("terminating") or self.transient)


def job_uid_of(manifest: Manifest) -> str | None:
    """The management Job's UID that a mirror carries."""
    uid = (manifest["metadata"].get("labels") or {}).get(names.JOB_UID_LABEL)
    return uid if isinstance(uid, str) else None


def read_mirror(manifest: Manifest, cluster: names.ClusterName, *, gone: bool = False) -> Mirror:
    """Read a Job of a worker cluster that carries our labels."""
    metadata = manifest["metadata"]
    spec = manifest["spec"]
    status = manifest.get("status") or {}
    label = (metadata.get("labels") or {}).get(names.SHARE_LABEL, "")
    uncounted = status.get("uncountedTerminatedPods") or {}
    conditions = read_conditions(status)
    return Mirror(
        manifest=manifest,
        cluster=cluster,
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        share_id=int(label) if label.isdecimal() and len(label) < 10 else None,
        seeded=(metadata.get("annotations") or {}).get(names.SEEDED_ANNOTATION) != "false",
        suspend=bool(spec.get("suspend")),
        deleting="deletionTimestamp" in metadata,
        gone=gone,
        transient=bool(uncounted.get("succeeded") or uncounted.get("failed")),
        conditions=conditions,
        finished=is_finished(conditions),
    )


def only_gathers(old: Manifest, new: Manifest) -> bool:
    """Whether a mirror's change is but the first half of counting pods that have ended: they stand in
    ``uncountedTerminatedPods``, and its controller writes the settled counters right after. Nothing is decided by it.
    """
    before, after = old.get("status") or {}, new.get("status") or {}
    uncounted = after.get("uncountedTerminatedPods") or {}
    if not (uncounted.get("succeeded") or uncounted.get("failed")):
        return False
    return (
        all(before.get(field) == after.get(field) for field in TOLD_AT_ONCE)
        and old["spec"] == new["spec"]
        and all(old["metadata"].get(field) == new["metadata"].get(field) for field in LASTING)
    )


def completed_indexes(mirror: Mirror) -> IndexSet:
    """``status.completedIndexes``, seed included; what cannot be read counts as none."""
    try:
        return IndexSet.parse(mirror.status.get("completedIndexes"))
    except ValueError:
        return IndexSet()


def failed_indexes(mirror: Mirror) -> IndexSet:
    """``status.failedIndexes``; what cannot be read counts as none."""
    try:
        return IndexSet.parse(mirror.status.get("failedIndexes"))
    except ValueError:
        return IndexSet()


def credited(mirror: Mirror) -> int:
    """How many of ``status.succeeded`` are not its own pods': put there because others do that work."""
    text = mirror.annotations.get(names.CREDITED_ANNOTATION, "")
    own = int(text) if text.isdecimal() and len(text) < 10 else 0
    return own + (names.WOUND_DOWN_ANNOTATION in mirror.annotations)


def _uncounted(mirror: Mirror, outcome: str) -> int:
    """Pods that had ended but were not yet in the counters when the mirror went; nobody else counts them."""
    if not mirror.gone:
        return 0
    return len((mirror.status.get("uncountedTerminatedPods") or {}).get(outcome) or ())


def local_counts(mirror: Mirror, share: Share) -> Counts:
    """What the mirror's own pods did: for Indexed, the seed is taken out by the share's interval."""
    status = mirror.status
    if share.interval is None:
        succeeded = int(status.get("succeeded") or 0) - credited(mirror) + _uncounted(mirror, "succeeded")
        if share.completions is not None:  # a part that was cut while more pods ran than it needs
            succeeded = min(succeeded, share.completions)
    else:
        succeeded = len(completed_indexes(mirror) & share.indexes) - share.decided_before
    succeeded = max(0, succeeded) if mirror.seeded else 0
    active = 0 if mirror.gone else int(status.get("active") or 0)
    return Counts(
        succeeded=succeeded,
        failed=int(status.get("failed") or 0) + _uncounted(mirror, "failed"),
        active=active,
        ready=0 if mirror.gone else min(active, int(status.get("ready") or 0)),
        terminating=0 if mirror.gone else int(status.get("terminating") or 0),
    )
