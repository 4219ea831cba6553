"""Bringing mirrors in line with the persisted placement: make, seed, resume, edit.

Level-triggered: each call compares what is with what should be and asks for the next step only. A
parallelism is raised only after every lowering was seen, so that the sum is never exceeded.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from dispatcher.core import ceding, dependencies, manifest, names, rebalancing
from dispatcher.core.actions import (
    JSON_PATCH,
    MERGE_PATCH,
    Action,
    CreateMirror,
    DeleteMirror,
    Event,
    PatchMirror,
    PostEvent,
)
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import Job
from dispatcher.core.mirror import Mirror, completed_indexes
from dispatcher.core.observation import Observation, Refusal
from dispatcher.core.placement import Placement, Share, share_text
from dispatcher.core.progress import Progress, is_late

UNLIMITED = 2**31 - 1
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
MOST_STRAYS = 20
"""Unknown mirrors that one decision acts on, for each cluster: one that makes them up gets no more of our time."""


def backoff_limit(job: Job, share: Share, progress: Progress) -> int:
    """A mirror's part of the one backoffLimit: what failures elsewhere have left of it."""
    if job.backoff_limit >= UNLIMITED:
        return job.backoff_limit
    return max(0, job.backoff_limit - (progress.counts.failed - share.counts.failed))


def seed(completions: int | None, share: Share, progress: Progress) -> IndexSet:
    """The indexes that a share's mirror must not run: other shares' and those already decided.

    ``completions`` are the mirror's: an elastic Job may have other ones by now, and the API server
    refuses an index that is not below the mirror's own.
    """
    if share.interval is None or completions is None:
        return IndexSet()
    everything = IndexSet.interval(0, completions - 1)
    return (everything - share.indexes) | (everything & (progress.completed | progress.failed_indexes))


def create(observation: Observation, share: Share, progress: Progress) -> CreateMirror:
    """The POST of a share's mirror."""
    job = observation.job
    body = manifest.make_mirror(
        job,
        share,
        origin=observation.rules.origin,
        now=observation.now,
        backoff_limit=backoff_limit(job, share, progress),
        seeded=len(seed(job.completions, share, progress)) == 0,
        held=dependencies.follow(observation, share),
    )
    cluster = observation.clusters.get(share.cluster)
    makes_namespace = cluster is not None and cluster.create_namespace
    return CreateMirror(share.cluster, share.mirror, body, makes_namespace)


def plant_seed(mirror: Mirror, indexes: IndexSet) -> PatchMirror:
    """Write the seed into a mirror that has never run.

    The tests make a late copy of this patch harmless: it would erase real successes. It is accepted
    straight after the POST, without a resourceVersion.
    """
    annotation = "/metadata/annotations/" + names.SEEDED_ANNOTATION.replace("/", "~1")
    patch = [
        {"op": "test", "path": "/metadata/uid", "value": mirror.uid},
        {"op": "test", "path": "/spec/suspend", "value": True},
        {"op": "test", "path": annotation, "value": "false"},
        {"op": "add", "path": "/status/completedIndexes", "value": indexes.format()},
        {"op": "add", "path": "/status/succeeded", "value": len(indexes)},
        {"op": "replace", "path": annotation, "value": "true"},
    ]
    return PatchMirror(mirror.cluster, mirror.name, mirror.uid, JSON_PATCH, patch, subresource="status")


