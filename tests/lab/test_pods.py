"""Pods act as a kubelet's would, and as their script says. The built-in Job controller is the judge."""

from __future__ import annotations

import time
from typing import Any

from tests.lab.jobs import Jobs, eventually, exit_codes, ready, run


def test_without_a_script_pods_run_and_succeed_at_once(jobs: Jobs) -> None:
    begin = time.monotonic()
    jobs.create("plain", completions=6, parallelism=3, containers=2)
    assert eventually(lambda: jobs.condition("plain"), bool) == ("Complete", "CompletionsReached")
    # The Job controller takes about a second per wave of pods.
    assert time.monotonic() - begin < 15
    pods = jobs.pods("plain")
    assert len(pods) == 6
    for pod in pods:
        assert pod["status"]["phase"] == "Succeeded"
        assert exit_codes(pod) == [0, 0]
        assert ready(pod) == "False"
        states = [entry["state"]["terminated"]["reason"] for entry in pod["status"]["containerStatuses"]]
        assert states == ["Completed", "Completed"]


def test_index_and_try(jobs: Jobs) -> None:
    jobs.create(
        "indexed",
        script=[{"index": "1", "try": "0", "exit": 42}, {"index": "2-3", "exit": 7}, {"exit": 0}],
        completionMode="Indexed",
        completions=4,
        parallelism=4,
        backoffLimitPerIndex=1,
        podFailurePolicy={
            "rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [7]}}],
        },
    )
    # The second try of index 1 comes after the Job controller's back-off of 10 s.
    assert eventually(lambda: jobs.condition("indexed"), bool, seconds=40) == ("Failed", "FailedIndexes")
    status = jobs.get("indexed")["status"]
    assert (status["completedIndexes"], status["failedIndexes"]) == ("0,1", "2,3")
    tries = {
        (
            int(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]),
            run(pod)["try"],
        ): exit_codes(pod)
        for pod in jobs.pods("indexed")
    }
    assert tries == {(0, 0): [0], (1, 0): [42], (1, 1): [0], (2, 0): [7], (3, 0): [7]}


def test_nth_is_the_order_of_creation(jobs: Jobs) -> None:
    jobs.create(
        "nth", script=[{"nth": "1", "exit": 3}, {"exit": 0}], completions=3, parallelism=1, backoffLimit=0
    )
    assert eventually(lambda: jobs.condition("nth"), bool) == ("Failed", "BackoffLimitExceeded")
    pods = jobs.pods("nth")
    assert [(run(pod)["nth"], exit_codes(pod)) for pod in pods] == [(0, [0]), (1, [3])]
    created = [pod["metadata"]["creationTimestamp"] for pod in pods]
    assert created == sorted(created)


def test_after_is_running_time_and_the_pod_is_ready_meanwhile(jobs: Jobs) -> None:
    jobs.create("after", script=[{"after": "2s"}])
    eventually(lambda: jobs.get("after")["status"].get("ready"), lambda count: count == 1)
    seen = time.monotonic()
    (pod,) = jobs.pods("after")
    assert (pod["status"]["phase"], ready(pod)) == ("Running", "True")
    assert "running" in pod["status"]["containerStatuses"][0]["state"]
    eventually(lambda: jobs.pods("after")[0]["status"]["phase"], lambda phase: phase == "Succeeded")
    # The Job controller shows `ready` up to a second late.
    assert 0.5 < time.monotonic() - seen < 10


def test_null_never_ends_and_a_deleted_pod_ends_as_by_sigterm(jobs: Jobs) -> None:
    jobs.create("never", script=[{"exit": None}], backoffLimit=0)
    eventually(lambda: jobs.get("never")["status"].get("ready"), lambda count: count == 1)
    (pod,) = jobs.pods("never")
    jobs.delete_pod(pod["metadata"]["name"])
    assert eventually(lambda: jobs.condition("never"), bool) == ("Failed", "BackoffLimitExceeded")
    assert jobs.get("never")["status"]["failed"] == 1
    # The Job controller counted it, took its finalizer off, and so it is gone.
    eventually(lambda: jobs.pods("never"), lambda pods: pods == [])


