"""How many pods a Job holds on each cluster, and its growth kept within what is free there.

A cluster's ``spec.capacity.parallelism`` bounds our active pods over all Jobs. Who holds what is known from
placements and mirrors alone (:func:`held`); what is free for one Job comes with the observation as ``room``.
Nobody who runs is cut: room limits what a Job gets beyond what it holds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from dispatcher.core import division, planner
from dispatcher.core.actions import Claim
from dispatcher.core.division import Division, Part
from dispatcher.core.job import Job
from dispatcher.core.mirror import Mirror
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster, Observation
from dispatcher.core.placement import Placement, Share, ShareState
from dispatcher.core.preferences import ClusterPreferences, Preferences


def is_released(job: Job) -> bool:
    """A suspended Job holds nothing, until its resumption is written together with what it may have then."""
    return job.suspend or job.is_true("Suspended")


def held(job: Job, placement: Placement, by_share: Mapping[int, Mirror]) -> dict[ClusterName, int]:
    """The most pods of a Job that may be active on each cluster, as far as its mirrors are known."""
    may_run = not (job.finished or job.deleted_at is not None or is_released(job))
    amounts: dict[ClusterName, int] = {}
    for share in placement.shares:
        live = may_run and share.state is ShareState.ACTIVE
        amount = _held_by(share, by_share.get(share.id), live=live)
        if amount:
            amounts[share.cluster] = amounts.get(share.cluster, 0) + amount
    return amounts


def _held_by(share: Share, mirror: Mirror | None, *, live: bool) -> int:
    if mirror is None:
        return _usable(share.parallelism, share.remaining) if live else 0
    if mirror.finished or mirror.gone:
        return 0
    allowed = share.parallelism if live else 0
    if not mirror.suspend:
        allowed = max(allowed, int(mirror.spec.get("parallelism", 1)))
    left = share.remaining
    if mirror.seeded and mirror.spec.get("completions") is not None:
        # The Job controller never runs more pods than completions are missing.
        left = max(0, int(mirror.spec["completions"]) - mirror.count("succeeded"))
    return max(mirror.count("active") + mirror.count("terminating"), _usable(allowed, left))


def _usable(parallelism: int, remaining: int | None) -> int:
    return parallelism if remaining is None else min(parallelism, remaining)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A placement that keeps within the room, and what of its growth had to wait."""

    placement: Placement
    claim: Claim | None = None


def within_room(observation: Observation, persisted: Placement, placement: Placement) -> Bounded:
    """Cut the growth of shares to what is free on their clusters; new shares come first."""
    if not observation.room:
        return Bounded(placement)
    before = {share.id: share.parallelism for share in persisted.shares}
    if is_released(observation.job):
        before = dict.fromkeys(before, 0)
    room = dict(observation.room)
    kept = {share.id for share in placement.shares}
    for share in persisted.active:
        if (
            share.id not in kept and share.cluster in room
        ):  # its mirror is gone, and what it held is ours to use
            room[share.cluster] += _usable(share.parallelism, share.remaining)
    cut: dict[int, int] = {}
    claim: Claim | None = None
    new_first = sorted(placement.active, key=lambda share: (share.id in before, share.id))
    for share in new_first:
        base = before.get(share.id, 0)
        if share.cluster not in room or share.parallelism <= base:
            continue
        wanted = max(base, _usable(share.parallelism, share.remaining))
        granted = min(wanted, base + room[share.cluster])
        room[share.cluster] -= granted - base
        if granted < wanted:
            claim = Claim(wanted - granted, frozenset({share.cluster})) | claim
        if granted < share.parallelism:
            cut[share.id] = granted
    if not cut:
        return Bounded(placement)
    return Bounded(placement.with_parallelism(cut), claim)


def claim_of(job: Job, bounded: Bounded, unplaced: Claim | None) -> Claim | None:
    """What a Job waits for, in new shares and in those it has, and never more than it lacks."""
    lacking = job.parallelism - sum(share.parallelism for share in bounded.placement.held)
    claim = unplaced | bounded.claim if unplaced is not None else bounded.claim
    if claim is None or lacking <= 0:
        return None
    return replace(claim, pods=min(claim.pods, lacking))


