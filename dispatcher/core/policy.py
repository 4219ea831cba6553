"""What a DispatchPolicy says, as a decision sees it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from dispatcher.core.job import Manifest
from dispatcher.core.names import ClusterName
from dispatcher.core.preferences import ClusterPreferences

_DURATION = re.compile(r"(?=.)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?")
OFF = "off"


class Division(StrEnum):
    """How a Job's work is divided over the clusters that may have it."""

    EVEN = "Even"
    WEIGHTED = "Weighted"
    AVAILABLE = "Available"
    SINGLE = "Single"


class TaintEffect(StrEnum):
    """What a taint does to Jobs that do not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    NO_EXECUTE = "NoExecute"


@dataclass(frozen=True, slots=True)
class Taint:
    """An entry of a WorkerCluster's ``spec.taints``."""

    key: str
    effect: TaintEffect
    value: str = ""


@dataclass(frozen=True, slots=True)
class Toleration:
    """An entry of a policy's ``tolerations``; empty ``key`` and ``effect`` stand for all."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    seconds: int | None = None
    """For a NoExecute taint: how long work stays after it appeared; None is for ever."""

    def tolerates(self, taint: Taint) -> bool:
        """The rule of ``k8s.io/api/core/v1``, Toleration.ToleratesTaint."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == taint.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One DispatchPolicy; the defaults are those of a Job without one.

    ``name`` is empty for the built-in default. ``failover_after`` and ``unschedulable_after`` are None for
    "off". ``clusters`` are preferences by exact name. ``propagate`` holds kinds.
    """

    name: str = ""
    cluster_selector: Manifest = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    division: Division = Division.EVEN
    clusters: Mapping[ClusterName, ClusterPreferences] = field(default_factory=dict)
    weights: frozenset[ClusterName] = frozenset()
    """Clusters whose weight the policy names; the others have the WorkerCluster's own."""
    min_share: int = 1
    max_clusters: int | None = None
    failover_after: timedelta | None = timedelta(minutes=5)
    unschedulable_after: timedelta | None = None
    move_running: bool = False
    steal_unstarted: bool = False
    steal_after: timedelta = timedelta(seconds=30)
    propagate: frozenset[str] = frozenset()

    def untolerated(self, taints: Iterable[Taint], *effects: TaintEffect) -> list[Taint]:
        """The taints of these effects that keep this policy's Jobs away."""
        return [
            taint
            for taint in taints
            if taint.effect in effects and not any(entry.tolerates(taint) for entry in self.tolerations)
        ]


DEFAULT_POLICY = Policy()


def parse_duration(text: str) -> timedelta | None:
    """``1h30m``, ``5m``, ``10s``; None for ``off``. Raises ValueError for anything else."""
    if text == OFF:
        return None
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a duration such as 30s, 5m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)


def read_policy(manifest: Manifest) -> Policy:
    """Read a DispatchPolicy as the API server holds it, validated and defaulted by its CRD.

    Raises KeyError, TypeError or ValueError for one that its schema would have refused.
    """
    spec: Mapping[str, Any] = manifest["spec"]
    failover = spec.get("failover") or {}
    clusters = spec.get("clusters") or {}
    return Policy(
        name=manifest["metadata"]["name"],
        cluster_selector=spec.get("clusterSelector") or {},
        tolerations=tuple(_toleration(entry) for entry in spec.get("tolerations") or ()),
        division=Division(spec.get("division", Division.EVEN)),
        clusters={
            ClusterName(name): ClusterPreferences(
                min_replicas=entry.get("minReplicas", 0),
                max_replicas=entry.get("maxReplicas"),
                weight=entry.get("weight", 1),
            )
            for name, entry in clusters.items()
        },
        weights=frozenset(ClusterName(name) for name, entry in clusters.items() if "weight" in entry),
        min_share=spec.get("minShare", 1),
        max_clusters=spec.get("maxClusters"),
        failover_after=parse_duration(failover.get("after", "5m")),
        unschedulable_after=parse_duration(failover.get("unschedulableAfter", OFF)),
        move_running=bool(spec.get("moveRunning") or spec.get("rebalance")),
        steal_unstarted=bool(spec.get("stealUnstarted")),
        steal_after=parse_duration(spec.get("stealAfter", "30s")) or timedelta(),
        propagate=frozenset(spec.get("propagate") or ()),
    )


def _toleration(entry: Mapping[str, Any]) -> Toleration:
    return Toleration(
        key=entry.get("key", ""),
        operator=entry.get("operator", "Equal"),
        value=entry.get("value", ""),
        effect=entry.get("effect", ""),
        seconds=entry.get("tolerationSeconds"),
    )


def read_taints(spec: Manifest) -> tuple[Taint, ...]:
    """The taints of a WorkerCluster's ``spec``."""
    return tuple(
        Taint(entry["key"], TaintEffect(entry["effect"]), entry.get("value", ""))
        for entry in spec.get("taints") or ()
    )