def steer(
    observation: Observation, placement: Placement, by_share: Mapping[int, Mirror], progress: Progress
) -> list[Action]:
    """The next steps for all live shares. ``placement`` is the persisted one.

    A work queue that has a success makes no mirrors any more: it is winding down.
    """
    job = observation.job
    may_create = not job.suspend and not (job.completions is None and progress.counts.succeeded)
    actions: list[Action] = []
    raises: list[Action] = []
    lowered = True
    for share in placement.active:
        mirror = by_share.get(share.id)
        if not observation.is_ready(share.cluster, share.cluster_uid):
            lowered = lowered and (mirror is None or mirror.spec["parallelism"] <= share.parallelism)
            continue
        attempt = observation.attempts.get((share.cluster, share.mirror))
        if attempt is not None and observation.now < attempt.retry_at:
            continue
        if mirror is None:
            waits = rebalancing.waits_for_a_giver(observation, share, placement, by_share, progress)
            if not share.mirror_uid and may_create and not waits:
                actions.append(create(observation, share, progress))
            continue
        if mirror.finished or mirror.deleting or mirror.gone:
            continue
        if not mirror.seeded:
            actions.append(plant_seed(mirror, seed(mirror.spec.get("completions"), share, progress)))
            continue
        ceded = ceding.cede(observation, share, mirror, progress)
        if ceded is not None:
            actions.append(ceded)
            continue
        supply = dependencies.supply(observation, share, mirror)
        patch = difference(observation, share, mirror, progress, held=mirror.suspend and supply.holds)
        if patch is None:
            if supply.action is not None:
                actions.append(supply.action)
            continue
        slot = (share.cluster, share.mirror)
        if slot in observation.edited:
            text = f"The mirror {share.mirror} was changed on {share.cluster}; it was put back"
            actions.append(PostEvent(Event("Warning", "MirrorChanged", text)))
        if "template" in patch["spec"] and attempt is not None and attempt.refusal is Refusal.REFUSED:
            # An older API server lets less of a suspended Job's template change: a new mirror takes over.
            if mirror.is_true("Suspended") and mirror.still:
                actions.append(DeleteMirror(mirror.cluster, mirror.name, mirror.uid))
            continue
        now_at, wanted = mirror.spec.get("parallelism", 1), patch["spec"].get("parallelism")
        step = PatchMirror(mirror.cluster, mirror.name, mirror.uid, MERGE_PATCH, patch)
        if wanted is not None and wanted > now_at:
            raises.append(step)
        else:
            lowered = lowered and (wanted is None or wanted == now_at)
            actions.append(step)
    return actions + (raises if lowered else [])


def difference(
    observation: Observation, share: Share, mirror: Mirror, progress: Progress, *, held: bool = False
) -> dict[str, Any] | None:
    """The merge patch that makes a mirror what its share and the Job say; None if it is that already.

    ``held``: it stays suspended, for what its pods need is not there yet.
    """
    job = observation.job
    spec: dict[str, Any] = {}
    metadata = _metadata_difference(observation, share, mirror)
    annotations: dict[str, Any] = metadata.get("annotations", {})
    wanted: dict[str, Any] = {
        "parallelism": _parallelism(share, mirror),
        "suspend": job.suspend or held or _held_by_queue(mirror),
    }
    if not (mirror.suspend and job.suspend):
        # A suspended Job that exceeds its limit cannot be ended by its controller: it has no startTime.
        wanted["backoffLimit"] = backoff_limit(job, share, progress)
    for field in ("maxFailedIndexes", "podReplacementPolicy"):
        if field in job.spec:
            wanted[field] = job.spec[field]
    elapsed = _elapsed(mirror)
    if mirror.suspend and not wanted["suspend"] and job.active_deadline is not None:
        # The mirror's own clock starts anew when it is resumed.
        elapsed = manifest.elapsed_seconds(job, observation.now)
        if str(elapsed) != mirror.annotations.get(names.ELAPSED_ANNOTATION):
            annotations[names.ELAPSED_ANNOTATION] = str(elapsed)
    wanted["activeDeadlineSeconds"] = manifest.remaining_deadline(job, elapsed)
    if mirror.suspend:
        pods = manifest.template(job)
        template_hash = manifest.template_hash(pods)
        if mirror.annotations.get(names.TEMPLATE_ANNOTATION) != template_hash:
            spec["template"] = pods
            annotations[names.TEMPLATE_ANNOTATION] = template_hash
            wanted["suspend"] = True
    cut = _shrunk(job, share, mirror)
    if cut is not None:
        wanted |= {"parallelism": cut, "completions": cut}
        annotations[names.SHARE_ANNOTATION] = share_text(share)
    for field, value in wanted.items():
        if mirror.spec.get(field) != value:
            spec[field] = value
    if annotations:
        metadata["annotations"] = annotations
    if not spec and not metadata:
        return None
    return {"metadata": {"uid": mirror.uid, **metadata}, "spec": spec}


def _elapsed(mirror: Mirror) -> int:
    """What a mirror says of its Job's time; 0 where that was edited to something else than seconds."""
    text = mirror.annotations.get(names.ELAPSED_ANNOTATION, "")
    return int(text) if text.isdecimal() and len(text) < 12 else 0


