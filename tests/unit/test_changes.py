"""A policy, or a cluster, changes under a running Job: what stays, what moves, and what new work does."""

from dataclasses import replace
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.actions import WriteJob
from dispatcher.core.decision import decide
from dispatcher.core.observation import Cluster
from dispatcher.core.policy import DEFAULT_POLICY, Division, Policy, Taint, TaintEffect
from dispatcher.core.preferences import ClusterPreferences
from tests.unit.scene import Manifest, Scene, clusters, job_manifest, observe, placement_of, written
from tests.unit.test_leaving import A, B, acknowledge_suspension, change, placement, running, states

C = names.ClusterName("c")
MOVES = replace(DEFAULT_POLICY, name="p", move_running=True)
TAINT = Taint("dedicated", TaintEffect.NO_SCHEDULE)


def weighted(policy: Policy = MOVES, **weights: int) -> Policy:
    """The policy, dividing by these weights."""
    named = {names.ClusterName(name): ClusterPreferences(weight=w) for name, w in weights.items()}
    return replace(policy, division=Division.WEIGHTED, clusters=named, weights=frozenset(named))


def pods(manifest: Manifest) -> dict[str, int]:
    """Parallelism of the live shares by cluster."""
    found: dict[str, int] = {}
    for share in placement_of(manifest).active:
        found[share.cluster] = found.get(share.cluster, 0) + share.parallelism
    return found


def work(manifest: Manifest) -> dict[str, int]:
    """Completions of the live shares by cluster."""
    found: dict[str, int] = {}
    for share in placement_of(manifest).active:
        found[share.cluster] = found.get(share.cluster, 0) + (share.completions or 0)
    return found


def label(**labels: str) -> Any:
    return lambda scene: change(scene, A, labels=labels)


def taint(scene: Scene) -> None:
    change(scene, A, taints=(TAINT,))


def become(policy: Policy) -> Any:
    return lambda scene: scene.fields.update(policy=policy)


SELECTS = {"matchLabels": {"zone": "1"}}
ON_A_NONE = {A: ClusterPreferences(max_replicas=0, weight=1)}
LEAVES_A = {
    "label": (label(zone="2"), replace(MOVES, cluster_selector=SELECTS)),
    "selector": (become(replace(MOVES, cluster_selector={"matchLabels": {"zone": "b"}})), MOVES),
    "taint": (taint, MOVES),
    "maximum": (become(replace(MOVES, clusters=ON_A_NONE)), MOVES),
    "weight": (become(weighted(a=0, b=1)), weighted(a=1, b=1)),
}


def begin(policy: Policy, **spec: Any) -> Scene:
    """A Job that runs on a and b, which the policy selects."""
    scene = running(DEFAULT_POLICY, parallelism=4, completions=20, **spec)
    for name in (A, B):
        change(scene, name, labels={"zone": "1" if policy.cluster_selector else name})
    scene.fields["policy"] = policy
    return scene.settle()


@pytest.mark.parametrize("case", LEAVES_A)
def test_without_rebalance_what_runs_is_left_alone(case: str) -> None:
    step, policy = LEAVES_A[case]
    scene = begin(replace(policy, move_running=False))
    before, count = scene.job, len(scene.actions)
    step(scene)
    scene.fields["policy"] = replace(scene.fields["policy"], move_running=False)
    scene.settle()
    assert scene.job == before
    assert len(scene.actions) == count
    new = written(decide(observe(job_manifest(parallelism=4, completions=20), **scene.fields)))
    assert pods(new) == {"b": 4}, "new Jobs follow at once"


@pytest.mark.parametrize("case", LEAVES_A)
def test_with_rebalance_a_cluster_that_is_excluded_is_left(case: str) -> None:
    step, policy = LEAVES_A[case]
    scene = begin(policy)
    assert set(states(scene).values()) == {"Active"}
    step(scene)
    scene.settle()
    assert states(scene)[0] == "Draining"
    acknowledge_suspension(scene, "a", succeeded=3)
    scene.settle()
    assert {share.cluster for share in placement(scene).active} == {B}
    assert scene.job["status"]["succeeded"] == 3
    assert sum(work(scene.job).values()) == 17
    assert pods(scene.job) == {"b": 4}


def test_with_nowhere_to_go_it_stays() -> None:
    scene = begin(MOVES)
    scene.fields["policy"] = replace(MOVES, cluster_selector={"matchLabels": {"zone": "none"}})
    scene.settle()
    assert set(states(scene).values()) == {"Active"}


def test_a_cordon_is_no_reason_to_leave() -> None:
    scene = begin(MOVES)
    change(scene, A, unschedulable=True)
    scene.settle()
    assert set(states(scene).values()) == {"Active"}


def test_fewer_clusters_than_before() -> None:
    scene = begin(MOVES)
    scene.fields["policy"] = replace(MOVES, max_clusters=1)
    scene.settle()
    assert sorted(states(scene).values()) == ["Active", "Draining"]


@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
def test_another_weight_moves_what_has_not_begun_and_places_with_it(mode: str) -> None:
    scene = running(weighted(a=1, b=1), parallelism=6, completions=60, completionMode=mode)
    assert pods(scene.job) == {"a": 3, "b": 3}
    scene.fields["policy"] = weighted(a=1, b=2)
    scene.settle()
    assert pods(scene.job) == {"a": 2, "b": 4}
    assert work(scene.job) == {"a": 20, "b": 40}
    assert set(states(scene).values()) == {"Active"}, "no share is stopped as a whole"
    assert not any(mirror["spec"].get("suspend") for mirror in scene.mirrors.values())
    count = len(scene.actions)
    scene.settle()
    assert len(scene.actions) == count


