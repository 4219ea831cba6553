"""State in, actions out: the corner cases of dispatching one Job."""

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dispatcher.core import names
from dispatcher.core.actions import CreateMirror, DeleteMirror, PatchMirror, WriteJob
from dispatcher.core.decision import decide
from dispatcher.core.job import timestamp
from dispatcher.core.observation import Attempt, Refusal
from dispatcher.core.placement import format_placement
from tests.unit.scene import (
    NOW,
    Manifest,
    Scene,
    clusters,
    condition,
    job_manifest,
    observe,
    placement_of,
    written,
)


@pytest.mark.parametrize(
    ("parallelism", "completions"),
    [
        pytest.param(1, 7, id="parallelism-1-completions-7"),
        pytest.param(0, 5, id="parallelism-0"),
        pytest.param(4, 1, id="fewer-completions-than-clusters"),
        pytest.param(8, 3, id="completions-below-parallelism"),
        pytest.param(9, 18, id="even"),
    ],
)
def test_shares_add_up_and_are_written_before_any_mirror(parallelism: int, completions: int) -> None:
    decision = decide(observe(job_manifest(parallelism=parallelism, completions=completions)))
    (only,) = decision.actions
    assert isinstance(only, WriteJob)
    manifest = written(decision)
    placement = placement_of(manifest)
    assert names.FINALIZER in manifest["metadata"]["finalizers"]
    assert manifest["status"]["startTime"] == timestamp(NOW)
    assert sum(share.parallelism for share in placement.shares) == parallelism
    assert sum(share.completions or 0 for share in placement.shares) == completions
    assert all(share.parallelism or not parallelism for share in placement.shares)


def test_completions_0_is_complete_at_once_without_mirrors() -> None:
    manifest = written(decide(observe(job_manifest(completions=0))))
    assert condition(manifest, "Complete")["status"] == "True"
    assert names.FINALIZER not in manifest["metadata"].get("finalizers", ())


def test_suspended_from_creation_is_not_placed() -> None:
    manifest = written(decide(observe(job_manifest(suspend=True))))
    assert condition(manifest, "Suspended")["reason"] == "JobSuspended"
    assert "startTime" not in manifest["status"]
    assert names.PLACEMENT_ANNOTATION not in manifest["metadata"].get("annotations", {})


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        pytest.param({}, "NoWorkerClusters", id="none-registered"),
        pytest.param(clusters("a", ready=False), "NoEligibleClusters", id="none-ready"),
    ],
)
def test_without_a_cluster_the_condition_says_so(known: Any, reason: str) -> None:
    found = condition(written(decide(observe(job_manifest(), clusters=known))), names.DISPATCHED)
    assert (found["status"], found["reason"]) == ("False", reason)


def test_nothing_is_placed_before_all_clusters_answered() -> None:
    assert decide(observe(job_manifest(), settled=False)).actions == ()


@pytest.mark.parametrize("finished", [False, True], ids=["running", "finished"])
def test_a_settled_state_gives_no_actions(finished: bool) -> None:
    scene = Scene().settle()
    scene.report("a", active=1, ready=1)
    if finished:
        scene.complete("a", 2)
        scene.complete("b", 2)
    scene.settle()
    assert scene.decide().actions == ()
    assert bool(condition(scene.job, "Complete")) is finished


def test_a_foreign_name_is_left_and_the_mirror_gets_another() -> None:
    scene = Scene()
    scene.job = written(scene.decide())
    slot = (names.ClusterName("a"), "pi")
    scene.fields["attempts"] = {slot: Attempt(Refusal.NAME_TAKEN, "", NOW + timedelta(seconds=1), NOW)}
    manifest = written(scene.decide())
    mirror = next(share.mirror for share in placement_of(manifest).shares if share.cluster == "a")
    assert mirror != "pi"
    assert mirror.startswith("pi-")
    assert condition(manifest, names.DISPATCHED)["reason"] == "MirrorNameTaken"


def test_a_missing_namespace_is_told_once_and_tried_again_later() -> None:
    scene = Scene()
    scene.job = written(scene.decide())
    attempt = Attempt(Refusal.NAMESPACE_MISSING, "", NOW + timedelta(seconds=7), NOW)
    scene.fields["attempts"] = {(names.ClusterName("a"), "pi"): attempt}
    scene.settle()
    assert condition(scene.job, names.DISPATCHED)["reason"] == "NamespaceMissing"
    assert list(scene.mirrors) == [("b", "pi")]
    decision = scene.decide()
    assert decision.actions == ()
    assert decision.look_again == pytest.approx(7)


