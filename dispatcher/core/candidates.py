"""Which clusters may have new work of a Job, and in what proportion: one verdict for each, with its rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from dispatcher.core import names, planner
from dispatcher.core.job import Job
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster, Observation, matches
from dispatcher.core.placement import SELF_EVIDENT, Placement, Share
from dispatcher.core.policy import Division, Policy, TaintEffect
from dispatcher.core.preferences import (
    EVEN,
    EVERY_OTHER_CLUSTER,
    ClusterPreferences,
    Preferences,
    PreferencesError,
    parse_preferences,
)

LISTED = 5
"""Names in a message."""


class Rule(StrEnum):
    """Why a cluster gets no new work of a Job."""

    READY = "Ready"
    UNSCHEDULABLE = "Unschedulable"
    LEAVING = "BeingRemoved"
    NAMESPACE = "NamespaceSelector"
    POLICY_SELECTOR = "ClusterSelector"
    TAINT = "Taint"


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A cluster that may not have new work, by which rule, and that in words."""

    cluster: ClusterName
    rule: Rule
    text: str


def exclusion(cluster: Cluster, observation: Observation) -> Exclusion | None:
    """Why a cluster gets no new work of this Job; None when it may have some."""

    def excluded(rule: Rule, text: str) -> Exclusion:
        return Exclusion(cluster.name, rule, text)

    if cluster.leaving:
        return excluded(Rule.LEAVING, "being removed")
    if not cluster.ready:
        return excluded(Rule.READY, f"not ready ({cluster.reason or 'no answer yet'})")
    if cluster.unschedulable:
        return excluded(Rule.UNSCHEDULABLE, "unschedulable")
    return ban(cluster, observation)


def ban(cluster: Cluster, observation: Observation) -> Exclusion | None:
    """Which rule of the cluster's owner or of the policy keeps this Job away; passing troubles are none."""
    policy = observation.policy
    namespace = observation.job.namespace

    def excluded(rule: Rule, text: str) -> Exclusion:
        return Exclusion(cluster.name, rule, text)

    if cluster.namespace_selector is None:
        if namespace.startswith("kube-") or namespace == observation.rules.own_namespace:
            return excluded(Rule.NAMESPACE, f"does not take Jobs of namespace {namespace}")
    elif not matches(cluster.namespace_selector, observation.namespace_labels):
        text = f"its namespaceSelector does not select namespace {namespace}"
        return excluded(Rule.NAMESPACE, text)
    if not matches(policy.cluster_selector, cluster.labels):
        return excluded(Rule.POLICY_SELECTOR, f"not selected by DispatchPolicy {policy.name}")
    taints = policy.untolerated(cluster.taints, TaintEffect.NO_SCHEDULE, TaintEffect.NO_EXECUTE)
    if taints:
        shown = taints[0].key + (f"={taints[0].value}" if taints[0].value else "")
        return excluded(Rule.TAINT, f"taint {shown}:{taints[0].effect} is not tolerated")
    return None


def eligible(observation: Observation) -> list[Cluster]:
    """The clusters that may get new work of this Job, by name."""
    return sorted(
        (c for c in observation.clusters.values() if exclusion(c, observation) is None), key=lambda c: c.name
    )


def open_to(observation: Observation, placement: Placement) -> list[Cluster]:
    """Of the clusters that may get new work, those that this Job has no bad experience with; else all of them."""
    clusters = eligible(observation)
    avoided = {share.cluster for share in placement.shares if share.state not in SELF_EVIDENT}
    if observation.policy.unschedulable_after is not None:
        avoided |= {cluster for cluster, _mirror in observation.attempts}
    return [cluster for cluster in clusters if cluster.name not in avoided] or clusters


def has_refuge(observation: Observation, placement: Placement, share: Share) -> bool:
    """Whether another cluster could have a share's work."""
    others = placement.with_shares(other for other in placement.shares if other.id != share.id)
    return any(name != share.cluster for name in takers(observation, others))


def takers(observation: Observation, placement: Placement) -> list[ClusterName]:
    """The clusters that could have work of the Job beside what the placement's live shares hold, by name."""
    preferences = wish(observation).preferences
    most = most_clusters(observation.job, observation.policy)
    held = {share.cluster for share in placement.held}
    found = []
    for cluster in open_to(observation, placement):
        wanted = gives_work(preferences, cluster.name)
        if wanted and (most is None or len(held) < most or cluster.name in held):
            found.append(cluster.name)
    return found


def gives_work(preferences: Preferences, cluster: ClusterName) -> bool:
    """Whether the preferences leave a cluster any work at all."""
    own = preferences.of(cluster)
    return own is not None and own.max_replicas != 0 and (own.weight > 0 or own.min_replicas > 0)


def room_for_one_job(observation: Observation, cluster: ClusterName) -> int | None:
    """The most that the Job's preferences give one cluster; None for no bound."""
    own = wish(observation).preferences.of(cluster)
    return own.max_replicas if own is not None else 0


