"""Shares that leave their clusters: lost, back again, drained, taken from, refused."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.actions import CreateMirror, DeleteMirror, PatchMirror
from dispatcher.core.job import timestamp
from dispatcher.core.observation import Attempt, Refusal
from dispatcher.core.placement import Placement, ShareState
from dispatcher.core.policy import DEFAULT_POLICY, Policy, Taint, TaintEffect, Toleration
from tests.unit.scene import NOW, Scene, clusters, condition, placement_of

A, B = names.ClusterName("a"), names.ClusterName("b")
LATER = NOW + timedelta(minutes=10)
TAINT = Taint("maintenance", TaintEffect.NO_EXECUTE)


def running(policy: Policy = DEFAULT_POLICY, **spec: Any) -> Scene:
    """A Job whose mirrors run all they may on clusters a and b."""
    scene = Scene(**spec)
    scene.fields |= {"policy": policy, "clusters": clusters("a", "b")}
    scene.settle()
    for (cluster, _name), mirror in list(scene.mirrors.items()):
        pods = mirror["spec"]["parallelism"]
        scene.report(cluster, active=pods, ready=pods)
    return scene.settle()


def change(scene: Scene, name: names.ClusterName, **fields: Any) -> None:
    scene.fields["clusters"] = {
        **scene.fields["clusters"],
        name: replace(scene.fields["clusters"][name], **fields),
    }


def cut_off(scene: Scene, name: names.ClusterName, *, since: datetime = NOW) -> None:
    change(scene, name, ready=False, away_since=since, reason="ConnectionRefused")


def placement(scene: Scene) -> Placement:
    return placement_of(scene.job)


def states(scene: Scene) -> dict[int, str]:
    return {share.id: share.state.value for share in placement(scene).shares}


def acknowledge_suspension(scene: Scene, cluster: str, name: str = "pi", **status: Any) -> None:
    stored = scene.mirrors[cluster, name]
    assert stored["spec"]["suspend"]
    conditions = [{"type": "Suspended", "status": "True", "reason": "JobSuspended", "message": ""}]
    after = {"active": 0, "ready": 0, "conditions": conditions} | status
    scene.mirrors[cluster, name] = {**stored, "status": stored["status"] | after}


def test_only_what_was_not_counted_moves() -> None:
    scene = running(parallelism=2, completions=10)
    scene.report("a", succeeded=2)
    scene.settle()
    cut_off(scene, A)
    scene.settle()
    assert states(scene) == {0: "Active", 1: "Active"}, "not before failover.after"
    cut_off(scene, A, since=NOW - timedelta(minutes=5))
    scene.settle()
    assert states(scene) == {0: "Lost", 1: "Active", 2: "Active"}
    moved = placement(scene).shares[-1]
    assert (moved.cluster, moved.completions) == (B, 3)
    assert scene.job["status"]["succeeded"] == 2
    assert sum(share.parallelism for share in placement(scene).active) == 2


def test_it_looks_again_when_the_time_is_up() -> None:
    scene = running(parallelism=2, completions=10)
    cut_off(scene, A, since=NOW - timedelta(minutes=4))
    assert scene.decide().look_again == pytest.approx(60)


@pytest.mark.parametrize("reason", ["off", "nowhere to go"])
def test_work_stays_where_it_cannot_move(reason: str) -> None:
    policy = replace(DEFAULT_POLICY, failover_after=None) if reason == "off" else DEFAULT_POLICY
    scene = running(policy, parallelism=2, completions=10)
    cut_off(scene, A, since=NOW - timedelta(hours=1))
    if reason == "nowhere to go":
        cut_off(scene, B, since=NOW - timedelta(hours=1))
    scene.settle()
    assert set(states(scene).values()) == {"Active"}


def test_a_cluster_that_is_registered_no_more_is_lost_at_once() -> None:
    scene = running(parallelism=2, completions=10)
    scene.fields["clusters"] = clusters("b")
    scene.settle()
    assert states(scene)[0] == "Lost"


def lost_and_back(**spec: Any) -> Scene:
    """Cluster a was lost, its work runs on b, and a is there again."""
    scene = running(**spec)
    cut_off(scene, A, since=NOW - timedelta(hours=1))
    scene.settle()
    assert states(scene)[0] == "Lost"
    change(scene, A, ready=True, away_since=None)
    return scene


def test_a_returned_mirror_is_stopped_before_it_counts() -> None:
    scene = lost_and_back(parallelism=2, completions=10)
    scene.report("a", succeeded=3)
    scene.settle()
    assert scene.mirrors["a", "pi"]["spec"]["suspend"] is True
    assert "succeeded" not in scene.job["status"]
    acknowledge_suspension(scene, "a")
    scene.settle()
    assert scene.job["status"]["succeeded"] == 3
    assert ("a", "pi") not in scene.mirrors
    held = sum(share.completions or 0 for share in placement(scene).held)
    assert held == 7


def test_what_others_have_begun_counts_once() -> None:
    """The new share has one completion left that no pod runs; only that one is used."""
    scene = lost_and_back(parallelism=8, completions=10)
    new = placement(scene).shares[-1]
    stored = scene.mirrors["b", new.mirror]
    pods = {"active": new.parallelism, "ready": new.parallelism, "startTime": timestamp(NOW)}
    scene.mirrors["b", new.mirror] = {**stored, "status": pods}
    scene.settle()
    before = sum(share.completions or 0 for share in placement(scene).held)
    mirror = scene.mirrors["a", "pi"]
    scene.mirrors["a", "pi"] = {**mirror, "status": mirror["status"] | {"succeeded": 5}}
    acknowledge_suspension(scene, "a")
    scene.settle()
    counted = scene.job["status"].get("succeeded", 0)
    held = sum(share.completions or 0 for share in placement(scene).held)
    assert counted + held == before == 10
    assert counted < 5


def test_failures_after_the_loss_do_not_count() -> None:
    scene = lost_and_back(parallelism=2, completions=10, backoffLimit=1)
    scene.report("a", failed=5)
    scene.settle()
    acknowledge_suspension(scene, "a", failed=5)
    scene.settle()
    assert not scene.job["status"].get("failed")
    assert condition(scene.job, "FailureTarget") == {}


def test_indexes_that_a_lost_cluster_did_are_not_run_again() -> None:
    scene = lost_and_back(parallelism=2, completions=40, completionMode="Indexed", backoffLimitPerIndex=None)
    new = placement(scene).shares[-1]
    assert new.indexes.format() == "0-19"
    stored = scene.mirrors["a", "pi"]
    stored["metadata"]["annotations"][names.SEEDED_ANNOTATION] = "true"
    done = stored["status"] | {"completedIndexes": "0,15-39", "succeeded": 26}
    scene.mirrors["a", "pi"] = {**stored, "spec": stored["spec"] | {"suspend": False}, "status": done}
    fresh = scene.mirrors["b", new.mirror]
    fresh["metadata"]["annotations"][names.SEEDED_ANNOTATION] = "true"
    seeded = fresh["status"] | {"completedIndexes": "20-39", "succeeded": 20, "active": 1, "ready": 1}
    scene.mirrors["b", new.mirror] = {**fresh, "spec": fresh["spec"] | {"suspend": False}, "status": seeded}
    scene.settle()
    acknowledge_suspension(scene, "a")
    scene.settle()
    assert scene.job["status"]["completedIndexes"] == "0,15-19"
    ceded = scene.mirrors["b", new.mirror]["status"]
    assert ceded["completedIndexes"] == "15-39", "0 has begun there; 15 to 19 have not"
    assert ceded["succeeded"] == 25


def test_a_taint_drains_and_a_toleration_delays_it() -> None:
    patient = replace(
        DEFAULT_POLICY, tolerations=(Toleration(key="maintenance", operator="Exists", seconds=60),)
    )
    scene = running(patient, parallelism=2, completions=10)
    change(scene, A, taints=(TAINT,), tainted_since={TAINT: NOW - timedelta(seconds=20)})
    scene.settle()
    assert states(scene)[0] == "Active"
    assert scene.decide().look_again == pytest.approx(40)
    change(scene, A, taints=(TAINT,), tainted_since={TAINT: NOW - timedelta(seconds=61)}, unschedulable=True)
    scene.settle()
    assert states(scene)[0] == "Draining"
    assert len(placement(scene).shares) == 2, "its work is its own until nothing of it runs"
    acknowledge_suspension(scene, "a", succeeded=1)
    scene.settle()
    assert 0 not in states(scene)
    assert ("a", "pi") not in scene.mirrors
    assert scene.job["status"]["succeeded"] == 1
    assert sum(share.completions or 0 for share in placement(scene).held) == 9


def test_a_cluster_that_is_removed_gives_up_finished_mirrors_too() -> None:
    scene = running(parallelism=2, completions=10)
    scene.complete("a", 5)
    scene.settle()
    change(scene, A, leaving=True)
    scene.settle()
    assert ("a", "pi") not in scene.mirrors
    assert placement(scene).retired["a"].succeeded == 5


def test_an_idle_cluster_takes_completions_that_have_not_begun() -> None:
    policy = replace(DEFAULT_POLICY, steal_unstarted=True, steal_after=timedelta())
    scene = running(policy, parallelism=4, completions=40)
    scene.complete("a", 20)
    scene.settle()
    taken = placement(scene).active[-1]
    giver = placement(scene).active[0]
    assert taken.cluster == A
    assert (giver.completions or 0) + (taken.completions or 0) == 20
    assert sum(share.parallelism for share in placement(scene).active) == 4
    kinds = [type(action) for action in scene.actions]
    told = max(place for place, action in enumerate(scene.actions) if isinstance(action, PatchMirror))
    assert kinds[told + 1 :].count(CreateMirror) == 1, "made only after the giver was told"
    assert scene.mirrors["b", "pi"]["status"]["succeeded"] == taken.completions


def test_short_jobs_are_left_alone() -> None:
    policy = replace(DEFAULT_POLICY, steal_unstarted=True)
    scene = running(policy, parallelism=4, completions=40)
    scene.complete("a", 20)
    scene.settle()
    assert [share.cluster for share in placement(scene).active] == [B]


def test_a_refused_share_moves_when_the_policy_says_so() -> None:
    policy = replace(DEFAULT_POLICY, unschedulable_after=timedelta(seconds=30))
    scene = Scene(parallelism=2, completions=10)
    scene.fields |= {"policy": policy, "clusters": clusters("a", "b")}
    attempt = Attempt(Refusal.FORBIDDEN, "quota", NOW + timedelta(hours=1), NOW - timedelta(seconds=10))
    scene.fields["attempts"] = {(A, "pi"): attempt}
    scene.settle()
    assert {share.cluster for share in placement(scene).held} == {A, B} or placement(scene).held
    scene.fields["attempts"] = {(A, "pi"): replace(attempt, since=NOW - timedelta(seconds=31))}
    scene.settle()
    assert {share.cluster for share in placement(scene).held} == {B}
    assert sum(share.completions or 0 for share in placement(scene).held) == 10


def test_pods_that_do_not_run_move_and_those_that_run_stay() -> None:
    policy = replace(DEFAULT_POLICY, unschedulable_after=timedelta(seconds=30))
    scene = running(policy, parallelism=8, completions=40)
    scene.report("a", active=4, ready=1)
    scene.fields["idle_since"] = {(A, "pi"): NOW - timedelta(seconds=31)}
    scene.settle()
    kept = next(share for share in placement(scene).active if share.id == 0)
    assert kept.completions == 1
    assert kept.parallelism == 1
    assert scene.mirrors["a", "pi"]["status"]["succeeded"] == 19
    assert sum(share.parallelism for share in placement(scene).active) == 8


def test_the_end_does_not_wait_for_a_lost_cluster() -> None:
    scene = running(parallelism=2, completions=10)
    cut_off(scene, A, since=NOW - timedelta(hours=1))
    scene.settle()
    scene.mirrors.pop(("a", "pi"))
    for (cluster, name), mirror in list(scene.mirrors.items()):
        conditions = [{"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": ""}]
        done = {"succeeded": mirror["spec"]["completions"], "active": 0, "conditions": conditions}
        scene.mirrors[cluster, name] = {**mirror, "status": mirror["status"] | done}
    scene.settle()
    assert condition(scene.job, "Complete")["status"] == "True"
    assert scene.job["status"]["succeeded"] == 10


@pytest.mark.parametrize(("away_for", "ends"), [(timedelta(minutes=1), False), (timedelta(hours=1), True)])
def test_the_end_waits_for_a_mirror_that_no_share_holds_until_its_cluster_is_given_up_on(
    away_for: timedelta, ends: bool
) -> None:
    """An elastic Indexed Job that shrinks below a share whose cluster has just gone away."""
    scene = running(parallelism=4, completions=4, completionMode="Indexed")
    cut_off(scene, B, since=NOW - away_for)
    scene.job = {**scene.job, "spec": scene.job["spec"] | {"parallelism": 2, "completions": 2}}
    scene.settle()
    assert B not in {share.cluster for share in placement(scene).held}
    scene.complete(A, 2)
    scene.report(A, completedIndexes="0,1")
    scene.settle()
    assert bool(condition(scene.job, "Complete")) is ends
    assert (scene.decide().look_again is None) is ends


def test_a_returned_mirror_of_a_finished_job_is_removed() -> None:
    scene = running(parallelism=2, completions=10)
    cut_off(scene, A, since=NOW - timedelta(hours=1))
    scene.settle()
    finished = [{"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": ""}]
    scene.job = {**scene.job, "status": scene.job["status"] | {"conditions": finished}}
    change(scene, A, ready=True, away_since=None)
    assert DeleteMirror(A, "pi", "a-pi") in scene.decide().actions


def test_states_are_written_before_they_are_acted_on() -> None:
    one = Placement("u", ())
    scene = running(parallelism=2, completions=10)
    share = placement(scene).shares[0]
    before = one.with_shares([share]).structure
    assert before == one.with_shares([replace(share, state=ShareState.FINISHED)]).structure
    assert before != one.with_shares([replace(share, state=ShareState.LOST)]).structure