def test_a_mirror_deleted_after_it_finished_is_not_made_again() -> None:
    scene = Scene().settle()
    scene.complete("a", 2)
    scene.settle()
    scene.lose("a")
    scene.actions.clear()
    scene.settle()
    assert not [action for action in scene.actions if isinstance(action, CreateMirror)]
    assert scene.job["status"]["succeeded"] == 2


def test_a_mirror_deleted_while_running_is_made_again_for_what_is_unfinished() -> None:
    scene = Scene(completions=8).settle()
    scene.report("a", succeeded=1, active=1)
    scene.settle()
    scene.lose("a")
    scene.actions.clear()
    scene.settle()
    (created,) = [action for action in scene.actions if isinstance(action, CreateMirror)]
    assert created.cluster == "a"
    assert created.manifest["spec"]["completions"] == 3
    assert scene.job["status"]["succeeded"] == 1


@pytest.mark.parametrize(
    "text",
    [pytest.param(None, id="removed"), pytest.param("{", id="garbled"), pytest.param("{}", id="empty")],
)
def test_a_lost_annotation_is_rebuilt_and_nothing_runs_again(text: str | None) -> None:
    scene = Scene().settle()
    scene.complete("a", 2)
    scene.settle()
    before = placement_of(scene.job).shares
    metadata = dict(scene.job["metadata"])
    kept = {k: v for k, v in metadata["annotations"].items() if k != names.PLACEMENT_ANNOTATION}
    metadata["annotations"] = kept if text is None else {**kept, names.PLACEMENT_ANNOTATION: text}
    scene.job = {**scene.job, "metadata": metadata}
    scene.actions.clear()
    scene.settle()
    assert placement_of(scene.job).shares == before
    assert all(isinstance(action, WriteJob) for action in scene.actions)


def test_a_copied_annotation_of_another_job_is_ignored() -> None:
    first = Scene().settle()
    copied = {names.PLACEMENT_ANNOTATION: first.job["metadata"]["annotations"][names.PLACEMENT_ANNOTATION]}
    second = job_manifest()
    second["metadata"] |= {"uid": "u2", "annotations": copied}
    assert placement_of(written(decide(observe(second)))).job_uid == "u2"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        pytest.param({"failed": 7, "active": 1}, "BackoffLimitExceeded", id="backoff-limit"),
        pytest.param(
            {
                "failed": 1,
                "conditions": [
                    {"type": "FailureTarget", "status": "True", "reason": "PodFailurePolicy", "message": "m"}
                ],
            },
            "PodFailurePolicy",
            id="pod-failure-policy",
        ),
    ],
)
def test_a_failure_anywhere_fails_the_job_and_then_stops_the_others(status: Manifest, reason: str) -> None:
    scene = Scene().settle()
    scene.report("a", **status)
    decision = scene.decide()
    assert condition(written(decision), "FailureTarget")["reason"] == reason
    assert not [action for action in decision.actions if isinstance(action, PatchMirror)]
    scene.job = written(decision)
    patched = [a for a in scene.decide().actions if isinstance(a, PatchMirror)]
    assert "b" in {action.cluster for action in patched}
    assert not condition(scene.job, "Failed")


def test_a_deadline_that_is_over_fails_the_job() -> None:
    scene = Scene(activeDeadlineSeconds=30).settle()
    scene.job["status"] = scene.job["status"] | {"startTime": timestamp(NOW - timedelta(seconds=30))}
    assert condition(written(scene.decide()), "FailureTarget")["reason"] == "DeadlineExceeded"


def test_counts_never_fall() -> None:
    scene = Scene(completions=8).settle()
    scene.report("a", succeeded=2, failed=1, active=1)
    scene.settle()
    scene.report("a", succeeded=1, failed=0, active=1)
    scene.settle()
    assert (scene.job["status"]["succeeded"], scene.job["status"]["failed"]) == (2, 1)


