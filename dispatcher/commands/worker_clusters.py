"""WorkerClusters as people see and change them: their state in a row, and who takes new work."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from dispatcher.commands.dispatched_job import is_finished, placement_of
from dispatcher.commands.management import ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.table import age
from dispatcher.core.placement import Placement, Share, ShareState

HEADERS: Final = (
    *("NAME", "READY", "REASON", "VERSION", "ACTIVE", "CAPACITY"),
    *("UNSCHEDULABLE", "TAINTS", "AGE"),
)
WIDE_HEADERS: Final = ("WEIGHT", "MIRRORS", "CLUSTER-UID", "MESSAGE")
_GONE: Final = frozenset({ShareState.FINISHED, *(s for s in ShareState if s.value in ("Lost", "Removing"))})
"""States of a share whose work is not done on its cluster any more."""
_CONFLICTS: Final = 5
"""So often a change is tried again that somebody else's write came before."""


def row(cluster: Manifest, now: datetime, *, wide: bool = False) -> list[str]:
    """One line of the fleet."""
    spec, status = cluster.get("spec") or {}, cluster.get("status") or {}
    ready = ready_condition(cluster)
    cells = [
        cluster["metadata"]["name"],
        ready.get("status") or "Unknown",
        ready.get("reason") or "",
        status.get("serverVersion") or "",
        _number(status.get("activePods")),
        _number((spec.get("capacity") or {}).get("parallelism")),
        "true" if spec.get("unschedulable") else "false",
        ",".join(map(taint_text, spec.get("taints") or ())),
        age(cluster["metadata"].get("creationTimestamp"), now),
    ]
    if wide:
        message = " ".join(str(ready.get("message") or "").split())
        cells += [
            _number(spec.get("weight")),
            _number(status.get("mirrors")),
            status.get("clusterUID") or "",
            message,
        ]
    return cells


def ready_condition(cluster: Manifest) -> Manifest:
    """The condition Ready; empty before the dispatcher has looked."""
    conditions = (cluster.get("status") or {}).get("conditions") or ()
    return next((entry for entry in conditions if entry.get("type") == "Ready"), {})


def taint_text(taint: Manifest) -> str:
    """A taint in kubectl's form: ``key=value:effect``."""
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key', '')}{value}:{taint.get('effect', '')}"


def _number(value: object) -> str:
    return "" if value is None else str(value)


def change(
    management: ManagementCluster, name: str, desired: Callable[[Manifest], Manifest]
) -> tuple[Manifest, bool]:
    """Change a WorkerCluster's spec; the object, and whether anything had to be changed.

    ``desired`` gets the spec and gives the fields to set (None removes one); fields that are so already are left
    out. The write holds only for the state that was read.

    Raises:
        ClusterSaysNo: there is no such cluster, or no right to read or patch it.
    """
    path = management.clusters_path(name)
    for attempt in range(_CONFLICTS):
        cluster = management.get(path)
        spec = cluster["spec"]
        fields = {key: value for key, value in desired(spec).items() if spec.get(key) != value}
        if not fields:
            return cluster, False
        version = {"resourceVersion": cluster["metadata"]["resourceVersion"]}
        try:
            return management.patch(path, {"metadata": version, "spec": fields}), True
        except ClusterSaysNo as error:
            if error.status != 409 or attempt + 1 == _CONFLICTS:
                raise
    raise AssertionError("unreachable")


def without_taint(spec: Manifest, key: str) -> list[Manifest] | None:
    """The taints of a spec but those of one key; None when none are left, which removes the field."""
    return [taint for taint in spec.get("taints") or () if taint.get("key") != key] or None


def unfinished_shares(job: Manifest, cluster: str) -> list[Share]:
    """The shares of a Job that still have work to do on a cluster."""
    placement = placement_of(job)
    if not isinstance(placement, Placement) or is_finished(job):
        return []
    return [share for share in placement.shares if share.cluster == cluster and share.state not in _GONE]
