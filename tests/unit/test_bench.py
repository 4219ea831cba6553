"""The arithmetic of the benchmark: workloads, moments, requests by account, percentiles."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hack.bench import picture
from hack.bench.__main__ import STANDARD, _workloads
from hack.bench.audit import AuditTail, Request
from hack.bench.cpu_quota import QuotaError, cpu_quota
from hack.bench.report import figures, percentile, targets
from hack.bench.run import Passage, until_quiet
from hack.bench.served import parse
from hack.bench.takeover import Handover, summary
from hack.bench.timeline import Moments, Timeline
from hack.bench.usage import Usage, measure
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


@pytest.mark.parametrize("written", [0, 20])
def test_a_line_that_is_half_written_when_the_measurement_begins_is_in_it(
    tmp_path: Path, written: int
) -> None:
    log = tmp_path / "audit.log"
    line = entry("system:serviceaccount:somewhere:controller", "create", resource="jobs")
    log.write_text(line + line[:written])
    tail = AuditTail([cast(Plane, SimpleNamespace(name="management", audit_log=log))])
    with log.open("a") as file:
        file.write(line[written:])
    assert tail.count() == {Request("management", "create", "jobs"): 1}
    tail.close()


def test_the_api_servers_counters_are_summed_over_codes_and_told_apart_by_subresource() -> None:
    text = """# TYPE apiserver_request_total counter
