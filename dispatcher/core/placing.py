"""Where a Job's outstanding work goes: which clusters may have it, new shares, parallelism moving on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dispatcher.core import capacity, division, names
from dispatcher.core.actions import Claim
from dispatcher.core.candidates import choose, exclusion, most_clusters, open_to, wish
from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import Job
from dispatcher.core.manifest import suffixed_name
from dispatcher.core.observation import Observation, Refusal
from dispatcher.core.placement import HOLDING, MAX_SHARES, Counts, Placement, Share
from dispatcher.core.planner import Plan
from dispatcher.core.preferences import ClusterPreferences, Preferences
from dispatcher.core.progress import Progress

MANY_SHARES = MAX_SHARES // 2
"""With so many shares, a Job's rest is not cut into small ones any more as room comes."""
LISTED_AWAY = 5
Addition = tuple[names.ClusterName, int, int | None, tuple[int, int] | None]
"""Cluster, parallelism, completions and interval of a share to be made."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a Job is not dispatched: a PascalCase reason, and a message that says what to do."""

    reason: str
    message: str
    claim: Claim | None = None


def no_cluster(observation: Observation) -> Problem:
    """The condition of a Job that no cluster may have."""
    if not observation.clusters:
        return Problem("NoWorkerClusters", "There is no WorkerCluster; create one and its kubeconfig Secret")
    found = [exclusion(cluster, observation) for cluster in observation.clusters.values()]
    reasons = [f"{excluded.cluster}: {excluded.text}" for excluded in found if excluded is not None]
    listed = "; ".join(sorted(reasons)[:10]) + ("; …" if len(reasons) > 10 else "")
    return Problem("NoEligibleClusters", f"No WorkerCluster may take this Job now ({listed})")


def outstanding_indexes(job: Job, placement: Placement, progress: Progress) -> IndexSet:
    """The indexes that no share holds and that are not decided yet."""
    if not job.completions:
        return IndexSet()
    left = IndexSet.interval(0, job.completions - 1)
    for share in placement.held:
        left = left - share.indexes
    return left - progress.completed - progress.failed_indexes


def outstanding_completions(job: Job, placement: Placement) -> int:
    """The completions that no share holds and that are not reached yet (NonIndexed)."""
    held, settled = 0, 0
    for share in placement.shares:
        if share.state in HOLDING:
            held += share.completions or 0
        else:
            settled += share.counts.succeeded
    settled += sum(counts.succeeded for counts in placement.retired.values())
    return max(0, (job.completions or 0) - held - settled)


@dataclass(frozen=True, slots=True)
class Placed:
    """A placement and, if bounds leave work waiting, how much of it and why."""

    placement: Placement
    waiting: str = ""
    claim: Claim | None = None


