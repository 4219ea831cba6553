"""Dividing one Job's parallelism and completions over clusters, at its start and while it runs.

The planner divides one number. A Job has two that must agree: completions on a cluster without
parallelism would never run, and parallelism on a cluster without completions would be lost.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dispatcher.core.indexes import EMPTY, IndexSet, Interval
from dispatcher.core.names import ClusterName
from dispatcher.core.planner import NONE, Counts, Plan, plan
from dispatcher.core.preferences import EVEN, Preferences

_LISTED_CLUSTERS: Final = 5
"""How many names a reason lists; a condition's message is read by people."""


@dataclass(frozen=True, slots=True)
class Part:
    """One cluster's part of a Job."""

    parallelism: int
    completions: int | None
    """``None`` for a work queue, else at least 1."""
    interval: Interval | None = None
    """Indexed: first and last index, both inclusive; as many as there are completions."""


@dataclass(frozen=True, slots=True)
class Division:
    """How a Job, or what is outstanding of it, is divided. Parts and unplaced amounts add up to the whole."""

    parts: Mapping[ClusterName, Part]
    """By cluster, in order of their names; no entry where there is no work."""
    unplaced_parallelism: int = 0
    unplaced_completions: int = 0
    reason: str = ""
    """Which rule leaves something unplaced, on which clusters; empty when nothing is."""


@dataclass(frozen=True, slots=True)
class LiveShare:
    """A share that runs, as far as it matters for its parallelism."""

    id: int
    cluster: ClusterName
    parallelism: int
    remaining: int | None
    """Completions it has not reached; ``None`` for a work queue."""


def divide(
    *,
    key: str,
    parallelism: int,
    completions: int | None,
    indexed: bool = False,
    clusters: Sequence[ClusterName],
    preferences: Preferences = EVEN,
    existing_parallelism: Counts = NONE,
    existing_completions: Counts = NONE,
    capacity: Counts = NONE,
) -> Division:
    """Divide a Job over clusters.

    Parallelism is planned over the clusters, completions over those with parallelism above 0. A cluster
    left with 0 completions gets no part, and parallelism is planned again over the rest. Where the Job's
    parallelism is 0, completions alone are planned, so that each cluster's part is known when it is raised.

    Args:
        key: ``namespace/name`` of the Job; see :func:`dispatcher.core.planner.plan`.
        parallelism: pods at once, over all clusters.
        completions: successes that are wanted; ``None`` for a work queue. 0 gives no part at all.
        indexed: each part gets a contiguous interval of the indexes 0 … completions - 1, in order of the
            clusters' names. For any other set of indexes see :func:`divide_indexes`.
        clusters: those that may get work, each once.
        preferences: the bounds and weights, of parallelism and of completions alike.
        existing_parallelism: what each cluster has; kept unless the preferences rebalance.
        existing_completions: likewise.
        capacity: the most pods at once that a cluster takes, those it has included.
    """
    candidates = list(clusters)
    while True:
        pods = plan(
            parallelism,
            clusters=candidates,
            preferences=preferences,
            key=key,
            existing=existing_parallelism,
            capacity=capacity,
        )
        running = [name for name in candidates if pods.plan[name] > 0 or parallelism == 0]
        if completions is None:
            work = None
            kept = running if parallelism else []
            break
        work = plan(
            completions,
            clusters=running,
            preferences=preferences,
            key=key,
            existing=existing_completions,
        )
        kept = [name for name in running if work.plan[name] > 0]
        if len(kept) == len(running):
            break
        candidates = kept

    sizes = {name: work.plan[name] for name in sorted(kept)} if work else {}
    intervals: dict[ClusterName, Interval] = {}
    if indexed:
        intervals.update(divide_indexes(IndexSet.interval(0, sum(sizes.values()) - 1), sizes))
    parts = {name: Part(pods.plan[name], sizes.get(name), intervals.get(name)) for name in sorted(kept)}
    if completions == 0:
        return Division(parts)
    unplaced_parallelism = parallelism - sum(part.parallelism for part in parts.values())
    unplaced_completions = (completions or 0) - sum(sizes.values())
    amounts = [
        f"{amount} of {whole} {what}"
        for amount, whole, what in (
            (unplaced_parallelism, parallelism, "parallelism"),
            (unplaced_completions, completions, "completions"),
        )
        if amount
    ]
    reason = ""
    if amounts:
        why = why_no_more(clusters, preferences=preferences, pods=pods, work=work, capacity=capacity)
        reason = f"{' and '.join(amounts)} not placed: {why}"
    return Division(parts, unplaced_parallelism, unplaced_completions, reason)


def divide_indexes(
    indexes: IndexSet, sizes: Mapping[ClusterName, int], *, done: IndexSet = EMPTY
) -> list[tuple[ClusterName, Interval]]:
    """Hand out a set of indexes, ascending, to clusters in order of their names.

    A piece is one interval, because a share is; so a cluster gets several pieces where its indexes have
    gaps. A gap within ``done`` (indexes that are completed or failed, which every mirror is seeded with)
    does not separate pieces: the interval then spans it, and its length is more than its outstanding indexes.

    Args:
        indexes: what is outstanding.
        sizes: how many indexes each cluster gets; indexes beyond the sum stay unplaced.

    Returns:
        (cluster, interval) in order of the indexes. As few pieces as that order allows: at most the
        clusters plus the gaps.
    """
    pieces: list[tuple[ClusterName, Interval]] = []
    for cluster in sorted(sizes):
        own = indexes.lowest(sizes[cluster])
        indexes = indexes - own
        if own.is_empty:
            continue
        bridges = done & IndexSet.interval(own.intervals[0][0], own.intervals[-1][1])
        for first, last in (own | bridges).intervals:
            inside = own & IndexSet.interval(first, last)
            # A run of done indexes alone is no piece, and neither are those at a piece's ends.
            if not inside.is_empty:
                pieces.append((cluster, (inside.intervals[0][0], inside.intervals[-1][1])))
    return pieces