apiserver_request_total{code="200",component="a",group="batch",resource="jobs",subresource="status",verb="PUT"} 7
apiserver_request_total{code="409",component="a",group="batch",resource="jobs",subresource="status",verb="PUT"} 2
apiserver_request_total{code="200",component="a",group="batch",resource="jobs",subresource="",verb="APPLY"} 1
apiserver_request_total{code="200",component="a",group="",resource="pods",subresource="",verb="POST"} 9
apiserver_request_total{code="0",component="a",group="batch",resource="jobs",subresource="",verb="WATCH"} 9
other_metric{verb="PUT"} 3
"""
    assert parse("one", text) == {
        Request("one", "update", "jobs/status"): 9,
        Request("one", "patch", "jobs"): 1,
    }


def passage(
    *, jobs: int, seconds: float, requests: dict[Request, int], served: dict[Request, int]
) -> Passage:
    moments = tuple(
        Moments(0.0, 0.1, 1.0, True, {("worker-1", str(number)): 0.2}, {("worker-1", str(number)): 0.9})
        for number in range(jobs)
    )
    return Passage(moments, seconds, 0.1 * jobs, Usage(1.0, 2, 3), Counter(requests), Counter(served))


def test_the_built_in_controllers_share_is_taken_out() -> None:
    status, event = Request("m", "update", "jobs/status"), Request("m", "create", "events")
    probe, read = Request("w", "get", "namespaces"), Request("w", "get", "jobs")
    workload = Workload(shape="single", jobs=10, rate="burst")
    ours = passage(
        jobs=10,
        seconds=2.0,
        requests={status: 60, event: 20, probe: 5, read: 1},
        served={status: 100, event: 70},
    )
    built_in = passage(jobs=10, seconds=1.0, requests={}, served={status: 40, event: 50})
    run = figures(workload, dispatched=ours, built_in=built_in)
    assert run["addedByServerMetrics"] == {"jobWritesPerJob": 6.0, "eventsPerJob": 2.0, "jobReadsPerJob": 0.0}
    assert (run["dispatched"]["readsPerJob"], run["dispatched"]["readsByClock"]) == (0.1, 5)
    met = {entry["target"]: entry["met"] for entry in targets(run)}
    assert met == {
        "writes to Jobs a single-share Job": True,
        "CPU a single-share Job, s": False,
        "Events a Job": True,
        "reads a Job": False,
        "Jobs/s over the built-in's": False,
    }


def test_a_ladder_is_one_run_a_rate() -> None:
    nothing = {"jobs": None, "shape": None, "rate": None, "duration": None, "ladder": None}
    assert _workloads(**cast(Any, nothing)) == STANDARD
    runs = _workloads(**cast(Any, nothing | {"ladder": "2, 5,10", "duration": 4.0}))
    assert [(run.rate, run.jobs) for run in runs] == [(2.0, 8), (5.0, 20), (10.0, 40)]
    with pytest.raises(ValueError, match="one of them"):
        _workloads(**cast(Any, nothing | {"ladder": "2", "rate": "3"}))


def test_latency_over_load_is_drawn(tmp_path: Path) -> None:
    spread = {"p50": 0.1, "p95": 0.2, "p99": 0.3}
    runs = [
        {
            "workload": {"rate": rate},
            "dispatched": {f"{name}Seconds": spread for name in ("dispatch", "writeback", "total")},
        }
        for rate in (5.0, 2.0, "idle")
    ]
    picture.draw(runs, tmp_path / "new" / "latency.png")
    assert (tmp_path / "new" / "latency.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="--ladder"):
        picture.draw(runs[:1], tmp_path / "one.png")


def test_a_review_is_no_write() -> None:
    assert not Request("one", "create", "selfsubjectaccessreviews").is_write
    assert Request("one", "create", "jobs").is_write


def passed(name: float, *, mirrors: int = 1, complete: bool = True, waited: float = 0.1) -> Moments:
    return Moments(
        sent=name,
        exists=name,
        ended=name + 5.0,
        complete=complete,
        mirrors={("one", f"m-{number}"): name + waited for number in range(mirrors)},
    )


def test_of_each_way_the_worst_takeover_is_set_beside_its_target() -> None:
    found = [
        Handover("kill", 9.0, (passed(1.0, waited=9.2),)),
        Handover("kill", 16.0, (passed(1.0, waited=16.2),)),
        Handover("stop", 1.2, (passed(1.0),)),
        Handover("join", 6.0, (passed(1.0, waited=1.5),)),
    ]
    result = summary(found, load=0.5)
    assert [row["longestWaitSeconds"] for row in result["handovers"]] == [9.2, 16.2, 0.1, 1.5]
    assert [(entry["value"], entry["atMost"], entry["met"]) for entry in result["targets"]] == [
        (16.0, 15.0, False),
        (1.2, 2.0, True),
        (1.5, 2.0, True),
        (0, 0, True),
    ]


def test_a_job_with_two_mirrors_or_without_an_end_is_told() -> None:
    found = [Handover("stop", 1.0, (passed(1.0, mirrors=2), passed(2.0, complete=False), passed(3.0)))]
    result = summary(found, load=0.5)
    assert (result["handovers"][0]["doubled"], result["handovers"][0]["unfinished"]) == (1, 1)
    assert result["targets"][-1]["met"] is False


async def test_quiet_is_when_only_what_comes_by_the_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    lease, write = Request("management", "update", "leases"), Request("management", "update", "jobs/status")
    turns = [Counter({write: 2, lease: 1}), Counter({write: 1}), Counter({lease: 3}), Counter({write: 9})]
    tail = cast(AuditTail, SimpleNamespace(count=lambda: turns.pop(0)))
    monkeypatch.setattr("hack.bench.run.QUIET_SECONDS", 0)
    assert await until_quiet(tail) == Counter({write: 3, lease: 4})
    assert len(turns) == 1


def test_a_quota_bounds_a_process_and_leaves_nothing_behind() -> None:
    spins = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", spins]) as process:
        try:
            before = Path(f"/proc/{process.pid}/cgroup").read_text()
            with cpu_quota(process.pid, 0.05):
                assert Path(f"/proc/{process.pid}/cgroup").read_text() != before
                used = measure([process.pid]).cpu_seconds
                time.sleep(1.0)  # of which the process gets a part
                throttled = measure([process.pid]).cpu_seconds - used
        except QuotaError as error:
            pytest.skip(str(error))
        finally:
            process.kill()
    assert throttled < 0.5
    assert not list(Path("/sys/fs/cgroup").glob(f"**/job-dispatcher-bench-{process.pid}"))