def shortage(observation: Observation, claim: Claim | None) -> str:
    """In words what shares that run lack; empty where they lack nothing."""
    if claim is None:
        return ""
    return f"{claim.pods} of {observation.job.parallelism} parallelism not placed: {full(observation, claim.clusters)}"


def full(observation: Observation, clusters: Iterable[ClusterName]) -> str:
    """Why nothing more goes to these clusters, in words."""
    shown = []
    for name in sorted(clusters):
        cluster = observation.clusters.get(name)
        shown.append(f"{name} (capacity {cluster.capacity if cluster else 0})")
    more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
    return f"no room on {', '.join(shown[:5])}{more}"


def roomiest(observation: Observation, clusters: Sequence[ClusterName], pods: int) -> list[ClusterName]:
    """Of clusters to choose from, those with room for all the pods; else those with room; else all."""
    room = {name: observation.room.get(name, pods) for name in clusters}
    return (
        [name for name in clusters if room[name] >= pods]
        or [name for name in clusters if room[name] > 0]
        or list(clusters)
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """How work is divided over the room there is, and what the rest waits for."""

    division: Division
    claim: Claim | None = None


def divide_in_room(
    observation: Observation,
    *,
    pods: int,
    completions: int | None,
    clusters: Sequence[ClusterName],
    preferences: Preferences,
    whole: bool,
) -> Fit:
    """Divide what is outstanding; where capacities leave no room for all pods, only as many completions go along
    as these are of all, so that the rest can go wherever room comes first.

    ``whole``: all completions go with the first pods. For the others see :func:`dispatcher.core.division.divide`.
    """
    job = observation.job
    room = {name: observation.room[name] for name in clusters if name in observation.room}
    if not room or not job.parallelism:
        room = {}
    elif not pods:
        text = (
            f"{completions or 0} of {job.completions} completions not placed: all pods of the Job are in use"
        )
        return Fit(Division({}, 0, completions or 0, text if completions else ""))

    def divided(parallelism: int, amount: int | None, capacity: Mapping[ClusterName, int]) -> Division:
        return division.divide(
            key=job.key,
            parallelism=parallelism,
            completions=amount,
            clusters=clusters,
            preferences=preferences,
            capacity=capacity,
        )

    free = divided(pods, completions, {})
    if all(part.parallelism <= room[name] for name, part in free.parts.items() if name in room):
        return Fit(free)
    useful = pods if completions is None else min(pods, completions)
    given = {name: part.parallelism for name, part in divided(useful, None, room).parts.items()}
    used_up = frozenset(name for name in room if given.get(name, 0) >= room[name])
    placed = sum(given.values())
    missing = useful - placed
    left = 0
    parts = {name: Part(amount, None) for name, amount in given.items()}
    if completions is not None:
        amount = completions if whole and placed else -(-completions * placed // useful)
        work = _in_proportion(job.key, amount, given, preferences)
        parts = {name: Part(given[name], work[name]) for name in given if work[name]}
        left = completions - sum(work.values())
    if not missing and not left:
        return Fit(Division(parts))
    amounts = f"{missing} of {job.parallelism} parallelism"
    amounts += f" and {left} of {job.completions} completions" if left else ""
    reason = f"{amounts} not placed: {full(observation, used_up) if used_up else free.reason}"
    return Fit(
        Division(parts, missing, left, reason), Claim(missing, used_up) if used_up and missing else None
    )


def _in_proportion(
    key: str, amount: int, pods: Mapping[ClusterName, int], preferences: Preferences
) -> Mapping[ClusterName, int]:
    """Completions by cluster, as many as its pods can do while the others do theirs."""
    by_pods: dict[ClusterName, ClusterPreferences] = {}
    for name, weight in pods.items():
        own = preferences.of(name)
        by_pods[name] = ClusterPreferences(weight=weight, max_replicas=own.max_replicas if own else None)
    return planner.plan(amount, clusters=list(pods), preferences=Preferences(clusters=by_pods), key=key).plan


def bounds(clusters: Iterable[Cluster]) -> dict[ClusterName, int]:
    """The declared capacities; clusters without one are absent."""
    return {cluster.name: cluster.capacity for cluster in clusters if cluster.capacity is not None}
