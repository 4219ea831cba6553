"""The chaos harness' own judgement: what it must notice, on records."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from hack.chaos import checks
from hack.chaos.faults import DISPATCHER, MANAGEMENT, Fault, Injected, Kind, choices, schedule
from hack.chaos.records import JOB_CONTROLLER, LogTail, Run, WorkerLogs, read_runs, refused_status_writes
from hack.chaos.workload import JOB_LABEL, MAKERS, JobPlan, make_plans

WORKERS = ["worker-1", "worker-2", "worker-3"]
OPTIONS = choices(WORKERS, proxied=["worker-1"], gated=["worker-2"])
NOW = datetime(2030, 1, 1, tzinfo=UTC)

INDEXED = JobPlan(
    name="a",
    kind="Indexed",
    spec={"completions": 3, "completionMode": "Indexed"},
    script=[],
    end="Complete",
    reason="CompletionsReached",
    succeeded=3,
    failed=0,
    indexes=frozenset(range(3)),
)
FIXED = dataclasses.replace(INDEXED, kind="NonIndexed", spec={"completions": 3}, indexes=None)


def job(uid: str = "u", reason: str = "CompletionsReached", **status: Any) -> dict[str, Any]:
    condition = {"type": "Complete", "status": "True", "reason": reason}
    return {
        "metadata": {"name": "a", "uid": uid, "annotations": {}},
        "spec": {"completions": 3},
        "status": {"succeeded": 3, "completedIndexes": "0-2", "conditions": [condition]} | status,
    }


def run(index: int | None, *, mirror: str = "m1", at: float = 0, took: float = 1, code: int = 0) -> Run:
    began = NOW + timedelta(seconds=at)
    ended = began + timedelta(seconds=took)
    return Run("a", "worker-1", mirror, "p", index, began, ended, code)


def rules(found: Sequence[checks.Violation]) -> list[str]:
    return [violation.rule for violation in found]


def test_a_seed_says_all() -> None:
    again = [schedule(OPTIONS, seed=7, count=40, seconds=60) for _ in range(2)]
    assert again[0] == again[1]
    assert make_plans(50, 7) == make_plans(50, 7)
    assert schedule(OPTIONS, seed=8, count=40, seconds=60) != again[0]


def test_every_kind_of_fault_and_of_job_comes() -> None:
    faults = schedule(OPTIONS, seed=1, count=len(Kind), seconds=60)
    assert {fault.kind for fault in faults} == set(Kind)
    assert all(0 < fault.at <= 60 and 1 <= fault.seconds <= 6 for fault in faults)
    many = schedule(OPTIONS, seed=1, count=200, seconds=60)
    assert {fault.target for fault in many} == {MANAGEMENT, DISPATCHER, *WORKERS}
    assert len({plan.kind for plan in make_plans(len(MAKERS), 1)}) == len(MAKERS)


def test_names_are_unique() -> None:
    plans = make_plans(300, 3)
    assert len({plan.name for plan in plans}) == 300


@pytest.mark.parametrize("plan", [INDEXED, FIXED], ids=lambda plan: plan.kind)
def test_a_right_end_is_right(plan: JobPlan) -> None:
    status = {} if plan is INDEXED else {"completedIndexes": ""}
    runs = [run(index if plan is INDEXED else None) for index in range(3)]
    assert checks.check_end(INDEXED, job()) == []
    assert checks.check_runs(plan, job(**status), runs) == []


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": []},
        {"reason": "SuccessPolicy"},
        {"succeeded": 2},
        {"failed": 1},
        {"active": 1},
        {"completedIndexes": "0-1"},
        {"failedIndexes": "2"},
    ],
    ids=str,
)
def test_a_wrong_end_is_told(status: dict[str, Any]) -> None:
    assert rules(checks.check_end(INDEXED, job(**status))) == ["final status"]


def test_a_job_that_vanished_is_told() -> None:
    assert rules(checks.check_end(INDEXED, None)) == ["final status"]


def test_an_index_that_succeeded_on_two_mirrors_is_told() -> None:
    runs = [run(0), run(1), run(2), run(2, mirror="m2")]
    assert rules(checks.check_runs(INDEXED, job(), runs)) == ["exactly once"]


def test_an_index_that_its_own_cluster_ran_twice_is_no_fault_of_ours() -> None:
    runs = [run(0), run(1), run(2), run(2, at=5)]
    assert checks.check_runs(INDEXED, job(), runs) == []
    causes = checks.causes_of_reruns({"a": INDEXED}, runs)
    assert causes == {"run again by its cluster's own Job controller": 1}


def test_a_success_that_was_not_counted_is_told() -> None:
    assert rules(checks.check_runs(FIXED, job(succeeded=2), [run(None)] * 3)) == ["counted once"]


def test_a_completion_too_many_is_told() -> None:
    assert "exactly once" in rules(checks.check_runs(FIXED, job(), [run(None)] * 4))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {}, ""),
        ({"succeeded": 1, "conditions": []}, {"succeeded": 3}, ""),
        ({"conditions": []}, {"succeeded": 2}, "succeeded falls"),
        ({"conditions": []}, {"completedIndexes": "0,2"}, "completedIndexes loses"),
        ({}, {"conditions": []}, "the end changes"),
    ],
)
def test_what_goes_back_is_told(before: dict[str, Any], after: dict[str, Any], told: str) -> None:
    found = checks.check_progress(job(**before), job(**after))
    assert found.startswith(told)
    assert bool(found) == bool(told)


def mirror(share: str = "0", uid: str = "m1", job_uid: str = "u") -> tuple[str, dict[str, Any]]:
    labels = {"jobdispatcher.io/share": share, "jobdispatcher.io/job-uid": job_uid}
    return "worker-1", {"metadata": {"name": "a", "uid": uid, "labels": labels}, "spec": {}}


def test_mirrors_belong_to_a_placement() -> None:
    placed = job()
    shares = [{"id": 0, "cluster": "worker-1", "mirror": "a", "mirrorUID": "m1"}]
    placed["metadata"]["annotations"] = {
        "jobdispatcher.io/placement": orjson.dumps({"shares": shares}).decode()
    }
    living = {"u": placed}
    assert checks.check_mirrors(living, [mirror()]) == []
    assert rules(checks.check_mirrors(living, [mirror(job_uid="other")])) == ["no orphan"]
    assert rules(checks.check_mirrors(living, [mirror(share="1")])) == ["no share outside a placement"]
    assert rules(checks.check_mirrors(living, [mirror(uid="m2")])) == ["no share outside a placement"]


def test_reruns_have_causes() -> None:
    runs = [run(0, code=1), run(0, at=2), run(1), run(1, mirror="m2", at=3)]
    assert checks.causes_of_reruns({"a": INDEXED}, runs) == {
        "failed, as its script says": 1,
        "succeeded and run again elsewhere": 1,
    }


def test_a_stall_is_a_time_without_pods_and_news() -> None:
    moments = {"a": [NOW, NOW + timedelta(seconds=30)]}
    runs = [run(0, at=2, took=10)]
    assert checks.longest_stall(moments, runs) == (18.0, "a", NOW + timedelta(seconds=12))


def test_records_are_read_past_half_written_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"old": 1}\n')
    audit = tmp_path / "audit"
    audit.touch()
    worker = WorkerLogs("worker-1", LogTail(log), LogTail(audit))
    record = {
        "namespace": "n",
        "labels": {JOB_LABEL: "a"},
        "uid": "p1",
        "pod": "a-0",
        "job": "m1",
        "index": 0,
        "nth": 0,
        "try": 0,
    }
    lines = [
        {**record, "what": "started", "time": NOW.isoformat()},
        {**record, "what": "ended", "time": (NOW + timedelta(seconds=2)).isoformat(), "exit": 0},
        {**record, "namespace": "other", "what": "started", "time": NOW.isoformat()},
    ]
    with log.open("ab") as file:
        file.write(b'scripter: a line\n{"half\n' + b"\n".join(map(orjson.dumps, lines)) + b"\n")
    [found] = read_runs([worker], namespace="n")
    assert found.succeeded
    assert found.ended == NOW + timedelta(seconds=2)
    pod = {"resource": "pods", "namespace": "n", "name": "a-0"}
    deletion = {"verb": "delete", "objectRef": pod, "user": {"username": JOB_CONTROLLER}}
    audit.write_bytes(orjson.dumps(deletion) + b"\n")
    [found] = read_runs([worker], namespace="n")
    assert not found.succeeded, "the cluster took it away at that moment, and did not count it"


def test_refused_status_writes_are_found(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    audit.touch()
    tail = LogTail(audit)
    target = {"resource": "jobs", "subresource": "status", "namespace": "n", "name": "a"}
    events = [{"objectRef": target, "responseStatus": {"code": code}} for code in (200, 409, 422)]
    audit.write_bytes(b"\n".join(map(orjson.dumps, events)))
    assert refused_status_writes(tail, namespace="n") == ["a: 422 "]


def test_what_a_cluster_did_out_of_sight_may_be_done_again() -> None:
    killed = Injected(Fault(10, Kind.APISERVER_KILLED, "worker-1", 20), 10, 30)
    paused = Injected(Fault(40, Kind.CONTROLLERS_STOPPED, "worker-1", 60), 40, 100)
    away = checks.absences([killed, paused], start=NOW, after=20)
    runs = [run(0), run(1), run(2, at=12), run(2, mirror="m2", at=50)]
    assert checks.check_runs(INDEXED, job(), runs, away=away) == []
    assert checks.causes_of_reruns({"a": INDEXED}, runs, away=away) == {"its cluster was given up on": 1}
    earlier = [run(0), run(1), run(2, at=2), run(2, mirror="m2", at=50)]
    assert checks.check_runs(INDEXED, job(), [*runs[:2], run(2, at=8), runs[3]], away=away) == []
    assert rules(checks.check_runs(INDEXED, job(), earlier, away=away)) == ["exactly once"]
    assert checks.absences([killed, paused], start=NOW, after=None) == []
    assert checks.absences([killed, paused], start=NOW, after=60) == []
