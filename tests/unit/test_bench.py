"""The arithmetic of the benchmark: workloads, moments, requests by account, percentiles."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hack.bench.audit import AuditTail, Request
from hack.bench.report import percentile
from hack.bench.timeline import Timeline
from hack.bench.workload import Workload
from hack.lab import Plane


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([3.0], 99, 3.0), ([1.0, 2.0, 3.0], 50, 2.0), ([4.0, 1.0], 50, 2.5), ([0.0, 10.0], 95, 9.5)],
)
def test_percentile_interpolates(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == pytest.approx(expected)


def test_jobs_follow_from_rate_and_duration() -> None:
    workload = Workload.of(shape="queue", jobs=None, rate="2.5", duration=3)
    assert (workload.jobs, workload.rate) == (8, 2.5)


@pytest.mark.parametrize(
    ("jobs", "rate", "duration"),
    [
        (None, "fast", None),
        (None, "0", None),
        (5, "2", 3.0),
        (None, "burst", 3.0),
        (10**6, "burst", None),
        (-1, "idle", None),
    ],
)
def test_what_makes_no_sense_is_refused(jobs: int | None, rate: str, duration: float | None) -> None:
    with pytest.raises(ValueError, match=r"expected|needs|follows"):
        Workload.of(shape="single", jobs=jobs, rate=rate, duration=duration)


def test_a_job_for_the_built_in_controller_has_no_managed_by() -> None:
    workload = Workload(shape="split", jobs=1, rate="idle")
    assert "managedBy" not in workload.manifest("a", managed_by=None)["spec"]
    assert workload.manifest("a", managed_by="example.com/x")["spec"]["managedBy"] == "example.com/x"


def job(name: str, *conditions: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "annotations": annotations or {}},
        "status": {"conditions": [{"type": kind, "status": "True"} for kind in conditions]},
    }


def test_moments_are_those_of_the_last_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("hack.bench.timeline.time.monotonic", lambda: now)
    changes = []
    timeline = Timeline(on_change=lambda: changes.append(now))
    jobs, one, two = timeline.watch_jobs(), timeline.watch_mirrors("one"), timeline.watch_mirrors("two")
    timeline.sending("a")
    now = 101.0
    jobs(None, job("a"))
    now = 102.0
    timeline.answered("a")
    one(None, job("a"))
    now = 104.0
    two(None, job("a-1f2e", annotations={"jobdispatcher.io/job-name": "a"}))
    one(None, job("a", "Complete"))
    now = 107.0
    two(None, job("a-1f2e", "Complete", annotations={"jobdispatcher.io/job-name": "a"}))
    one(None, job("somebody-elses", "Complete"))
    assert timeline.unfinished == 1
    now = 109.0
    jobs(None, job("a", "SuccessCriteriaMet", "Complete"))
    now = 120.0
    jobs(None, job("a", "Complete"))
    moments = timeline.jobs["a"]
    assert (moments.dispatch, moments.writeback, moments.total) == (3.0, 2.0, 9.0)
    assert (timeline.unfinished, changes) == (0, [109.0])


def test_a_failed_job_has_no_total() -> None:
    timeline = Timeline(on_change=lambda: None)
    timeline.sending("a")
    timeline.watch_jobs()(None, job("a", "Failed"))
    assert (timeline.jobs["a"].total, timeline.unfinished) == (None, 0)


def entry(user: str, verb: str, *, stage: str = "ResponseComplete", **target: str) -> str:
    event = {
        "user": {"username": user},
        "verb": verb,
        "stage": stage,
        "objectRef": target,
        "requestURI": "/x?y",
    }
    return json.dumps(event) + "\n"


def test_only_the_measured_controllers_requests_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    ours = "system:serviceaccount:somewhere:controller"
    log.write_text(entry(ours, "create", resource="jobs"))  # before the measurement
    tail = AuditTail([cast(Plane, SimpleNamespace(name="management", audit_log=log))])
    whole = [
        entry(ours, "update", resource="jobs", subresource="status"),
        entry(ours, "watch", resource="jobs", stage="ResponseStarted"),
        entry(ours, "watch", resource="jobs"),
        entry("lab:admin", "create", resource="jobs"),
        entry("system:serviceaccount:kube-system:job-controller", "update", resource="jobs"),
    ]
    half = entry(ours, "get", resource="namespaces")
    with log.open("a") as file:
        file.write("".join(whole) + half[:20])
    assert tail.count() == {
        Request("management", "update", "jobs/status"): 1,
        Request("management", "watch", "jobs"): 1,
    }
    turned = tmp_path / "audit-1.log"
    with log.open("a") as file:
        file.write(half[20:])
    log.rename(turned)
    log.write_text(entry(ours, "delete", resource="jobs"))
    assert tail.count() == {
        Request("management", "get", "namespaces"): 1,
        Request("management", "delete", "jobs"): 1,
    }
    assert tail.count() == {}
    tail.close()