def test_counts_of_a_cluster_that_is_away_stay() -> None:
    scene = Scene(completions=8).settle()
    scene.report("a", succeeded=2, active=1)
    scene.settle()
    scene.mirrors = {key: mirror for key, mirror in scene.mirrors.items() if key[0] != "a"}
    scene.fields["clusters"] = clusters("b") | clusters("a", ready=False)
    scene.settle()
    assert scene.job["status"]["succeeded"] == 2
    assert set(scene.mirrors) == {("b", "pi")}


def deleted(scene: Scene, *, seconds: float) -> None:
    stamp = timestamp(NOW - timedelta(seconds=seconds))
    scene.job = {**scene.job, "metadata": scene.job["metadata"] | {"deletionTimestamp": stamp}}


def test_a_deleted_job_keeps_its_finalizer_until_its_mirrors_are_gone() -> None:
    scene = Scene().settle()
    deleted(scene, seconds=1)
    decision = scene.decide()
    assert {type(action) for action in decision.actions} == {DeleteMirror}
    assert len(decision.actions) == 2
    scene.mirrors.clear()
    assert names.FINALIZER not in written(scene.decide())["metadata"]["finalizers"]


@pytest.mark.parametrize(("seconds", "gives_up"), [(299, False), (301, True)])
def test_an_away_cluster_holds_a_deleted_job_for_five_minutes(seconds: float, gives_up: bool) -> None:
    scene = Scene().settle()
    scene.mirrors.clear()
    scene.fields["clusters"] = clusters("b") | clusters("a", ready=False)
    deleted(scene, seconds=seconds)
    assert bool(scene.decide().actions) is gives_up


def test_indexed_mirrors_wait_for_their_seed_and_get_what_is_not_theirs() -> None:
    scene = Scene(completionMode="Indexed", completions=5)
    scene.job = written(scene.decide())
    created = {a.cluster: a for a in scene.decide().actions if isinstance(a, CreateMirror)}
    assert all(action.manifest["spec"]["suspend"] for action in created.values())
    for action in created.values():
        scene._carry_out(action)
    scene.job = written(scene.decide())
    seeds = {a.cluster: a.patch for a in scene.decide().actions if isinstance(a, PatchMirror)}
    for share in placement_of(scene.job).shares:
        (planted,) = [s for s in seeds[share.cluster] if s["path"] == "/status/completedIndexes"]
        outside = [i for i in range(5) if i not in share.indexes]
        assert planted["value"] in (",".join(map(str, outside)), f"{outside[0]}-{outside[-1]}")


def test_a_queue_that_succeeded_somewhere_winds_down_elsewhere() -> None:
    scene = Scene(completions=None, parallelism=2).settle()
    scene.report("a", succeeded=1, active=0)
    scene.report("b", active=1)
    scene.settle()
    mirror = scene.mirrors["b", "pi"]
    assert mirror["metadata"]["annotations"][names.WOUND_DOWN_ANNOTATION] == "true"
    assert scene.job["status"]["succeeded"] == 1


def test_a_mirror_record_names_its_share() -> None:
    scene = Scene().settle()
    for (cluster, _), mirror in scene.mirrors.items():
        record = json.loads(mirror["metadata"]["annotations"][names.SHARE_ANNOTATION])
        share = next(s for s in placement_of(scene.job).shares if s.cluster == cluster)
        assert (record["id"], record["mirror"]) == (share.id, share.mirror)


def test_parallelism_is_raised_only_after_every_lowering_was_seen() -> None:
    scene = Scene(parallelism=4, completions=20).settle()
    persisted = placement_of(scene.job)
    moved = [replace(s, parallelism=1 if s.cluster == "a" else 3) for s in persisted.shares]
    text = format_placement(persisted.with_shares(moved))
    scene.job["metadata"]["annotations"] = {names.PLACEMENT_ANNOTATION: text}
    patched = [a for a in scene.decide().actions if isinstance(a, PatchMirror)]
    assert [action.cluster for action in patched] == ["a"]


def test_the_parts_that_dispatched_names_add_up_to_the_jobs_parallelism_when_one_has_ended() -> None:
    scene = Scene(parallelism=4, completions=12).settle()
    for cluster in ("a", "b"):
        scene.report(cluster, active=2, ready=2)
    scene.settle()
    scene.complete("a", 6)
    scene.settle()
    message = condition(scene.job, names.DISPATCHED)["message"]
    assert message == "Divided over 2 clusters: a (completions 6, finished), b (parallelism 4, completions 6)"