def spread_parallelism(
    total: int, shares: Sequence[LiveShare], *, key: str, preferences: Preferences = EVEN
) -> dict[int, int]:
    """Divide a parallelism over shares that run, changing as few of them as possible.

    Nobody's parallelism falls unless the total fell, and nobody's grows unless the total grew or a share
    finished; either goes to the shares that are furthest from what the preferences give them for the work
    they have left. With a total of at least the number of shares, each gets 1 or more.

    Args:
        total: the Job's parallelism.
        shares: those with ``remaining`` 0 are left out: they need none, and are not worth a write.
        key: ``namespace/name`` of the Job.
        preferences: the bounds hold here too.

    Returns:
        By share id, the parallelism of every share with work left. They add up to ``total``, or to less where
        a maximum or a weight of 0 excludes more.
    """
    working = [share for share in shares if share.remaining != 0]
    wanted = _wanted(total, working, key=key, preferences=preferences)
    spread = {share.id: share.parallelism for share in working}
    if total >= len(working):
        spread = {id_: max(1, parallelism) for id_, parallelism in spread.items()}
    surplus = sum(spread.values()) - total
    lack = sum(wanted.values()) - sum(spread.values())
    # The differences in the direction of the change always add up to the change, or to more.
    for id_ in sorted(spread, key=lambda id_: (-abs(wanted[id_] - spread[id_]), id_)):
        if surplus > 0:
            change = -min(surplus, max(0, spread[id_] - wanted[id_]))
        else:
            change = min(max(0, lack), max(0, wanted[id_] - spread[id_]))
        spread[id_] += change
        surplus += min(0, change)
        lack -= max(0, change)
    return spread


def _wanted(
    total: int, working: Sequence[LiveShare], *, key: str, preferences: Preferences
) -> dict[int, int]:
    """What each share would have if nothing ran yet: no more than it can use, as long as another can."""
    by_cluster: dict[ClusterName, list[LiveShare]] = {}
    for share in working:
        by_cluster.setdefault(share.cluster, []).append(share)
    usable = {
        name: sum(share.remaining or 0 for share in own)
        for name, own in by_cluster.items()
        if all(share.remaining is not None for share in own)
    }
    afresh = replace(preferences, rebalance=True)
    names = sorted(by_cluster)
    amounts = plan(total, clusters=names, preferences=afresh, key=key, capacity=usable).plan
    left = total - sum(amounts.values())
    if left:
        # More than all can use: the rest goes where it would have gone without looking at what is left to do.
        idle = plan(total, clusters=names, preferences=afresh, key=key).plan
        for name in names:
            more = min(left, max(0, idle[name] - amounts[name]))
            amounts[name] += more
            left -= more
    wanted: dict[int, int] = {}
    for name, own in by_cluster.items():
        wanted.update(_split(amounts[name], own))
    if total >= len(working):
        _give_everyone_one(total, wanted)
    return wanted


def _split(amount: int, shares: Sequence[LiveShare]) -> Iterable[tuple[int, int]]:
    """Divide a cluster's parallelism evenly over its shares, no more than a share can use if possible."""
    unbounded = [share for share in shares if share.remaining is None]
    bounded = sorted(
        (share for share in shares if share.remaining is not None), key=lambda share: share.remaining or 0
    )
    ordered = bounded + unbounded
    for place, share in enumerate(ordered):
        others = len(ordered) - place
        part = -(-amount // others)
        if share.remaining is not None and others > 1:
            part = min(part, share.remaining)
        amount -= part
        yield share.id, part


def _give_everyone_one(total: int, wanted: dict[int, int]) -> None:
    """Raise 0 to 1, at the cost of the largest where the total is used up."""
    for id_ in [id_ for id_, amount in wanted.items() if amount == 0]:
        if sum(wanted.values()) >= total:
            wanted[max(wanted, key=wanted.__getitem__)] -= 1
        wanted[id_] = 1


def why_no_more(
    clusters: Sequence[ClusterName],
    *,
    preferences: Preferences,
    pods: Plan,
    work: Plan | None,
    capacity: Counts = NONE,
) -> str:
    """Each cluster's reason for not taking more, clusters with the same reason together."""
    reasons: dict[str, list[ClusterName]] = {}
    for name in sorted(clusters):
        own = preferences.of(name)
        parallelism = pods.plan.get(name, 0)
        completions = work.plan.get(name, 0) if work else 0
        if own is None:
            why = "not named in the preferences"
        elif own.max_replicas is not None and max(parallelism, completions) >= own.max_replicas:
            why = f"maxReplicas {own.max_replicas} reached"
        elif name in capacity and parallelism >= capacity[name]:
            why = f"capacity {capacity[name]} reached"
        elif own.weight == 0:
            why = "weight 0 gives nothing above minReplicas"
        else:
            why = "no parallelism left for it"
        reasons.setdefault(why, []).append(name)
    return "; ".join(f"{why} ({_listed(names)})" for why, names in reasons.items()) or "there is no cluster"


def _listed(names: Sequence[ClusterName]) -> str:
    shown = ", ".join(names[:_LISTED_CLUSTERS])
    more = len(names) - _LISTED_CLUSTERS
    return shown if more <= 0 else f"{shown} and {more} more"
