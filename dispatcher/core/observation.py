"""Everything that a decision looks at, gathered by the operator before it asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from dispatcher.core import names
from dispatcher.core.actions import ObjectRef
from dispatcher.core.dependencies import Provision, Source
from dispatcher.core.job import Job, Manifest
from dispatcher.core.mirror import Mirror
from dispatcher.core.policy import DEFAULT_POLICY, Policy, Taint

REPORT_INTERVAL = timedelta(seconds=1)
"""Between two writes of a Job of which the second has nothing but new counters."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A WorkerCluster as the decision sees it.

    ``ready``: requests may be sent there and its cache of mirrors is complete and live. ``uid`` is the
    UID of its ``kube-system`` namespace, empty while unknown. ``away_since``: since when it is not ready.
    ``leaving``: its WorkerCluster is being deleted. ``capacity``: most pods of ours active there at once, None
    for no bound. ``tainted_since``: when each of its taints was first seen.
    """

    name: names.ClusterName
    uid: str
    ready: bool
    reason: str = ""
    message: str = ""
    weight: int = 1
    unschedulable: bool = False
    away_since: datetime | None = None
    leaving: bool = False
    capacity: int | None = None
    taints: tuple[Taint, ...] = ()
    tainted_since: Mapping[Taint, datetime] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace_selector: Manifest | None = None
    local: bool = False
    """It is the management cluster itself."""
    create_namespace: bool = False


class Refusal(StrEnum):
    """Why a write to a worker cluster did not do what it should."""

    NAME_TAKEN = "MirrorNameTaken"
    NAMESPACE_MISSING = "NamespaceMissing"
    REFUSED = "MirrorRefused"
    FORBIDDEN = "MirrorForbidden"
    UNREACHABLE = "ClusterUnreachable"


@dataclass(frozen=True, slots=True)
class Attempt:
    """The last write for one mirror that failed. It is not tried again before ``retry_at``.

    ``since``: when the first of an unbroken row of failures was; ``failures``: how many these are.
    """

    refusal: Refusal
    message: str
    retry_at: datetime
    since: datetime
    failures: int = 1


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for all Jobs of one dispatcher.

    ``origin`` is the value of the origin label. ``clears_start_time``: the management cluster's Job
    controller clears startTime when it suspends (Kubernetes 1.36 and later do).
    """

    origin: str
    own_namespace: str = "job-dispatcher"
    clears_start_time: bool = True
    give_up_after: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Observation:
    """The world as far as one Job is concerned, at ``now`` (UTC).

    ``mirrors`` are all Jobs on workers with our origin and this Job's UID. Keyed by cluster and mirror
    name are ``attempts``, ``edited`` (mirrors whose spec, labels or annotations somebody else has
    changed), ``in_flight`` (mirrors that a write is under way for) and ``idle_since`` (when a mirror's counters
    of pods changed last). ``proven_gone`` are mirrors, by
    cluster and UID, that a live read has not found: not to be among ``mirrors`` is no proof, for those
    are seen by labels, and labels get lost. ``settled`` is False right after a start, while some cluster
    has neither answered nor been given up on: a new Job waits for that. ``policy_fault``: why the Job's own
    policy cannot be used; nothing is placed until it can. ``room``: how many pods more than it holds the Job may
    have on each cluster with a capacity; other clusters are absent. ``fits``: how many pods of its template fit
    on the nodes of each cluster now, where that is known and the policy divides by it. ``written_at``: when this
    process wrote the Job last; None if it has not. ``report_interval``: at least REPORT_INTERVAL, more while writes
    of Jobs take long.
    """

    job: Job
    now: datetime
    rules: Rules
    mirrors: tuple[Mirror, ...] = ()
    clusters: Mapping[names.ClusterName, Cluster] = field(default_factory=dict)
    attempts: Mapping[tuple[names.ClusterName, str], Attempt] = field(default_factory=dict)
    edited: frozenset[tuple[names.ClusterName, str]] = frozenset()
    in_flight: frozenset[tuple[names.ClusterName, str]] = frozenset()
    idle_since: Mapping[tuple[names.ClusterName, str], datetime] = field(default_factory=dict)
    proven_gone: frozenset[tuple[names.ClusterName, str]] = frozenset()
    namespace_labels: Mapping[str, str] = field(default_factory=dict)
    policy: Policy = DEFAULT_POLICY
    policy_fault: str = ""
    room: Mapping[names.ClusterName, int] = field(default_factory=dict)
    fits: Mapping[names.ClusterName, int] = field(default_factory=dict)
    settled: bool = True
    written_at: datetime | None = None
    report_interval: timedelta = REPORT_INTERVAL
    sources: Mapping[ObjectRef, Source] = field(default_factory=dict)
    """What the Job's policy lets follow it, on the management cluster; what is not known yet is absent."""
    provided: Mapping[tuple[names.ClusterName, str], Mapping[ObjectRef, Provision]] = field(
        default_factory=dict
    )
    """Keyed by cluster and mirror's UID: what is known of the copies beside it."""

    def is_ready(self, cluster: names.ClusterName, uid: str) -> bool:
        """Whether what is known of this cluster is complete, and it is still the same cluster."""
        found = self.clusters.get(cluster)
        return found is not None and found.ready and found.uid == uid


def matches(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a ``metav1.LabelSelector`` selects these labels. An empty selector selects all."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    return all(_expression(entry, labels) for entry in selector.get("matchExpressions") or ())


def _expression(entry: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = entry.get("key", ""), entry.get("values") or ()
    match entry.get("operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False
