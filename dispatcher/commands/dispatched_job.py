"""What a person wants to know of a dispatched Job, from its manifest: where it is, and how far it has come."""

from collections import Counter

from dispatcher.commands.refusals import Manifest
from dispatcher.core.job import TERMINAL, read_conditions
from dispatcher.core.names import DISPATCHED, PLACEMENT_ANNOTATION
from dispatcher.core.placement import Placement, PlacementError, parse_placement


def phase(job: Manifest) -> str:
    """One word for where a Job is.

    ``Pending``: nobody looked at it yet. ``Waiting``: it cannot be dispatched now (``-o wide`` says why).
    """
    conditions = {kind: found.status for kind, found in read_conditions(job.get("status") or {}).items()}
    for terminal in TERMINAL:
        if conditions.get(terminal) == "True":
            return terminal
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if job["spec"].get("suspend") or conditions.get("Suspended") == "True":
        return "Suspended"
    return {"True": "Running", "False": "Waiting"}.get(conditions.get(DISPATCHED, ""), "Pending")


def completions(job: Manifest) -> str:
    """Succeeded pods of the wanted, as ``kubectl get jobs`` shows them; ``0/1 of 3`` for a work queue."""
    spec, succeeded = job["spec"], (job.get("status") or {}).get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def placement_of(job: Manifest) -> Placement | PlacementError | None:
    """The Job's placement; None while there is none, the error where nobody can read it."""
    text = (job["metadata"].get("annotations") or {}).get(PLACEMENT_ANNOTATION)
    if not text:
        return None
    try:
        placement = parse_placement(text)
    except PlacementError as error:
        return error
    # Copied with the manifest of another Job: the dispatcher does not heed it either.
    return placement if placement.job_uid == job["metadata"].get("uid") else None


def is_finished(job: Manifest) -> bool:
    """Complete or Failed is True."""
    return phase(job) in TERMINAL


def shares(job: Manifest) -> str:
    """Each cluster's part, from the placement: ``worker-1:3/6,worker-2:2/4``; empty while there is none."""
    placement = placement_of(job)
    if isinstance(placement, PlacementError):
        return "<unreadable>"
    if placement is None:
        return ""
    succeeded: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for share in placement.shares:
        succeeded[share.cluster] += share.counts.succeeded
        wanted[share.cluster] += share.completions or 0
    for cluster, counts in placement.retired.items():
        succeeded[cluster] += counts.succeeded
        wanted[cluster] += counts.succeeded
    queue = job["spec"].get("completions") is None
    return ",".join(
        f"{cluster}:{succeeded[cluster]}" + ("" if queue else f"/{wanted[cluster]}")
        for cluster in sorted(succeeded)
    )


def message(job: Manifest) -> str:
    """Why the Job failed or waits; else what the Dispatched condition says."""
    conditions = read_conditions(job.get("status") or {})
    for kind in ("Failed", "FailureTarget", DISPATCHED):
        found = conditions.get(kind)
        if found is not None and (kind == DISPATCHED or found.status == "True"):
            return f"{found.reason}: {' '.join(found.message.split())}"
    return ""