def place_outstanding(
    observation: Observation, placement: Placement, progress: Progress, homes: Sequence[Share]
) -> Placed | Problem:
    """Give the work that no live share holds to new shares.

    ``homes`` are the shares whose mirrors are just gone: their work stays on their clusters where
    these may still have it. Returns the placement itself when nothing is outstanding.
    """
    job = observation.job
    indexes = outstanding_indexes(job, placement, progress) if job.indexed else IndexSet()
    if job.completions is None:
        amount = 0
        needed = (bool(homes) or not placement.held) and progress.counts.succeeded == 0
        if observation.room and progress.counts.succeeded == 0 and placement.held:
            needed = sum(share.parallelism for share in placement.held) < job.parallelism
    else:
        amount = len(indexes) if job.indexed else outstanding_completions(job, placement)
        needed = amount > 0
    if not needed:
        return Placed(placement)
    if observation.policy_fault:
        return Problem(names.POLICY_UNUSABLE, observation.policy_fault)
    clusters = open_to(observation, placement)
    if not clusters:
        return no_cluster(observation)
    allowed = {cluster.name for cluster in clusters}
    if homes and all(home.cluster in allowed for home in homes):
        stayed = _stay(observation, placement, progress, homes)
        return place_outstanding(observation, stayed, progress, ())
    names_ = [cluster.name for cluster in clusters]
    preferences = wish(observation).preferences
    holding = {share.cluster for share in placement.held}
    pods = max(0, job.parallelism - sum(share.parallelism for share in placement.held))
    most = most_clusters(job, observation.policy)
    if most is not None:
        roomiest = capacity.roomiest(observation, names_, pods)
        names_ = [name for name in names_ if name in holding or name in roomiest]
    order = choose(observation, names_, preferences, holding)
    if job.completions is None:  # where a queue has a share, that grows
        order = [name for name in order if name not in holding]
    fit = capacity.divide_in_room(
        observation,
        pods=pods,
        completions=None if job.completions is None else amount,
        clusters=order,
        preferences=_left_of(preferences, placement, order),
        whole=most == 1 or len(placement.shares) >= MANY_SHARES,
    )
    divided, parts = fit.division, fit.division.parts
    waiting = divided.reason
    if waiting and fit.claim is None and placement.held:
        waiting = _rest(observation, placement, divided, order)
    if fit.claim is not None and not parts:
        if not placement.shares and not placement.retired:
            return Problem(names.WAITING_FOR_ROOM, divided.reason, fit.claim)
        return Placed(placement, divided.reason, fit.claim)
    if not parts and not placement.held and (job.parallelism or amount):
        by = f"DispatchPolicy {observation.policy.name}"
        if names.PREFERENCES_ANNOTATION in job.annotations:
            by = names.PREFERENCES_ANNOTATION
        away = [
            f"{cluster.name} is not ready ({cluster.reason})"
            for cluster in sorted(observation.clusters.values(), key=lambda cluster: cluster.name)
            if not cluster.ready and preferences.of(cluster.name) is not None
        ]
        text = f"{by} leaves no cluster any work: {'; '.join((divided.reason, *away[:LISTED_AWAY]))}"
        return Problem("NoShare", text)
    additions: list[Addition] = []
    if job.indexed:
        sizes = {cluster: part.completions or 0 for cluster, part in parts.items()}
        decided = progress.completed | progress.failed_indexes
        for cluster, interval in division.divide_indexes(indexes, sizes, done=decided):
            own = len(indexes & IndexSet.interval(*interval))
            additions.append((cluster, parts[cluster].parallelism, own, interval))
    else:
        additions += [(cluster, part.parallelism, part.completions, None) for cluster, part in parts.items()]
    return Placed(added(observation, placement, additions), waiting, fit.claim)


def _rest(
    observation: Observation,
    placement: Placement,
    divided: division.Division,
    clusters: Sequence[names.ClusterName],
) -> str:
    """What bounds leave over of a Job that runs, in words: of the whole Job, against the bounds as they were given."""
    job = observation.job
    pods, work = dict.fromkeys(clusters, 0), dict.fromkeys(clusters, 0)
    for share in placement.held:
        pods[share.cluster] = pods.get(share.cluster, 0) + share.parallelism
        work[share.cluster] = work.get(share.cluster, 0) + (share.completions or 0)
    for name, part in divided.parts.items():
        pods[name] += part.parallelism
        work[name] += part.completions or 0
    amounts = [f"{divided.unplaced_parallelism} of {job.parallelism} parallelism"]
    amounts.append(f"{divided.unplaced_completions} of {job.completions} completions")
    left = [divided.unplaced_parallelism, divided.unplaced_completions]
    shown = " and ".join(text for text, amount in zip(amounts, left, strict=True) if amount)
    why = division.why_no_more(
        clusters, preferences=wish(observation).preferences, pods=Plan(pods, {}), work=Plan(work, {})
    )
    return f"{shown} not placed: {why}"


def _left_of(
    preferences: Preferences, placement: Placement, clusters: Sequence[names.ClusterName]
) -> Preferences:
    """What the bounds leave for new shares beside those that live."""
    held: dict[names.ClusterName, int] = {}
    for share in placement.held:
        size = share.parallelism if share.completions is None else share.completions
        held[share.cluster] = held.get(share.cluster, 0) + size
    if not held:
        return preferences
    left: dict[names.ClusterName, ClusterPreferences] = {}
    for name in clusters:
        own = preferences.of(name)
        if own is not None:
            most = None if own.max_replicas is None else max(0, own.max_replicas - held.get(name, 0))
            left[name] = replace(
                own, min_replicas=max(0, own.min_replicas - held.get(name, 0)), max_replicas=most
            )
    return replace(preferences, clusters=left)


