"""Work that has not begun moves to clusters that would do it sooner; nothing that runs is killed.

Four reasons: a cluster has finished its part while others hold more than they run (``stealUnstarted``);
a cluster refuses a mirror, or its pods do not get to run (``failover.unschedulableAfter``);
the division is another one now (``moveRunning``): then places move along, and as many pods are stopped. The giving
share is cut in the placement first; then its mirror is told (:mod:`dispatcher.core.ceding`); only when it
has taken that in is the mirror of the taking share made. What the giver has begun meanwhile goes back to it.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta

from dispatcher.core import candidates, ceding, moving, placing
from dispatcher.core.actions import Event
from dispatcher.core.leaving import Departure, unstarted_completions, was_never_made
from dispatcher.core.mirror import Mirror
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Observation, Refusal
from dispatcher.core.placement import Placement, Share, ShareState
from dispatcher.core.progress import Progress

ByShare = Mapping[int, Mirror]
REFUSALS = (Refusal.REFUSED, Refusal.FORBIDDEN, Refusal.NAMESPACE_MISSING)


def rebalance(
    observation: Observation, placement: Placement, by_share: ByShare, progress: Progress
) -> Departure:
    """Move what has not begun, if the policy wants that and another cluster has room for it."""
    placement = reclaim(observation, placement, by_share, progress)
    given_up = give_up(observation, placement, by_share)
    placement = _relieve(observation, given_up.placement, by_share, progress)
    placement = _shift(observation, placement, by_share, progress)
    job = observation.job
    age = observation.now - job.start_time if job.start_time is not None else timedelta()
    if observation.policy.steal_unstarted and age >= observation.policy.steal_after:
        placement = _steal(observation, placement, by_share, progress)
    return Departure(placement, given_up.events)


def turning_points(observation: Observation, placement: Placement) -> list[datetime]:
    """When time alone makes a share stalled, or a Job old enough to be taken from."""
    policy, start = observation.policy, observation.job.start_time
    moments = []
    if policy.unschedulable_after is not None:
        since = observation.idle_since
        slots = [(share.cluster, share.mirror) for share in placement.active]
        moments += [since[slot] + policy.unschedulable_after for slot in slots if slot in since]
    if policy.steal_unstarted and start is not None:
        moments.append(start + policy.steal_after)
    return [moment for moment in moments if moment > observation.now]


def give_up(observation: Observation, placement: Placement, by_share: ByShare) -> Departure:
    """Take back shares that their clusters have refused, or have not run a pod of, for too long."""
    after = observation.policy.unschedulable_after
    if after is None:
        return Departure(placement)
    shares: list[Share] = []
    events: list[Event] = []
    for share in placement.shares:
        mirror = by_share.get(share.id)
        attempt = observation.attempts.get((share.cluster, share.mirror))
        if share.state is not ShareState.ACTIVE or not candidates.has_refuge(observation, placement, share):
            shares.append(share)
        elif was_never_made(observation, share, mirror):
            refused = attempt is not None and attempt.refusal in REFUSALS
            if attempt is not None and refused and attempt.since + after <= observation.now:
                text = f"Cluster {share.cluster} refuses its share ({attempt.message}); the work moves"
                events.append(Event("Warning", "ShareRefused", text))
            else:
                shares.append(share)
        elif mirror is not None and _runs_nothing(observation, share, mirror):
            text = f"No pod of share {share.id} runs on cluster {share.cluster}; the work moves"
            events.append(Event("Warning", "ShareUnschedulable", text))
            shares.append(replace(share, state=ShareState.DRAINING))
        else:
            shares.append(share)
    return Departure(placement.with_shares(shares), tuple(events))


def _runs_nothing(observation: Observation, share: Share, mirror: Mirror) -> bool:
    return ceding.is_stalled(observation, share, mirror) and mirror.count("ready") == 0


def _relieve(
    observation: Observation, placement: Placement, by_share: ByShare, progress: Progress
) -> Placement:
    """Of shares whose pods run in part only, give the part that has not begun to another cluster."""
    for share in placement.active:
        mirror = by_share.get(share.id)
        if mirror is None or not ceding.is_stalled(observation, share, mirror):
            continue
        takers = [name for name in candidates.takers(observation, placement) if name != share.cluster]
        amount = unstarted(observation, share, mirror, progress)
        if not takers:
            continue
        holding = {held.cluster: held.parallelism for held in placement.held}
        taker = min(takers, key=lambda name: (holding.get(name, 0), name))
        amount = _bounded(observation, placement, taker, amount)
        pods = min(amount, share.parallelism - max(1, mirror.count("ready")))
        if pods <= 0:
            continue
        lowered = replace(share, parallelism=share.parallelism - pods)
        placement = placement.with_shares(lowered if s.id == share.id else s for s in placement.shares)
        placement = _hand_over(observation, placement, lowered, amount=amount, taker=taker, parallelism=pods)
    return placement


def _shift(
    observation: Observation, placement: Placement, by_share: ByShare, progress: Progress
) -> Placement:
    """Bring a running Job closer to how it would be divided now: work that has not begun moves, and places with it."""
    drift = moving.drift(observation, placement)
    if drift is None or not all(share.id in by_share for share in placement.active):
        return placement
    for taker in sorted(drift.takers, key=lambda name: (-drift.takers[name].pods, name)):
        wanted = drift.takers[taker]
        for giver in sorted(placement.active, key=lambda share: (-share.parallelism, share.id)):
            spare = drift.givers.get(giver.cluster)
            if spare is None or giver.id not in by_share:
                continue
            free = unstarted(observation, giver, by_share[giver.id], progress)
            amount = min(spare.completions, wanted.completions, free)
            pods = min(spare.pods, wanted.pods, giver.parallelism - 1, amount)
            if pods <= 0:
                continue
            lowered = replace(giver, parallelism=giver.parallelism - pods)
            placement = placement.with_shares(lowered if s.id == giver.id else s for s in placement.shares)
            placement = _hand_over(
                observation, placement, lowered, amount=amount, taker=taker, parallelism=pods
            )
            drift.givers[giver.cluster] = spare.less(pods, amount)
            wanted = wanted.less(pods, amount)
    return placement


def _steal(
    observation: Observation, placement: Placement, by_share: ByShare, progress: Progress
) -> Placement:
    """Let clusters that hold nothing of the Job have the parallelism that became free, with work for it."""
    job = observation.job
    free = job.parallelism - sum(share.parallelism for share in placement.held)
    if job.completions is None or free <= 0 or not all(share.id in by_share for share in placement.active):
        return placement
    busy = {share.cluster for share in placement.held}
    takers = [name for name in candidates.takers(observation, placement) if name not in busy]
    smallest = observation.policy.min_share
    for taker in takers[: max(1, free // smallest)]:
        givers = {
            share.id: unstarted(observation, share, by_share.get(share.id), progress)
            for share in placement.active
        }
        most = max(givers, key=lambda id_: (givers[id_], -id_), default=None)
        if most is None:
            break
        giver = next(share for share in placement.shares if share.id == most)
        amount = min(givers[most], max(1, (giver.remaining or 0) * free // max(1, job.parallelism)))
        amount = _bounded(observation, placement, taker, amount)
        pods = min(free, amount)
        if amount < smallest or pods <= 0:
            break
        placement = _hand_over(observation, placement, giver, amount=amount, taker=taker, parallelism=pods)
        free -= pods
    return placement


def unstarted(observation: Observation, share: Share, mirror: Mirror | None, progress: Progress) -> int:
    """How many completions at the end of a live share no pod has been made for, for certain."""
    if share.interval is None:
        return unstarted_completions(observation, share, mirror)
    if mirror is None or not ceding.may_cede(observation, mirror):
        return 0
    free = (ceding.unbegun_indexes(observation, mirror) & share.indexes).intervals
    at_the_end = bool(free) and free[-1][1] == share.interval[1] and free[-1][0] > share.interval[0]
    if not at_the_end:
        return 0
    # Something stays with the giver: a mirror cannot be told that all is done.
    undecided = len(ceding.undecided_indexes(observation.job, mirror) & share.indexes)
    return min(free[-1][1] - free[-1][0] + 1, undecided - 1)


def _bounded(observation: Observation, placement: Placement, taker: ClusterName, amount: int) -> int:
    """What of an amount the preferences' maximum leaves room for on a cluster."""
    most = candidates.room_for_one_job(observation, taker)
    held = sum(share.completions or 0 for share in placement.held if share.cluster == taker)
    return amount if most is None else max(0, min(amount, most - held))