def test_a_new_cluster_gets_its_part() -> None:
    scene = running(MOVES, parallelism=6, completions=60)
    scene.fields["clusters"] = clusters("a", "b", "c")
    scene.settle()
    assert pods(scene.job) == {"a": 2, "b": 2, "c": 2}
    assert work(scene.job) == {"a": 20, "b": 20, "c": 20}


def test_work_that_has_begun_stays() -> None:
    scene = running(weighted(a=1, b=1), parallelism=6, completions=6)
    before = scene.job
    scene.fields["policy"] = weighted(a=1, b=2)
    scene.settle()
    assert scene.job == before


def test_a_cluster_that_was_quick_is_owed_nothing() -> None:
    scene = running(MOVES, parallelism=4, completions=40)
    scene.complete("a", 20)
    scene.settle()
    assert pods(scene.job) == {"b": 4}
    assert work(scene.job) == {"b": 20}


def test_available_moves_nothing_for_what_is_free_now() -> None:
    policy = replace(MOVES, division=Division.AVAILABLE)
    scene = running(policy, parallelism=4, completions=40)
    before = scene.job
    scene.fields["room"] = {A: 100, B: 1}
    scene.settle()
    assert scene.job == before


def test_nothing_moves_to_a_cluster_without_room() -> None:
    scene = running(weighted(a=1, b=1), parallelism=6, completions=60)
    before = scene.job
    scene.fields["policy"] = weighted(a=1, b=2)
    scene.fields["room"] = {B: 0}
    scene.settle()
    assert scene.job == before


@pytest.mark.parametrize("rebalance", ["true", "false"])
def test_the_annotation_says_it_too(rebalance: str) -> None:
    text = '{"rebalance": %s, "clusters": {"a": {"weight": 1}, "b": {"weight": %d}}}'
    scene = Scene(parallelism=6, completions=60)
    scene.job["metadata"]["annotations"] = {names.PREFERENCES_ANNOTATION: text % (rebalance, 1)}
    scene.settle()
    for cluster in "ab":
        scene.report(cluster, active=3, ready=3)
    scene.settle()
    annotations = scene.job["metadata"]["annotations"] | {names.PREFERENCES_ANNOTATION: text % (rebalance, 2)}
    scene.job = {**scene.job, "metadata": {**scene.job["metadata"], "annotations": annotations}}
    scene.settle()
    assert pods(scene.job) == ({"a": 2, "b": 4} if rebalance == "true" else {"a": 3, "b": 3})


def test_a_malformed_annotation_moves_nothing() -> None:
    scene = running(weighted(a=1, b=2), parallelism=6, completions=60)
    annotations = scene.job["metadata"]["annotations"] | {names.PREFERENCES_ANNOTATION: "{"}
    scene.job = {**scene.job, "metadata": {**scene.job["metadata"], "annotations": annotations}}
    scene.settle()
    assert pods(scene.job) == {"a": 2, "b": 4}


def elastic(size: int, policy: Policy, found: dict[names.ClusterName, Cluster]) -> Scene:
    scene = Scene(parallelism=size, completions=size, completionMode="Indexed")
    scene.fields |= {"policy": policy, "clusters": found}
    return scene.settle()


@pytest.mark.parametrize("moves", [False, True])
def test_elastic_growth_follows_the_policy_and_only_adds(moves: bool) -> None:
    policy = replace(weighted(a=1, b=1), move_running=moves)
    scene = elastic(6, policy, clusters("a", "b"))
    for cluster in "ab":
        scene.report(cluster, active=3, ready=3)
    scene.settle()
    before = {share.id: share for share in placement(scene).shares}
    scene.fields["policy"] = replace(weighted(a=1, b=3), move_running=moves)
    scene.job = {**scene.job, "spec": {**scene.job["spec"], "parallelism": 14, "completions": 14}}
    scene.settle()
    for share in placement(scene).shares:
        if share.id in before:
            assert share.interval == before[share.id].interval
            assert share.parallelism >= before[share.id].parallelism
    added = [share for share in placement(scene).shares if share.id not in before]
    assert {share.cluster: share.completions for share in added} == {A: 2, B: 6}
    assert pods(scene.job) == {"a": 5, "b": 9}


def test_a_suspended_elastic_job_shrinks_its_mirrors_when_it_is_resumed() -> None:
    """A mirror that never ran, with fewer completions than its seed has, would be Complete without a startTime."""
    scene = elastic(6, weighted(a=1, b=1), clusters("a", "b"))

    def completions() -> dict[str, int]:
        return {cluster: mirror["spec"]["completions"] for (cluster, _), mirror in scene.mirrors.items()}

    def resize(size: int, *, suspend: bool) -> None:
        spec = {**scene.job["spec"], "parallelism": size, "completions": size, "suspend": suspend}
        scene.job = {**scene.job, "spec": spec}

    resize(5, suspend=False)
    [cut] = scene.decide().actions  # the placement; the mirrors are still as they were
    assert isinstance(cut, WriteJob)
    scene.job = dict(cut.manifest)
    resize(2, suspend=True)
    scene.settle()
    assert completions() == {"a": 6, "b": 6}
    resize(2, suspend=False)
    scene.settle()
    assert completions() == {"a": 2}


def test_elastic_growth_keeps_within_the_maxima() -> None:
    bounded = replace(MOVES, clusters={A: ClusterPreferences(weight=1, max_replicas=3)})
    scene = elastic(6, bounded, clusters("a", "b"))
    scene.job = {**scene.job, "spec": {**scene.job["spec"], "parallelism": 12, "completions": 12}}
    scene.settle()
    assert work(scene.job) == {"a": 3, "b": 9}
