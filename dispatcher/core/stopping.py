"""Ending mirrors: after a verdict, after a work queue's first success, and when the Job is deleted."""

from collections.abc import Iterable, Mapping
from typing import Any

from dispatcher.core import names
from dispatcher.core.actions import (
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
    Action,
    Decision,
    DeleteMirror,
    Event,
    PatchMirror,
    WriteJob,
)
from dispatcher.core.job import Job, timestamp
from dispatcher.core.mirror import Mirror
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Placement, ShareState
from dispatcher.core.progress import is_late, share_mirrors
from dispatcher.core.recovery import persisted
from dispatcher.core.status import seconds_until
from dispatcher.core.verdict import COMPLETIONS_REACHED, Verdict

OUR_LABELS = (names.ORIGIN_LABEL, names.JOB_UID_LABEL, names.SHARE_LABEL, names.BUCKET_LABEL)


def end_mirror(mirror: Mirror, verdict: Verdict, observation: Observation) -> PatchMirror:
    """Put the verdict on a mirror: its own Job controller stops the pods, counts them, and ends it."""
    now = timestamp(observation.now)
    condition = {
        "type": verdict.interim,
        "status": "True",
        "reason": verdict.reason,
        "message": verdict.message,
        "lastProbeTime": now,
        "lastTransitionTime": now,
    }
    status: dict[str, Any] = {"conditions": [condition]}
    if "startTime" not in mirror.status:
        status["startTime"] = now
    return PatchMirror(
        mirror.cluster,
        mirror.name,
        mirror.uid,
        STRATEGIC_MERGE_PATCH,
        {"metadata": {"uid": mirror.uid}, "status": status},
        subresource="status",
    )


def carry_out(
    verdict: Verdict, mirrors: Iterable[Mirror], observation: Observation, *, surplus: Iterable[Mirror] = ()
) -> list[Action]:
    """End every mirror that does not end by itself.

    A mirror that reached its share's completions needs nothing: it is about to complete; not so one that
    was made for more than its share or an elastic Indexed Job has now, or whose share has left it
    (``surplus``). One that has a verdict already (its own or ours) is left to its controller.
    """
    job = observation.job
    unneeded = {mirror.uid for mirror in surplus}
    actions: list[Action] = []
    for mirror in mirrors:
        if mirror.finished or mirror.deleting or mirror.gone:
            continue
        if mirror.is_true("SuccessCriteriaMet") or mirror.is_true("FailureTarget"):
            if "startTime" not in mirror.status:
                actions.append(_give_start_time(mirror, observation))
            continue
        shrunk = job.indexed and mirror.spec.get("completions", 0) > (job.completions or 0)
        completes = verdict.succeeded and verdict.reason == COMPLETIONS_REACHED
        if completes and not (mirror.suspend or shrunk or mirror.uid in unneeded):
            continue
        actions.append(end_mirror(mirror, verdict, observation))
    return actions


def _give_start_time(mirror: Mirror, observation: Observation) -> PatchMirror:
    """A verdict met a suspension that had just taken startTime away: without one, validation refuses
    every write by which the mirror's own controller would end it.
    """
    patch = {"metadata": {"uid": mirror.uid}, "status": {"startTime": timestamp(observation.now)}}
    return PatchMirror(mirror.cluster, mirror.name, mirror.uid, MERGE_PATCH, patch, subresource="status")


def wind_down(mirror: Mirror, observation: Observation) -> PatchMirror:
    """Tell a work queue's mirror that a success was reached elsewhere: no new pods, running ones finish.

    The resourceVersion keeps a success that the mirror reaches meanwhile from being overwritten.
    A suspended mirror ends at once and needs a startTime for that.
    """
    status: dict[str, Any] = {"succeeded": 1}
    if "startTime" not in mirror.status:
        status["startTime"] = timestamp(observation.now)
    return PatchMirror(
        mirror.cluster,
        mirror.name,
        mirror.uid,
        MERGE_PATCH,
        {
            "metadata": {
                "uid": mirror.uid,
                "resourceVersion": mirror.resource_version,
                "annotations": {names.WOUND_DOWN_ANNOTATION: "true"},
            },
            "status": status,
        },
        subresource="status",
    )


