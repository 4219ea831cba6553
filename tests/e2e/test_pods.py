"""What a program in a pod sees, and what its exit codes and restarts do."""

from __future__ import annotations

import re

import pytest

from tests.e2e.work import ON_NODE, SLEEPS, WAITS, Work, eventually, phases, restarts

pytestmark = pytest.mark.lab

INDEX_FILE = {
    "name": "input",
    "downwardAPI": {
        "items": [
            {
                "path": "index",
                "fieldRef": {"fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"},
            }
        ]
    },
}


def test_an_index_is_in_the_environment_in_a_file_and_in_the_hostname(work: Work) -> None:
    work.create(
        "indexed",
        'echo "$JOB_COMPLETION_INDEX $(cat /input/index) $(hostname)"',
        container={"volumeMounts": [{"name": "input", "mountPath": "/input"}]},
        volumes=[INDEX_FILE],
        completionMode="Indexed",
        completions=6,
        parallelism=4,
    )
    kind, _, status = work.ended("indexed")
    assert (kind, status["succeeded"], status["completedIndexes"]) == ("Complete", 6, "0-5")
    lines = work.logs("indexed")
    said = {re.sub(r"^\[.*?] ", "", line) for line in lines}
    assert said == {f"{index} {index} indexed-{index}" for index in range(6)}
    assert {line.split("/")[0] for line in lines} == {"[worker-1", "[worker-2"}
    assert work.logs("indexed", "--index", "3", "--no-prefix") == ["3 3 indexed-3"]


def test_a_follow_shows_what_is_written_while_it_is_written(work: Work) -> None:
    script = 'for tick in 1 2 3; do echo "tick $tick of $JOB_COMPLETION_INDEX"; sleep 1; done'
    work.create("ticking", script, completionMode="Indexed", completions=4, parallelism=2)
    lines = work.logs("ticking", "-f", "--no-prefix")
    assert sorted(lines) == [f"tick {tick} of {index}" for tick in (1, 2, 3) for index in range(4)]
    for index in range(4):
        own = [line for line in lines if line.endswith(f"of {index}")]
        assert own == [f"tick {tick} of {index}" for tick in (1, 2, 3)]
    assert work.ended("ticking")[0] == "Complete"


def test_a_container_that_fails_is_restarted_in_its_pod_and_its_first_log_is_kept(work: Work) -> None:
    script = (
        f"if [ -e /state/tried ]; then echo second; else touch /state/tried; echo first; exit 3; fi; {WAITS}"
    )
    work.create(
        "again",
        script,
        restart="OnFailure",
        container={"volumeMounts": [*ON_NODE["volumeMounts"], {"name": "state", "mountPath": "/state"}]},
        volumes=[*work.node, {"name": "state", "emptyDir": {}}],
        completions=2,
        parallelism=2,
    )
    eventually(
        lambda: [restarts(work.pods(plane, "again")) for plane in work.lab.workers],
        lambda counts: counts == [[1], [1]],
    )
    eventually(
        lambda: work.plugin.run("logs", "again", "--no-prefix").stdout,
        lambda said: said == "second\nsecond\n",
    )
    # A kubelet keeps the log of one ended container: when the second one has ended too, this one is gone.
    assert work.logs("again", "--previous", "--no-prefix") == ["first", "first"]
    work.let_go()
    kind, _, status = work.ended("again")
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 2, 0)
    assert [restarts(work.pods(plane, "again")) for plane in work.lab.workers] == [[1], [1]]


def test_restarts_count_against_the_backoff_limit(work: Work) -> None:
    work.create("hopeless", "exit 3", restart="OnFailure", completions=2, parallelism=2, backoffLimit=1)
    kind, reason, status = work.ended("hopeless")
    assert (kind, reason) == ("Failed", "BackoffLimitExceeded")
    assert status.get("active", 0) == 0
    assert status["failed"] >= 1
    for plane in work.lab.workers:
        eventually(lambda plane=plane: phases(work.pods(plane, "hopeless")), lambda now: "Running" not in now)  # type: ignore[misc]


def test_one_exit_code_fails_the_job_on_both_clusters(work: Work) -> None:
    script = f'if [ "$JOB_COMPLETION_INDEX" = 3 ]; then exit 42; fi; {SLEEPS}'
    rule = {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}}
    work.create(
        "policy",
        script,
        completionMode="Indexed",
        completions=4,
        parallelism=4,
        podFailurePolicy={"rules": [rule]},
    )
    kind, reason, status = work.ended("policy")
    assert (kind, reason) == ("Failed", "PodFailurePolicy")
    assert "index 3" in str(status["conditions"]) or "42" in str(status["conditions"])
    assert status.get("active", 0) == 0
    for plane in work.lab.workers:
        assert "Running" not in phases(work.pods(plane, "policy"))


def test_an_ignored_exit_code_is_tried_again_without_being_counted(work: Work) -> None:
    # The second pod is another pod on the same node: what tells it apart is a file of the node's.
    script = 'if [ -e "/node/$JOB_COMPLETION_INDEX" ]; then exit 0; fi; touch "/node/$JOB_COMPLETION_INDEX"; exit 7'
    rule = {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}}
    work.create(
        "ignored",
        script,
        container=ON_NODE,
        volumes=work.node,
        completionMode="Indexed",
        completions=2,
        parallelism=2,
        backoffLimit=0,
        podFailurePolicy={"rules": [rule]},
    )
    kind, _, status = work.ended("ignored")
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 2, 0)


def test_a_deadline_ends_what_runs(work: Work) -> None:
    work.create("late", SLEEPS, completions=2, parallelism=2, activeDeadlineSeconds=5)
    kind, reason, status = work.ended("late")
    assert (kind, reason, status.get("active", 0)) == ("Failed", "DeadlineExceeded", 0)
    for plane in work.lab.workers:
        assert "Running" not in phases(work.pods(plane, "late"))


def test_a_suspended_job_ends_its_pods_and_goes_on_where_it_was(work: Work) -> None:
    script = f"case $JOB_COMPLETION_INDEX in [02]) exit 0;; esac; {WAITS}"
    work.create(
        "paused",
        script,
        container=ON_NODE,
        volumes=work.node,
        completionMode="Indexed",
        completions=4,
        parallelism=4,
    )
    eventually(lambda: work.get("paused")["status"], lambda status: status.get("completedIndexes") == "0,2")
    work.runs_on_both("paused", pods=2)
    work.update("paused", suspend=True)
    status = eventually(
        lambda: work.get("paused")["status"],
        lambda status: (
            status.get("active", 0) == 0
            and any(
                entry["type"] == "Suspended" and entry["status"] == "True" for entry in status["conditions"]
            )
        ),
    )
    assert status["completedIndexes"] == "0,2"
    # As on one cluster, a pod that is being ended does not count as active.
    eventually(lambda: work.running("paused"), lambda found: found == {})
    work.let_go()
    work.update("paused", suspend=False)
    kind, _, status = work.ended("paused")
    assert (kind, status["completedIndexes"], status.get("failed", 0)) == ("Complete", "0-3", 0)
