"""Telling a running mirror that part of its work is done elsewhere, without killing a pod of it.

Its own status is raised as if its pods had done that part: ``completedIndexes`` or ``succeeded`` (tried in
docs/failures.md). It is safe for work that no pod has begun. A controller makes at most ``parallelism`` pods
between two writes of the status, of the lowest indexes that are left; so what lies beyond twice that many is
not begun, as long as the resourceVersion that was looked at still holds.
"""

import json
from typing import Any

from dispatcher.core import names
from dispatcher.core.actions import MERGE_PATCH, PatchMirror
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import Job
from dispatcher.core.mirror import Mirror, completed_indexes, credited, failed_indexes
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Share, share_record
from dispatcher.core.progress import Progress


def excess(job: Job, share: Share, mirror: Mirror, progress: Progress) -> IndexSet | int:
    """What a mirror would do beyond its share: indexes, or a number of completions (0 for a work queue).

    Indexes that an elastic Job has no more are not meant: their mirror's completions are lowered.
    """
    if share.interval is None:
        if share.completions is None:
            return 0
        return max(0, int(mirror.spec.get("completions") or 0) - credited(mirror) - share.completions)
    return _left(job, mirror) - (share.indexes - progress.completed)


def _left(job: Job, mirror: Mirror) -> IndexSet:
    """The indexes that a mirror has not decided."""
    completions = min(int(mirror.spec.get("completions") or 0), job.completions or 0)
    everything = IndexSet.interval(0, completions - 1)
    return everything - completed_indexes(mirror) - failed_indexes(mirror)


def cede(observation: Observation, share: Share, mirror: Mirror, progress: Progress) -> PatchMirror | None:
    """The patch by which a seeded mirror gives up what it has not begun of its excess; None if there is nothing."""
    if mirror.transient or not (mirror.fenced or mirror.started):
        return None
    found = excess(observation.job, share, mirror, progress)
    busy = 0 if mirror.fenced else int(mirror.spec.get("parallelism", 1))
    active = int(mirror.status.get("active") or 0)
    succeeded = int(mirror.status.get("succeeded") or 0)
    annotations = {names.SHARE_ANNOTATION: json.dumps(share_record(share), separators=(",", ":"))}
    status: dict[str, Any]
    if isinstance(found, int):
        left = int(mirror.spec.get("completions") or 0) - succeeded
        ceded = min(found, left - max(busy, active, 1))
        if ceded <= 0:
            return None
        own = credited(mirror) - (names.WOUND_DOWN_ANNOTATION in mirror.annotations)
        annotations[names.CREDITED_ANNOTATION] = str(own + ceded)
        status = {"succeeded": succeeded + ceded}
    else:
        if observation.job.spec.get("backoffLimitPerIndex") is not None and not mirror.fenced:
            return None  # an index that waits for its next try is passed over: higher ones may have begun
        left_indexes = _left(observation.job, mirror)
        if mirror.fenced:  # nothing has begun; but none may be told that all is done
            kept = left_indexes.lowest(1) if (left_indexes - found).is_empty else IndexSet()
        else:
            kept = left_indexes.lowest(max(2 * busy, active + busy, 1))
        ceded_indexes = found - kept
        if ceded_indexes.is_empty:
            return None
        completed = completed_indexes(mirror) | ceded_indexes
        status = {"completedIndexes": completed.format(), "succeeded": len(completed)}
    metadata = {"uid": mirror.uid, "resourceVersion": mirror.resource_version, "annotations": annotations}
    patch = {"metadata": metadata, "status": status}
    return PatchMirror(mirror.cluster, mirror.name, mirror.uid, MERGE_PATCH, patch, subresource="status")