def _parallelism(share: Share, mirror: Mirror) -> int:
    """The share's; but while a shrunk mirror's controller has not yet dropped the indexes above, what
    it was shrunk to: ``succeeded`` may fall only while parallelism equals completions.
    """
    completions = int(mirror.spec.get("completions") or 0)
    if share.interval is not None and completed_indexes(mirror).last >= completions:
        return completions
    return share.parallelism


def _held_by_queue(mirror: Mirror) -> bool:
    """A worker-side queue keeps it suspended: that is waiting, and not ours to fight."""
    labels = mirror.manifest["metadata"].get("labels") or {}
    return mirror.suspend and QUEUE_LABEL in labels


def _shrunk(job: Job, share: Share, mirror: Mirror) -> int | None:
    """The new completions of an elastic Indexed mirror whose interval was cut off above.

    A share of a suspended Job is cut when that is resumed. Until then one that reaches above keeps its mirror as it is:
    with fewer completions than its seed has it would be Complete without a startTime, which the API server refuses.
    """
    if share.interval is None or job.completions is None or job.completions != job.parallelism:
        return None
    if share.interval[1] >= job.completions:
        return None
    if mirror.spec.get("completions", 0) <= job.completions:
        return None
    record = manifest.recorded_share(mirror.manifest) or {}
    return job.completions if record.get("indexes") != share.indexes.format() else None


def _metadata_difference(observation: Observation, share: Share, mirror: Mirror) -> dict[str, Any]:
    job = observation.job
    ours = manifest.mirror_labels(job, share, origin=observation.rules.origin)
    metadata = mirror.manifest["metadata"]
    labels, annotations = manifest.user_labels(job), manifest.user_annotations(job)
    keys = manifest.applied_keys(labels, annotations)
    applied_text = mirror.annotations.get(names.APPLIED_ANNOTATION, "")
    applied = (manifest.read_object(applied_text) or {}) if applied_text != keys else {}
    result: dict[str, Any] = {}
    for field, wanted in (
        ("labels", labels | ours),
        ("annotations", annotations),
    ):
        there = metadata.get(field) or {}
        before = applied.get(field)
        changes: dict[str, str | None] = {k: v for k, v in wanted.items() if there.get(k) != v}
        if isinstance(before, list):
            old = (key for key in before if isinstance(key, str))
            changes |= {key: None for key in old if key not in wanted and key in there}
        if changes:
            result[field] = changes
    if applied_text != keys:
        result.setdefault("annotations", {})[names.APPLIED_ANNOTATION] = keys
    return result


def _lies_above(job: Job, mirror: Mirror) -> bool:
    """An elastic Indexed Job has shrunk below everything this mirror was made for."""
    record = manifest.recorded_share(mirror.manifest) or {}
    try:
        intervals = IndexSet.parse(record.get("indexes")).intervals
    except (ValueError, TypeError):
        return False
    return bool(intervals) and job.completions is not None and intervals[0][0] >= job.completions


def strays(observation: Observation, placement: Placement, by_share: Mapping[int, Mirror]) -> list[Action]:
    """Mirrors of this Job that no share knows.

    Removed if they came late, never ran, or if the Job has shrunk below them, else stopped and reported.
    """
    known = {mirror.uid for mirror in by_share.values()}
    actions: list[Action] = []
    acted_on: Counter[names.ClusterName] = Counter()
    for mirror in observation.mirrors:
        cluster = observation.clusters.get(mirror.cluster)
        if mirror.uid in known or mirror.gone or mirror.deleting or cluster is None or not cluster.ready:
            continue
        if acted_on[mirror.cluster] >= MOST_STRAYS:
            continue
        before = len(actions)
        never_ran = "startTime" not in mirror.status and not mirror.status.get("active")
        unused = (never_ran and not mirror.finished) or _lies_above(observation.job, mirror)
        if unused or is_late(placement, mirror):
            actions.append(DeleteMirror(mirror.cluster, mirror.name, mirror.uid))
        elif not mirror.finished and not mirror.suspend:
            patch = {"metadata": {"uid": mirror.uid}, "spec": {"suspend": True}}
            actions.append(PatchMirror(mirror.cluster, mirror.name, mirror.uid, MERGE_PATCH, patch))
            text = f"{mirror.cluster} runs {mirror.name}, which is no share of this Job; it was suspended"
            actions.append(PostEvent(Event("Warning", "UnknownMirror", text)))
        acted_on[mirror.cluster] += len(actions) > before
    return actions
