"""Running Jobs that follow a change of their policy or of its clusters (``moveRunning``, ``rebalance``).

A cluster that a rule has come to exclude is left, as with a NoExecute taint. Where only the proportions are
others now, the division by the current rules is compared with what the clusters have, done work included: so
a cluster that was quick with its part is owed nothing, and a Job whose rules have not changed stays as it is.
"""

from dataclasses import dataclass

from dispatcher.core import names, placing
from dispatcher.core.candidates import ban, choose, gives_work, most_clusters, open_to, wish
from dispatcher.core.division import divide
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Placement, Share, ShareState
from dispatcher.core.policy import Division


def why_not_here(observation: Observation, placement: Placement, share: Share) -> str:
    """Which rule a share that runs breaks, in words about its cluster; empty where it may stay.

    A cluster that is unschedulable, away or full keeps what it has.
    """
    cluster = observation.clusters.get(share.cluster)
    if not _may_move(observation) or cluster is None or share.state is not ShareState.ACTIVE:
        return ""
    preferences = wish(observation).preferences
    if not preferences.rebalance:
        return ""
    found = ban(cluster, observation)
    if found is not None:
        return f"may not have the Job any more ({found.text})"
    if not gives_work(preferences, share.cluster) and not _by_room(observation):
        return "may not have the Job any more (no weight and no minReplicas there)"
    most = most_clusters(observation.job, observation.policy)
    if most is None:
        return ""
    active: dict[ClusterName, int] = {}
    for other in placement.active:
        active[other.cluster] = active.get(other.cluster, 0) + other.parallelism
    largest = sorted(active, key=lambda name: (-active[name], name))
    text = f"is one too many (the Job may be on {most})"
    return text if len(active) > most and share.cluster not in largest[:most] else ""


def _may_move(observation: Observation) -> bool:
    """Cheap, for most Jobs are to stay: whether the policy or an annotation could say otherwise."""
    return observation.policy.move_running or names.PREFERENCES_ANNOTATION in observation.job.annotations


def _by_room(observation: Observation) -> bool:
    """Whether the weights are what is free at the moment."""
    by_policy = names.PREFERENCES_ANNOTATION not in observation.job.annotations
    return by_policy and observation.policy.division is Division.AVAILABLE


@dataclass(frozen=True, slots=True)
class Amount:
    """Pods at once, and completions."""

    pods: int
    completions: int

    def less(self, pods: int, completions: int) -> "Amount":
        """What is left of it."""
        return Amount(self.pods - pods, self.completions - completions)


@dataclass(frozen=True, slots=True)
class Drift:
    """What clusters have more, and less, than the current rules would give them; only in pods and completions both."""

    givers: dict[ClusterName, Amount]
    takers: dict[ClusterName, Amount]


def drift(observation: Observation, placement: Placement) -> Drift | None:
    """How far a running Job is from its current division; None where it is near enough, or is to stay as it is.

    ``Available`` divides by what is free at the moment, which is no reason to move what runs. A work queue's
    pods know nothing of each other's work, so none of them is stopped for a proportion.
    """
    job = observation.job
    if not _may_move(observation):
        return None
    preferences = wish(observation).preferences
    if not preferences.rebalance or _by_room(observation) or not job.completions or not job.parallelism:
        return None
    leaving = any(share.state is ShareState.DRAINING for share in placement.shares)
    if leaving or len(placement.shares) >= placing.MANY_SHARES:
        return None
    pods: dict[ClusterName, int] = {}
    work = {ClusterName(name): counts.succeeded for name, counts in placement.retired.items()}
    for share in placement.shares:
        live = share.state is ShareState.ACTIVE
        work[share.cluster] = work.get(share.cluster, 0) + share.counts.succeeded
        if live:
            pods[share.cluster] = pods.get(share.cluster, 0) + share.parallelism
            work[share.cluster] += share.remaining or 0
    candidates = [cluster.name for cluster in open_to(observation, placement)]
    wanted = divide(
        key=job.key,
        parallelism=job.parallelism,
        completions=job.completions,
        clusters=choose(observation, candidates, preferences, set(pods)),
        preferences=preferences,
        capacity={name: pods.get(name, 0) + room for name, room in observation.room.items()},
    ).parts
    givers, takers = {}, {}
    for name in candidates:
        part = wanted.get(name)
        more_pods = (part.parallelism if part else 0) - pods.get(name, 0)
        more_work = (part.completions or 0 if part else 0) - work.get(name, 0)
        if more_pods > 0 and more_work > 0:
            takers[name] = Amount(more_pods, more_work)
        elif more_pods < 0 and more_work < 0:
            givers[name] = Amount(-more_pods, -more_work)
    return Drift(givers, takers) if givers and takers else None
