"""Finding a Job's placement again: from its annotation, or from the mirrors where that is gone.

A placement is never guessed while some cluster cannot be seen: what runs there would be run twice.
"""

from dataclasses import dataclass, replace

from dispatcher.core import mirror as mirrors
from dispatcher.core import names
from dispatcher.core.actions import Event
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import Job
from dispatcher.core.manifest import recorded_share
from dispatcher.core.mirror import Mirror
from dispatcher.core.observation import Observation
from dispatcher.core.placement import (
    Counts,
    Placement,
    PlacementError,
    Share,
    ShareState,
    parse_placement,
    read_share,
)
from dispatcher.core.progress import epoch_of, published_completed, published_failed

UNKNOWN_CLUSTER = ""
"""The key of ``retired`` for counts that a rebuilt placement knows only from the published status."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A Job's placement, or why there is none: ``waits_for`` names clusters that must be seen first."""

    placement: Placement | None
    events: tuple[Event, ...] = ()
    waits_for: tuple[str, ...] = ()


def was_dispatched(job: Job) -> bool:
    """Whether the status shows that a placement existed once: startTime is set only together with one."""
    return job.start_time is not None or job.is_true(names.DISPATCHED)


def persisted(job: Job) -> Placement | None:
    """The placement in the Job's annotation; None where there is none, or none of this Job."""
    text = job.annotations.get(names.PLACEMENT_ANNOTATION)
    if text is None:
        return None
    try:
        placement = parse_placement(text)
    except PlacementError:
        return None
    return placement if placement.job_uid == job.uid else None


def recover(observation: Observation) -> Recovered:
    """The persisted placement, or one rebuilt from the mirrors; None for a Job not placed so far."""
    job = observation.job
    text = job.annotations.get(names.PLACEMENT_ANNOTATION)
    fault = "was removed"
    if text is not None:
        try:
            placement = parse_placement(text)
            if placement.job_uid == job.uid:
                return Recovered(placement)
            fault = "belongs to another Job"
        except PlacementError as error:
            fault = f"is unreadable ({error})"
    if not was_dispatched(job) and not observation.mirrors:
        return Recovered(None)
    unseen = tuple(sorted(c.name for c in observation.clusters.values() if not c.ready))
    if observation.in_flight:
        return Recovered(None, waits_for=tuple(sorted({cluster for cluster, _name in observation.in_flight})))
    if unseen or not observation.settled:
        return Recovered(None, waits_for=unseen or ("the clusters' first answers",))
    event = Event(
        "Warning",
        "PlacementRebuilt",
        f"The annotation {names.PLACEMENT_ANNOTATION} {fault}; it was rebuilt from the mirrors, nothing is run again",
    )
    return Recovered(rebuild(observation), events=(event,))


def rebuild(observation: Observation) -> Placement:
    """The placement that the mirrors' own records and the published status show."""
    job = observation.job
    shares: dict[int, Share] = {}
    newest_first = sorted(
        observation.mirrors, key=lambda seen: (-epoch_of(seen), seen.name != job.name, seen.cluster)
    )
    for mirror in newest_first:
        share = _recorded(observation, mirror)
        if share is not None and share.id not in shares:
            shares[share.id] = share
    shares = _without_overlap(job, shares)
    known = sum((share.counts for share in shares.values()), Counts())
    lost = Counts(
        max(0, job.count("succeeded") - known.succeeded), max(0, job.count("failed") - known.failed)
    )
    return Placement(
        job_uid=job.uid,
        shares=tuple(shares[share_id] for share_id in sorted(shares)),
        next_id=max(shares, default=-1) + 1,
        retired={UNKNOWN_CLUSTER: lost} if lost != Counts() else {},
    )


def _without_overlap(job: Job, shares: dict[int, Share]) -> dict[int, Share]:
    """Of live shares that hold the same work the newest keeps it: the others' clusters were lost before."""
    held = IndexSet()
    decided = published_completed(job) | published_failed(job)
    finished = [share for share in shares.values() if share.state is ShareState.FINISHED]
    room = (job.completions or 0) - sum(share.counts.succeeded for share in finished)
    result = dict(shares)
    for share_id in sorted(shares, reverse=True):
        share = shares[share_id]
        if share.state is not ShareState.ACTIVE or job.completions is None:
            continue
        twice = (
            not ((held & share.indexes) - decided).is_empty
            if job.indexed
            else (share.completions or 0) > room
        )
        if twice:
            # What of it was counted is not known; the published status has it (see UNKNOWN_CLUSTER).
            result[share_id] = replace(share, state=ShareState.LOST, counts=Counts())
        else:
            held = held | share.indexes
            room -= share.completions or 0
    return result


def _recorded(observation: Observation, mirror: Mirror) -> Share | None:
    cluster = observation.clusters.get(mirror.cluster)
    record = recorded_share(mirror.manifest)
    if record is None or cluster is None or mirror.gone:
        return None
    try:
        share = read_share(record)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if share.id != mirror.share_id or share.mirror != mirror.name or share.cluster != mirror.cluster:
        return None
    return replace(
        share,
        cluster_uid=cluster.uid,
        mirror_uid=mirror.uid,
        parallelism=int(mirror.spec.get("parallelism", 1)),
        counts=mirrors.local_counts(mirror, share),
        state=ShareState.FINISHED if mirror.finished else ShareState.ACTIVE,
    )