def finished_job(observation: Observation) -> Decision:
    """A finished Job's mirrors stay, with their pods and logs; one that still runs is ended.

    Those that their shares have left are removed, as are those on a cluster that is being removed.
    """
    job = observation.job
    verdict = next(
        Verdict(kind == "Complete", job.conditions[kind].reason, job.conditions[kind].message)
        for kind in ("Complete", "Failed")
        if job.is_true(kind)
    )
    actions: list[Action] = []
    left = _left(observation)
    for mirror in observation.mirrors:
        if mirror.deleting or mirror.gone or not _ready(observation, mirror):
            continue
        if mirror.uid in left or observation.clusters[mirror.cluster].leaving:
            actions.append(_delete(mirror))
            continue
        if mirror.finished:
            continue
        if mirror.is_true("SuccessCriteriaMet") or mirror.is_true("FailureTarget"):
            continue
        if "startTime" in mirror.status or mirror.status.get("active"):
            actions.append(end_mirror(mirror, verdict, observation))
        else:  # made by a POST that came late
            actions.append(_delete(mirror))
    return Decision(tuple(actions))


def _left(observation: Observation) -> set[str]:
    """The UIDs of mirrors whose shares have left them, and of unfinished ones that came late."""
    placement = persisted(observation.job) or Placement(observation.job.uid)
    states = {share.id: share.state for share in placement.shares}
    leaving = (ShareState.DRAINING, ShareState.LOST, ShareState.REMOVING)
    by_share = share_mirrors(placement, observation.mirrors)
    late = {m.uid for m in observation.mirrors if is_late(placement, m) and not m.finished}
    return late | {mirror.uid for share_id, mirror in by_share.items() if states[share_id] in leaving}


def deleted_job(observation: Observation) -> Decision:
    """Remove the mirrors of a Job that is being deleted, then the finalizer."""
    job = observation.job
    if names.FINALIZER not in job.finalizers or job.deleted_at is None:
        return Decision()
    orphan = job.annotations.get(names.DELETION_ANNOTATION) == "Orphan"
    live = [mirror for mirror in observation.mirrors if not mirror.gone]
    actions: list[Action] = []
    for mirror in live:
        if not mirror.deleting and _ready(observation, mirror):
            actions.append(_release(mirror) if orphan else _delete(mirror))
    unseen = _unseen(observation)
    if not live and not unseen:
        return Decision((WriteJob(without_finalizer(job)),))
    give_up_at = job.deleted_at + observation.rules.give_up_after
    away = sorted({m.cluster for m in live if not _ready(observation, m)} | set(unseen))
    if observation.now >= give_up_at and len(away) > 0 and all(m.cluster in away for m in live):
        event = Event(
            "Warning",
            "MirrorsLeftBehind",
            f"Gave up waiting for {', '.join(away)}; its mirrors are removed when it is back",
        )
        return Decision((WriteJob(without_finalizer(job), (event,)),))
    look_again = seconds_until(give_up_at, observation.now) if away else None
    return Decision(tuple(actions), look_again)


def _delete(mirror: Mirror) -> Action:
    return DeleteMirror(mirror.cluster, mirror.name, mirror.uid)


def _release(mirror: Mirror) -> Action:
    labels: Mapping[str, None] = dict.fromkeys(OUR_LABELS)
    patch = {"metadata": {"uid": mirror.uid, "labels": labels}}
    return PatchMirror(mirror.cluster, mirror.name, mirror.uid, MERGE_PATCH, patch)


def _ready(observation: Observation, mirror: Mirror) -> bool:
    cluster = observation.clusters.get(mirror.cluster)
    return cluster is not None and cluster.ready


def _unseen(observation: Observation) -> list[str]:
    """Clusters that may hold a mirror of this Job and cannot be seen now."""
    job = observation.job
    placement = persisted(job)
    if placement is None:
        return [cluster.name for cluster in observation.clusters.values() if not cluster.ready]
    held = {
        share.cluster
        for share in placement.shares
        if share.cluster in observation.clusters
        and not observation.is_ready(share.cluster, share.cluster_uid)
    }
    # A share that was cut off may have left its mirror where nothing could be deleted.
    away = {cluster.name for cluster in observation.clusters.values() if not cluster.ready}
    return sorted(held | (away & {names.ClusterName(name) for name in placement.retired}))


def without_finalizer(job: Job) -> dict[str, Any]:
    """The Job's manifest with our finalizer taken off."""
    metadata = dict(job.manifest["metadata"])
    metadata["finalizers"] = [entry for entry in job.finalizers if entry != names.FINALIZER]
    return {**job.manifest, "metadata": metadata}
