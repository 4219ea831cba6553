"""Telling a running mirror that part of its work is done elsewhere, without killing a pod of it.

Its own status is raised as if its pods had done that part: ``completedIndexes`` or ``succeeded`` (tried in
docs/failures.md). It is safe for work that no pod has begun. A controller makes at most ``parallelism`` pods
between two writes of the status, of the lowest indexes that are left; so what lies beyond twice that many is
not begun, as long as the resourceVersion that was looked at still holds.
"""

from typing import Any

from dispatcher.core import names
from dispatcher.core.actions import MERGE_PATCH, PatchMirror
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import Job
from dispatcher.core.mirror import Mirror, completed_indexes, credited, failed_indexes
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Share, share_text
from dispatcher.core.progress import Progress


def excess(job: Job, share: Share, mirror: Mirror, progress: Progress) -> IndexSet | int:
    """What a mirror would do beyond its share: indexes, or a number of completions (0 for a work queue).

    Indexes that an elastic Job has no more are not meant: their mirror's completions are lowered.
    """
    if share.interval is None:
        if share.completions is None:
            return 0
        return max(0, int(mirror.spec.get("completions") or 0) - credited(mirror) - share.completions)
    everything, own = _indexes_of(job, mirror), share.indexes
    unwanted = (everything - own) | (everything & own & progress.completed)
    return unwanted - completed_indexes(mirror) - failed_indexes(mirror)


def undecided_indexes(job: Job, mirror: Mirror) -> IndexSet:
    """The indexes that a mirror has not decided."""
    return _indexes_of(job, mirror) - completed_indexes(mirror) - failed_indexes(mirror)


def _indexes_of(job: Job, mirror: Mirror) -> IndexSet:
    """All that a mirror would decide: an elastic Job may have fewer than it was made with."""
    completions = min(int(mirror.spec.get("completions") or 0), job.completions or 0)
    return IndexSet.interval(0, completions - 1)


def may_cede(observation: Observation, mirror: Mirror) -> bool:
    """Whether what a mirror has not begun can be told from its status at all."""
    if mirror.transient or mirror.gone or mirror.finished or mirror.deleting or not mirror.seeded:
        return False
    if mirror.fenced:
        return True
    # With a limit per index, one that waits for its next try is passed over: higher ones may have begun.
    return mirror.started and observation.job.spec.get("backoffLimitPerIndex") is None


def unbegun_indexes(observation: Observation, mirror: Mirror) -> IndexSet:
    """The indexes that no pod has been made for, for certain."""
    left = undecided_indexes(observation.job, mirror)
    if mirror.fenced:
        return left
    pods = int(mirror.spec.get("parallelism", 1))
    return left - left.lowest(max(2 * pods, mirror.count("active") + pods, 1))


def busy_completions(observation: Observation, share: Share, mirror: Mirror) -> int:
    """How many of a NonIndexed mirror's completions its pods may be at work on, one at least."""
    if mirror.fenced:
        return 1
    if is_stalled(observation, share, mirror):  # of pods that are too many, those that do not run go first
        return max(1, mirror.count("ready"))
    return max(mirror.count("active"), int(mirror.spec.get("parallelism", 1)), 1)


def is_stalled(observation: Observation, share: Share, mirror: Mirror) -> bool:
    """Whether a mirror has had pods that do not run for as long as the policy lets it."""
    after = observation.policy.unschedulable_after
    since = observation.idle_since.get((share.cluster, share.mirror))
    if after is None or since is None or since + after > observation.now:
        return False
    if mirror.suspend or mirror.finished or mirror.gone or not mirror.started:
        return False
    wanted = int(mirror.spec.get("parallelism", 1))
    if share.completions is not None:
        wanted = min(wanted, int(mirror.spec.get("completions") or 0) - mirror.count("succeeded"))
    return mirror.count("ready") < wanted


def cede(observation: Observation, share: Share, mirror: Mirror, progress: Progress) -> PatchMirror | None:
    """The patch by which a mirror gives up what it has not begun of its excess; None if there is nothing.

    None may be told that all is done: one completion stays with it.
    """
    found = excess(observation.job, share, mirror, progress)
    if not found if isinstance(found, int) else found.is_empty:
        return None
    if not may_cede(observation, mirror):
        return None
    succeeded = mirror.count("succeeded")
    annotations = {names.SHARE_ANNOTATION: share_text(share)}
    status: dict[str, Any]
    if isinstance(found, int):
        left = int(mirror.spec.get("completions") or 0) - succeeded
        ceded = min(found, left - busy_completions(observation, share, mirror))
        if ceded <= 0:
            return None
        own = credited(mirror) - (names.WOUND_DOWN_ANNOTATION in mirror.annotations)
        annotations[names.CREDITED_ANNOTATION] = str(own + ceded)
        status = {"succeeded": succeeded + ceded}
    else:
        given = found & unbegun_indexes(observation, mirror)
        if (undecided_indexes(observation.job, mirror) - given).is_empty:
            given = given - given.lowest(1)
        if given.is_empty:
            return None
        completed = completed_indexes(mirror) | given
        status = {"completedIndexes": completed.format(), "succeeded": len(completed)}
    metadata = {"uid": mirror.uid, "resourceVersion": mirror.resource_version, "annotations": annotations}
    patch = {"metadata": metadata, "status": status}
    return PatchMirror(mirror.cluster, mirror.name, mirror.uid, MERGE_PATCH, patch, subresource="status")
