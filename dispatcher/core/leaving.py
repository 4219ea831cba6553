"""Shares that leave their cluster: lost with it, drained from it, or finished where a cluster is removed.

A share is Lost once its cluster was away for as long as the policy says; what was counted by then stays
counted, the rest is placed elsewhere. When the cluster is back, the stale mirror is stopped before anything
of it is counted; what it reached meanwhile is taken in as far as nobody else did it; then it is removed. A
share that is drained takes the same way with its cluster in reach: stopped, counted, removed, and only then
its rest is placed elsewhere. See docs/failures.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dispatcher.core import candidates, ceding, moving, placing
from dispatcher.core import mirror as mirrors
from dispatcher.core.actions import MERGE_PATCH, Action, DeleteMirror, Event, PatchMirror
from dispatcher.core.job import timestamp
from dispatcher.core.mirror import Mirror
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster, Observation
from dispatcher.core.placement import Placement, Share, ShareState
from dispatcher.core.policy import TaintEffect
from dispatcher.core.progress import Progress

ByShare = Mapping[int, Mirror]


def lost_at(observation: Observation, share: Share) -> datetime | None:
    """When a share counts as lost if nothing changes: at once where its cluster is registered no more (or is
    another one now), after ``failover.after`` where it is away; None while it is in reach.
    """
    cluster = observation.clusters.get(share.cluster)
    if cluster is not None and cluster.ready and cluster.uid != share.cluster_uid:
        return observation.now
    return given_up_at(observation, share.cluster)


def given_up_at(observation: Observation, name: ClusterName) -> datetime | None:
    """When nothing waits for a cluster any more if nothing changes; None while it is in reach."""
    cluster = observation.clusters.get(name)
    if cluster is None:
        return observation.now
    after = observation.policy.failover_after
    if cluster.ready or after is None or cluster.away_since is None:
        return None
    return cluster.away_since + after


def is_lost(observation: Observation, share: Share) -> bool:
    """Whether a share's cluster is given up on; never before all clusters were tried once after a start."""
    return _has_come(observation, lost_at(observation, share))


def is_given_up(observation: Observation, name: ClusterName) -> bool:
    """Whether nothing waits for a cluster any more; never before all were tried once after a start."""
    return _has_come(observation, given_up_at(observation, name))


def _has_come(observation: Observation, moment: datetime | None) -> bool:
    return observation.settled and moment is not None and moment <= observation.now


def eviction_at(observation: Observation, cluster: Cluster) -> datetime | None:
    """When unfinished shares have to leave a cluster in reach: it is removed, or has a NoExecute taint that
    the policy does not tolerate (any more). None: they may stay.
    """
    if cluster.leaving:
        return observation.now
    policy = observation.policy
    moments = []
    for taint in cluster.taints:
        if taint.effect is not TaintEffect.NO_EXECUTE:
            continue
        tolerating = [entry for entry in policy.tolerations if entry.tolerates(taint)]
        if any(entry.seconds is None for entry in tolerating):
            continue
        stay = max((entry.seconds or 0 for entry in tolerating), default=0)
        moments.append(cluster.tainted_since.get(taint, observation.now) + timedelta(seconds=stay))
    return min(moments, default=None)


def turning_points(observation: Observation, placement: Placement) -> list[datetime]:
    """When time alone changes what is to be done with a share, or with a mirror that none holds any more."""
    given_up = [given_up_at(observation, name) for name in {mirror.cluster for mirror in observation.mirrors}]
    moments = [moment for moment in given_up if moment is not None]
    for share in placement.held:
        cluster = observation.clusters.get(share.cluster)
        evicted = eviction_at(observation, cluster) if cluster is not None else None
        moments += [moment for moment in (lost_at(observation, share), evicted) if moment is not None]
    return [moment for moment in moments if moment > observation.now]


def is_gone(observation: Observation, share: Share, mirror: Mirror | None) -> bool:
    """A share's mirror was there and is deleted; seen by its last state, or proven by a live read."""
    if mirror is not None:
        return mirror.gone
    return (share.cluster, share.mirror_uid) in observation.proven_gone


def was_never_made(observation: Observation, share: Share, mirror: Mirror | None) -> bool:
    """A share's mirror surely does not exist and no POST of it is under way."""
    return (
        mirror is None
        and not share.mirror_uid
        and (share.cluster, share.mirror) not in observation.in_flight
        and observation.is_ready(share.cluster, share.cluster_uid)
    )