def _stay(
    observation: Observation, placement: Placement, progress: Progress, homes: Sequence[Share]
) -> Placement:
    """New shares where the old ones were, each for what its old one has not reached."""
    job = observation.job
    indexes = outstanding_indexes(job, placement, progress) if job.indexed else IndexSet()
    decided = progress.completed | progress.failed_indexes
    amount = 0 if job.completions is None else outstanding_completions(job, placement)
    additions: list[Addition] = []
    for home in homes:
        if job.indexed:
            mine = indexes & home.indexes
            indexes = indexes - mine
            for cluster, interval in division.divide_indexes(mine, {home.cluster: len(mine)}, done=decided):
                own = len(mine & IndexSet.interval(*interval))
                additions.append((cluster, home.parallelism, own, interval))
        elif job.completions is None:
            additions.append((home.cluster, home.parallelism, None, None))
        else:
            mine_count = min(amount, home.remaining or 0)
            amount -= mine_count
            if mine_count:
                additions.append((home.cluster, home.parallelism, mine_count, None))
    return added(observation, placement, additions)


def added(observation: Observation, placement: Placement, additions: Sequence[Addition]) -> Placement:
    """The placement with new shares, each with an id and a mirror's name of its own."""
    job = observation.job
    shares = list(placement.shares)
    taken = {(share.cluster, share.mirror) for share in shares}
    taken |= {(mirror.cluster, mirror.name) for mirror in observation.mirrors if not mirror.gone}
    # Where a share has another name than the Job's, that one was not free: no need to be refused again.
    taken |= {(share.cluster, job.name) for share in shares}
    next_id = placement.next_id
    for cluster, parallelism, completions, interval in additions[: MAX_SHARES - len(shares)]:
        at = observation.clusters[cluster]
        # Beside the Job itself its name is taken.
        free = (cluster, job.name) not in taken and not at.local
        name = job.name if free else suffixed_name(job, next_id)
        taken.add((cluster, name))
        uid = at.uid
        shares.append(Share(next_id, cluster, uid, name, parallelism, completions, interval))
        next_id += 1
    return replace(placement, shares=tuple(shares), next_id=next_id)


def rename_taken(observation: Observation, placement: Placement) -> Placement:
    """Give a share whose mirror's name is a foreign Job's another name, derived from the Job's UID."""
    renamed = []
    for share in placement.shares if observation.attempts else ():
        attempt = observation.attempts.get((share.cluster, share.mirror))
        if attempt is not None and attempt.refusal is Refusal.NAME_TAKEN and not share.mirror_uid:
            renamed.append(replace(share, mirror=suffixed_name(observation.job, share.id)))
    return placement.updated(renamed)


def move_parallelism(observation: Observation, placement: Placement, progress: Progress) -> Placement:
    """Let the live shares' parallelism add up to the Job's.

    Work that waits nowhere keeps what it has: a queue that winds down, a Job that is done.
    """
    job, live = observation.job, placement.active
    if not live or (job.completions is None and progress.counts.succeeded):
        return placement
    draining = sum(share.parallelism for share in placement.held) - sum(share.parallelism for share in live)
    left = max(0, job.parallelism - draining)
    idle: dict[int, int] = {}
    for share in live:
        if share.remaining == 0:  # about to finish: keeps what it has, unless the Job has less
            idle[share.id] = min(share.parallelism, left)
            left -= idle[share.id]
    working = [
        division.LiveShare(share.id, share.cluster, share.parallelism, share.remaining)
        for share in live
        if share.remaining != 0
    ]
    spread = dict(idle)
    if working and sum(share.parallelism for share in working) != left:
        preferences = wish(observation).preferences
        spread |= division.spread_parallelism(left, working, key=job.key, preferences=preferences)
    return placement.with_parallelism(spread)


def cut_to_completions(job: Job, placement: Placement, progress: Progress) -> Placement:
    """Shorten an elastic Indexed Job's shares to its completions; one that lies above goes whole.

    A share keeps the successes below the cut only, or it would seem to need no pods any more.
    """
    if not job.indexed or job.completions is None:
        return placement
    last = job.completions - 1
    if all(share.interval is None or share.interval[1] <= last for share in placement.shares):
        return placement
    retired = dict(placement.retired)
    kept = []
    for share in placement.shares:
        if share.interval is None or share.interval[1] <= last:
            kept.append(share)
        elif share.interval[0] > last:
            before = retired.get(share.cluster, Counts())
            retired[share.cluster] = before + Counts(0, share.counts.failed)
        else:
            interval = (share.interval[0], last)
            cut = replace(
                share, interval=interval, completions=min(share.completions or 0, last - interval[0] + 1)
            )
            succeeded = max(0, len(progress.completed & cut.indexes) - cut.decided_before)
            kept.append(replace(cut, counts=replace(share.counts, succeeded=succeeded)))
    return replace(placement, shares=tuple(kept), retired=retired)
