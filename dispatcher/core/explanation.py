"""Why work is where it is: for each cluster, whether it is considered, its weight and bounds, and its part."""

from dataclasses import dataclass

from dispatcher.core.candidates import exclusion, most_clusters, wish
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Placement


@dataclass(frozen=True, slots=True)
class ClusterExplained:
    """One cluster as a Job's division sees it.

    ``excluded``: by which rule it gets no new work, and that in words; empty when it is considered. ``part``: what
    it has of the Job, empty when nothing. ``capacity`` and ``free`` are pods, None where there is no bound.
    """

    cluster: ClusterName
    excluded: str
    weight: int
    minimum: int
    maximum: int | None
    capacity: int | None
    free: int | None
    part: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """``rules``: what holds for the whole Job, a sentence each."""

    rules: tuple[str, ...]
    clusters: tuple[ClusterExplained, ...]


def explain(observation: Observation, placement: Placement | None) -> Explanation:
    """Why this Job is divided as it is, or would be."""
    preferences = wish(observation).preferences
    parts = _parts(placement) if placement is not None else {}
    lines = []
    for name, cluster in sorted(observation.clusters.items()):
        found = exclusion(cluster, observation)
        own = preferences.of(name)
        excluded = f"{found.rule}: {found.text}" if found is not None else ""
        if not excluded and own is None:
            excluded = "Preferences: not named in the preferences"
        lines.append(
            ClusterExplained(
                name,
                excluded,
                weight=own.weight if own else 0,
                minimum=own.min_replicas if own else 0,
                maximum=own.max_replicas if own else None,
                capacity=cluster.capacity,
                free=observation.room.get(name),
                part=parts.pop(name, ""),
            )
        )
    lines += [
        ClusterExplained(name, "Registered: there is no such WorkerCluster", 0, 0, None, None, None, part)
        for name, part in sorted(parts.items())
    ]
    return Explanation(tuple(_rules(observation)), tuple(lines))


def _rules(observation: Observation) -> list[str]:
    policy = observation.policy
    found = wish(observation)
    rules = []
    if observation.policy_fault:
        rules.append(observation.policy_fault)
    elif policy.name:
        rules.append(f"DispatchPolicy {policy.name}, division {policy.division}")
    else:
        rules.append("no DispatchPolicy: evenly over all ready clusters")
    if found.complaint:
        rules.append(found.complaint)
    most = most_clusters(observation.job, policy)
    if most is not None:
        rules.append(f"over at most {most} cluster{'' if most == 1 else 's'}")
    return rules


def _parts(placement: Placement) -> dict[ClusterName, str]:
    texts: dict[ClusterName, str] = {}
    for share in placement.shares:
        text = f"parallelism {share.parallelism}"
        if share.interval is not None:
            text += f", indexes {share.indexes.format()}"
        elif share.completions is not None:
            text += f", completions {share.completions}"
        if share.state != "Active":
            text += f" ({share.state})"
        texts[share.cluster] = f"{texts[share.cluster]}; {text}" if share.cluster in texts else text
    return texts