def _hand_over(
    observation: Observation,
    placement: Placement,
    giver: Share,
    *,
    amount: int,
    taker: ClusterName,
    parallelism: int,
) -> Placement:
    """Cut ``amount`` off the end of a share, and give it to a new one."""
    completions = (giver.completions or 0) - amount
    if giver.interval is None:
        cut = replace(giver, completions=completions)
        interval = None
    else:
        # All indexes at the end are undecided: nothing beyond what runs has begun.
        first, last = giver.interval
        cut = replace(giver, interval=(first, last - amount), completions=completions)
        interval = (last - amount + 1, last)
    placement = placement.with_shares(cut if share.id == giver.id else share for share in placement.shares)
    return placing.added(observation, placement, [(taker, parallelism, amount, interval)])


def reclaim(
    observation: Observation, placement: Placement, by_share: ByShare, progress: Progress
) -> Placement:
    """Give work back to shares whose mirrors have begun it after all, from shares that are not made yet."""
    if len(placement.active) < 2:
        return placement
    shares = {share.id: share for share in placement.shares}
    for giver in placement.active:
        mirror = by_share.get(giver.id)
        if mirror is None or mirror.gone or mirror.finished or not mirror.seeded:
            continue
        over = ceding.excess(observation.job, giver, mirror, progress)
        if over <= 0 if isinstance(over, int) else over.is_empty:
            continue
        if ceding.cede(observation, giver, mirror, progress) is not None or mirror.transient:
            continue
        for taker in placement.active:
            if not was_never_made(observation, taker, by_share.get(taker.id)) or taker.id not in shares:
                continue
            giver = shares[giver.id]
            if isinstance(over, int):
                back = min(over, taker.completions or 0)
                over -= back
                shares[giver.id] = replace(giver, completions=(giver.completions or 0) + back)
                _shorten(shares, taker, back)
            elif giver.interval and taker.interval and taker.interval[0] == giver.interval[1] + 1:
                begun = over & taker.indexes
                if begun.is_empty:
                    continue
                back = begun.intervals[-1][1] - giver.interval[1]
                interval = (giver.interval[0], giver.interval[1] + back)
                shares[giver.id] = replace(
                    giver, interval=interval, completions=(giver.completions or 0) + back
                )
                _shorten(shares, taker, back)
    return placement.with_shares(shares.values())


def _shorten(shares: dict[int, Share], taker: Share, back: int) -> None:
    completions = (taker.completions or 0) - back
    if completions <= 0:
        del shares[taker.id]
        return
    interval = None if taker.interval is None else (taker.interval[0] + back, taker.interval[1])
    shares[taker.id] = replace(taker, completions=completions, interval=interval)


def waits_for_a_giver(
    observation: Observation, share: Share, placement: Placement, by_share: ByShare, progress: Progress
) -> bool:
    """Whether a live mirror may still begin what this share, not made yet, is to do."""
    for other in placement.active:
        mirror = by_share.get(other.id)
        if other.id == share.id or mirror is None or mirror.gone or mirror.finished or not mirror.seeded:
            continue
        over = ceding.excess(observation.job, other, mirror, progress)
        if over > 0 if isinstance(over, int) else not (over & share.indexes).is_empty:
            return True
    return False