def test_termination_takes_its_time_and_may_end_well(jobs: Jobs) -> None:
    # With `Failed` the Job controller waits for the end of a pod that is being deleted before it counts it.
    jobs.create(
        "graceful",
        script=[{"exit": None}],
        termination={"after": "1500ms", "exit": 0},
        podReplacementPolicy="Failed",
    )
    eventually(lambda: jobs.get("graceful")["status"].get("ready"), lambda count: count == 1)
    begin = time.monotonic()
    (pod,) = jobs.pods("graceful")
    jobs.delete_pod(pod["metadata"]["name"])
    (pod,) = jobs.pods("graceful")
    assert pod["metadata"]["deletionTimestamp"]
    assert pod["status"]["phase"] == "Running"
    assert eventually(lambda: jobs.condition("graceful"), bool) == ("Complete", "CompletionsReached")
    assert time.monotonic() - begin > 1.5


def test_on_failure_restarts_the_containers_of_the_same_pod(jobs: Jobs) -> None:
    jobs.create("restarts", script=[{"try": "0-1", "exit": 9}, {"after": "500ms"}], restart="OnFailure")
    assert eventually(lambda: jobs.condition("restarts"), bool) == ("Complete", "CompletionsReached")
    (pod,) = jobs.pods("restarts")
    assert pod["status"]["phase"] == "Succeeded"
    assert pod["status"]["containerStatuses"][0]["restartCount"] == 2
    assert run(pod) == {"nth": 0, "try": 2}
    assert jobs.get("restarts")["status"].get("failed", 0) == 0


def test_pod_failure_policy_reads_the_exit_code(jobs: Jobs) -> None:
    rule = {"action": "FailJob", "onExitCodes": {"containerName": "c1", "operator": "In", "values": [42]}}
    jobs.create("policy", script=[{"exit": 42}], containers=2, podFailurePolicy={"rules": [rule]})
    assert eventually(lambda: jobs.condition("policy"), bool) == ("Failed", "PodFailurePolicy")
    conditions = {entry["type"]: entry for entry in jobs.get("policy")["status"]["conditions"]}
    assert "42" in conditions["Failed"]["message"]
    assert "c1" in conditions["Failed"]["message"]


def test_a_script_that_cannot_be_understood_fails_its_pod_and_says_why(jobs: Jobs) -> None:
    jobs.create("wrong", script='[{"exits": 1}]', backoffLimit=0)
    assert eventually(lambda: jobs.condition("wrong"), bool) == ("Failed", "BackoffLimitExceeded")
    (pod,) = jobs.pods("wrong")
    assert pod["status"]["reason"] == "InvalidScript"
    assert "unknown exits" in pod["status"]["message"]


def test_a_new_scripter_goes_on_where_the_killed_one_stopped(jobs: Jobs) -> None:
    script: list[dict[str, Any]] = [{"try": "0", "exit": 1}, {"exit": None}]
    jobs.create_pod("resumed", script=script, restartPolicy="OnFailure")
    eventually(lambda: jobs.pod("resumed"), lambda pod: pod is not None and run(pod) == {"nth": 0, "try": 1})
    jobs.plane.scripter.kill()
    jobs.delete_pod("resumed")
    pod = jobs.pod("resumed")
    assert pod is not None
    assert (pod["status"]["phase"], run(pod)) == ("Running", {"nth": 0, "try": 1})  # nobody plays it now
    jobs.plane.scripter.start()
    eventually(lambda: jobs.pod("resumed"), lambda found: found is None)


def test_a_pod_that_is_no_job_s_runs_until_it_is_deleted(jobs: Jobs) -> None:
    jobs.create_pod("server")
    eventually(lambda: jobs.pod("server"), lambda pod: pod is not None and ready(pod) == "True")
    jobs.delete_pod("server")
    eventually(lambda: jobs.pod("server"), lambda pod: pod is None)


def test_a_new_kwok_plays_new_pods_at_once(jobs: Jobs) -> None:
    jobs.plane.kwok.kill()
    jobs.plane.kwok.start()
    jobs.create("after-kwok")
    assert eventually(lambda: jobs.condition("after-kwok"), bool, seconds=15) == (
        "Complete",
        "CompletionsReached",
    )