def is_stopped(observation: Observation, share: Share, mirror: Mirror | None) -> bool:
    """Nothing of a share's mirror runs or will run, and its counters are final."""
    if not observation.is_ready(share.cluster, share.cluster_uid):
        return False
    if is_gone(observation, share, mirror) or was_never_made(observation, share, mirror):
        return True
    if mirror is None or (share.cluster, share.mirror) in observation.in_flight:
        return False
    never_ran = mirror.suspend and not mirror.seeded
    return mirror.finished or mirror.fenced or never_ran


@dataclass(frozen=True, slots=True)
class Departure:
    """A placement in which shares turned Lost, Draining or Removing, and what to tell of it."""

    placement: Placement
    events: tuple[Event, ...] = ()


def lose(observation: Observation, placement: Placement, *, needs_refuge: bool) -> Departure:
    """Turn the shares of clusters that are given up on into Lost ones.

    ``needs_refuge``: only if another cluster could have the work; else it waits where it is.
    """
    lost = [
        replace(share, state=ShareState.LOST, counts=share.counts.settled())
        for share in placement.held
        if is_lost(observation, share)
        and (not needs_refuge or candidates.has_refuge(observation, placement, share))
    ]
    events = tuple(Event("Warning", "ShareLost", _loss(observation, share)) for share in lost)
    return Departure(placement.updated(lost), events)


def _loss(observation: Observation, share: Share) -> str:
    cluster = observation.clusters.get(share.cluster)
    if cluster is None:
        why = "is not registered any more"
    elif cluster.ready:
        why = "is another cluster now"
    else:
        since = f" since {timestamp(cluster.away_since)}" if cluster.away_since else ""
        why = f"is away{since} ({cluster.reason})"
    return f"Cluster {share.cluster} {why}; what its share {share.id} has not done moves to other clusters"


def evict(observation: Observation, placement: Placement) -> Departure:
    """Begin to drain the shares that must leave clusters in reach."""
    leaving: list[Share] = []
    events: list[Event] = []
    for share in placement.shares:
        cluster = observation.clusters.get(share.cluster)
        if cluster is None or not observation.is_ready(share.cluster, share.cluster_uid):
            continue
        moment = eviction_at(observation, cluster)
        due = moment is not None and moment <= observation.now
        outgrown = "" if due else moving.why_not_here(observation, placement, share)
        if share.state is ShareState.FINISHED and cluster.leaving:
            leaving.append(replace(share, state=ShareState.REMOVING))
        elif (
            share.state is ShareState.ACTIVE
            and (due or outgrown)
            and candidates.has_refuge(observation, placement, share)
        ):
            leaving.append(replace(share, state=ShareState.DRAINING))
            why = "is being removed" if cluster.leaving else outgrown or "has a NoExecute taint"
            text = f"Cluster {share.cluster} {why}; its share {share.id} is stopped, and the rest moves"
            events.append(Event("Normal", "ShareDraining", text))
    return Departure(placement.updated(leaving), tuple(events))


def spare(observation: Observation, placement: Placement, by_share: ByShare, progress: Progress) -> Placement:
    """Take out shares whose every index was done elsewhere before they ran: an empty mirror could not end."""
    if not observation.job.indexed:
        return placement
    decided = progress.completed | progress.failed_indexes
    shares = []
    for share in placement.shares:
        if share.state is ShareState.ACTIVE and share.interval and decided.includes(share.indexes):
            mirror = by_share.get(share.id)
            if was_never_made(observation, share, mirror):
                continue
            stopped = mirror is not None and not mirror.gone and is_stopped(observation, share, mirror)
            if mirror is not None and stopped and not mirror.finished:
                own = mirrors.completed_indexes(mirror) | mirrors.failed_indexes(mirror)
                if not mirror.seeded or not own.includes(share.indexes):
                    share = replace(share, state=ShareState.REMOVING, counts=share.counts.settled())
        shares.append(share)
    return placement.with_shares(shares)


def retire_removed(observation: Observation, placement: Placement, by_share: ByShare) -> Placement:
    """Fold shares into the totals whose mirrors are counted and gone."""
    for share in placement.shares:
        if share.state not in (ShareState.REMOVING, ShareState.LOST):
            continue
        mirror = by_share.get(share.id)
        if not observation.is_ready(share.cluster, share.cluster_uid):
            continue
        if is_gone(observation, share, mirror) or was_never_made(observation, share, mirror):
            placement = placement.retire(share)
    return placement