@dataclass(frozen=True, slots=True)
class Wish:
    """How a Job wants to be divided. ``complaint`` says what of its annotation or policy is not followed, if anything,
    and ``malformed`` that this is all of the annotation.
    """

    preferences: Preferences
    complaint: str = ""
    malformed: bool = False


def wish(observation: Observation) -> Wish:
    """The annotation's preferences, else the policy's; a malformed annotation gives the even spread, and says so.

    They rebalance where the annotation or the policy (``moveRunning``) says so.
    """
    policy = observation.policy
    text = observation.job.annotations.get(names.PREFERENCES_ANNOTATION)
    if text is None:
        preferences = policy_preferences(policy, observation.clusters, free(observation))
        if policy.move_running:
            preferences = replace(preferences, rebalance=True)
        return Wish(preferences, _unknown(f"DispatchPolicy {policy.name}", policy.clusters, observation))
    try:
        preferences = parse_preferences(text)
    except PreferencesError as error:
        complaint = f"{names.PREFERENCES_ANNOTATION} is malformed ({error}); the Job is spread evenly"
        return Wish(EVEN, complaint, malformed=True)
    complaints = [_unknown(names.PREFERENCES_ANNOTATION, preferences.clusters, observation)]
    if preferences.unknown:
        unknown = ", ".join(preferences.unknown[:LISTED])
        complaints.append(f"{names.PREFERENCES_ANNOTATION} has unknown keys, which are ignored: {unknown}")
    rebalance = preferences.rebalance or policy.move_running
    return Wish(replace(preferences, rebalance=rebalance), "; ".join(filter(None, complaints)))


def _unknown(source: str, named: Mapping[ClusterName, ClusterPreferences], observation: Observation) -> str:
    unknown = sorted(set(named) - set(observation.clusters) - {EVERY_OTHER_CLUSTER})
    return f"{source} names clusters that are not there: {', '.join(unknown[:LISTED])}" if unknown else ""


def complaint(observation: Observation) -> str:
    """What of a Job's annotation or policy is not followed; cheap where neither names a cluster."""
    if names.PREFERENCES_ANNOTATION in observation.job.annotations or observation.policy.clusters:
        return wish(observation).complaint
    return ""


def free(observation: Observation) -> dict[ClusterName, int]:
    """What is free for a Job's pods where that is known: of a declared capacity, and on the nodes.

    A cluster without declared room still weighs 1, for it frees some; one on whose nodes no pod of the Job fits, 0.
    """
    found = {name: max(1, room) for name, room in observation.room.items()}
    for name, fits in observation.fits.items():
        found[name] = min(found.get(name, fits), fits)
    return found


def policy_preferences(
    policy: Policy, clusters: Mapping[ClusterName, Cluster], room: Mapping[ClusterName, int]
) -> Preferences:
    """A policy in the planner's terms. Where it does not divide by weight, every cluster weighs the same.

    ``room``: what is free, on clusters where that is known. For ``Available`` that is the weight; a cluster where it is
    not known weighs what the others have on average. Where nothing is free anywhere, all weigh the same.
    """
    if not policy.clusters and policy.division not in (Division.WEIGHTED, Division.AVAILABLE):
        return EVEN
    average = max(1, sum(room.values()) // len(room)) if room else 1
    none_free = not any(room.get(name, average) for name in clusters)
    by_name: dict[ClusterName, ClusterPreferences] = {}
    for name, cluster in clusters.items():
        own = policy.clusters.get(name, ClusterPreferences())
        weight = 1
        if policy.division is Division.WEIGHTED:
            weight = own.weight if name in policy.weights else cluster.weight
        elif policy.division is Division.AVAILABLE:
            weight = 1 if none_free else room.get(name, average)
        by_name[name] = ClusterPreferences(
            min_replicas=own.min_replicas, max_replicas=own.max_replicas, weight=weight
        )
    return Preferences(clusters=by_name)


def most_clusters(job: Job, policy: Policy) -> int | None:
    """Over how many clusters a Job may be divided at most; None for any number.

    Pods that find each other by name (``subdomain``) cannot do so across clusters: such a Job stays whole
    unless a policy names a division that cuts.
    """
    together = bool(job.spec["template"].get("spec", {}).get("subdomain"))
    cuts = policy.name and policy.division in (Division.WEIGHTED, Division.AVAILABLE)
    if policy.division is Division.SINGLE or (together and not cuts):
        return 1
    bounds = [bound for bound in (policy.max_clusters,) if bound is not None]
    if policy.min_share > 1:
        bounds.append(max(1, job.parallelism // policy.min_share))
    return min(bounds, default=None)


def choose(
    observation: Observation,
    clusters: Sequence[ClusterName],
    preferences: Preferences,
    held: set[ClusterName],
) -> list[ClusterName]:
    """The clusters to divide over: those that hold work of the Job first, then by weight and hash, as many as may."""
    most = most_clusters(observation.job, observation.policy)
    if most is None:
        return list(clusters)
    order = planner.order(clusters, preferences, key=observation.job.key)
    return sorted(order, key=lambda name: name not in held)[:most]