def take_in(observation: Observation, placement: Placement, by_share: ByShare) -> Departure:
    """Let the stopped mirrors of drained and lost shares count for the last time; they are Removing then.

    Of a share with completions that was lost, only as many successes count as others have not begun.
    Failures after the loss do not count: a cluster's trouble must not use up the Job's backoffLimit.
    """
    events: list[Event] = []
    for share in placement.shares:
        mirror = by_share.get(share.id)
        if share.state not in (ShareState.DRAINING, ShareState.LOST):
            continue
        if not is_stopped(observation, share, mirror):
            continue
        if share.state is ShareState.LOST:
            reached = mirrors.local_counts(mirror, share).succeeded if mirror is not None else 0
            extra = max(0, reached - share.counts.succeeded)
            placement, used = _credit(observation, placement, by_share, share, extra)
            share = next(entry for entry in placement.shares if entry.id == share.id)
            text = _return(share, used=used, extra=extra)
            events.append(Event("Normal", "ClusterReturned", text))
        done = replace(share, state=ShareState.REMOVING, counts=share.counts.settled())
        placement = placement.updated([done])
    return Departure(placement, tuple(events))


def _return(share: Share, *, used: int, extra: int) -> str:
    if not extra:
        news = f"its share {share.id} has completed nothing more meanwhile"
    elif used == extra:
        news = f"what its share {share.id} has completed meanwhile ({extra}) counts"
    else:
        news = (
            f"of the {extra} that its share {share.id} has completed meanwhile {used} count, the others were "
            "done elsewhere"
        )
    return f"Cluster {share.cluster} is back; {news}; its mirror is removed"


def _credit(
    observation: Observation, placement: Placement, by_share: ByShare, lost: Share, extra: int
) -> tuple[Placement, int]:
    """Count successes of a lost share that came to light; live shares give up as much work in exchange."""
    job = observation.job
    if job.indexed:  # by index, from the mirror's own list; see progress.measure
        counts = replace(lost.counts, succeeded=lost.counts.succeeded + extra)
        lost_now = replace(lost, counts=counts)
        return placement.with_shares(lost_now if s.id == lost.id else s for s in placement.shares), extra
    left = extra
    shares = list(placement.shares)
    if job.completions is not None:
        left -= min(left, placing.outstanding_completions(job, placement))
        for position in range(len(shares) - 1, -1, -1):
            share = shares[position]
            cut = min(left, unstarted_completions(observation, share, by_share.get(share.id)))
            if cut:
                shares[position] = replace(share, completions=(share.completions or 0) - cut)
                left -= cut
    used = extra if job.completions is None else extra - left
    credited = replace(lost, counts=replace(lost.counts, succeeded=lost.counts.succeeded + used))
    shares = [credited if share.id == lost.id else share for share in shares]
    kept = [share for share in shares if share.completions != 0 or share.mirror_uid or share.id == lost.id]
    return placement.with_shares(kept), used


def unstarted_completions(observation: Observation, share: Share, mirror: Mirror | None) -> int:
    """How many completions of a live NonIndexed share no pod has been made for, for certain."""
    if share.state is not ShareState.ACTIVE or share.completions is None or share.interval is not None:
        return 0
    if was_never_made(observation, share, mirror):
        return share.completions
    if mirror is None or not ceding.may_cede(observation, mirror):
        return 0
    if not observation.is_ready(share.cluster, share.cluster_uid):
        return 0
    succeeded = mirrors.local_counts(mirror, share).succeeded
    return max(0, share.completions - succeeded - ceding.busy_completions(observation, share, mirror))


def withdraw(observation: Observation, persisted: Placement, by_share: ByShare) -> list[Action]:
    """The next step for each mirror whose share leaves: stop it; once it is counted, remove it."""
    actions: list[Action] = []
    for share in persisted.shares:
        mirror = by_share.get(share.id)
        if mirror is None or mirror.gone or mirror.deleting:
            continue
        if not observation.is_ready(share.cluster, share.cluster_uid):
            continue
        attempt = observation.attempts.get((share.cluster, share.mirror))
        if attempt is not None and observation.now < attempt.retry_at:
            continue
        if share.state is ShareState.REMOVING:
            actions.append(DeleteMirror(mirror.cluster, mirror.name, mirror.uid))
        elif share.state not in (ShareState.DRAINING, ShareState.LOST):
            continue
        # A suspension that came before the resumption was acknowledged could not be told from an old one.
        elif mirror.started and not mirror.suspend and not mirror.finished:
            patch = {"metadata": {"uid": mirror.uid}, "spec": {"suspend": True}}
            actions.append(PatchMirror(mirror.cluster, mirror.name, mirror.uid, MERGE_PATCH, patch))
    return actions
