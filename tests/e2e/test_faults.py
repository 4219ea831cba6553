"""Pods run on while what manages them is killed; a lost cluster's work runs elsewhere."""

from __future__ import annotations

import pytest

from hack.lab import Plane
from hack.lab.kubelet import machine
from tests.e2e.conftest import Dispatcher
from tests.e2e.work import ON_NODE, SLEEPS, WAITS, Work, eventually, is_gone, phases, restarts

pytestmark = pytest.mark.lab

FAILOVER_SECONDS = 10


def test_pods_end_while_the_dispatcher_is_away(work: Work, dispatcher: Dispatcher) -> None:
    script = f"{WAITS}; echo done"
    work.create("alone", script, container=ON_NODE, volumes=work.node, completions=4, parallelism=4)
    work.runs_on_both("alone", pods=4)
    dispatcher.controller.kill()
    try:
        work.let_go()
        for plane in work.lab.workers:
            eventually(
                lambda plane=plane: phases(work.pods(plane, "alone")),  # type: ignore[misc]
                lambda now: now == ["Succeeded", "Succeeded"],
            )
        assert work.get("alone")["status"].get("succeeded", 0) == 0
    finally:
        dispatcher.start()
    kind, _, status = work.ended("alone")
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 4, 0)
    assert sum(len(work.pods(plane, "alone")) for plane in work.lab.workers) == 4
    eventually(
        lambda: work.plugin.run("logs", "alone", "--no-prefix").stdout.splitlines(),
        lambda said: said == ["done"] * 4,
    )


def test_containers_outlive_their_kubelet(work: Work) -> None:
    work.create("outlives", WAITS, container=ON_NODE, volumes=work.node, completions=2, parallelism=2)
    work.runs_on_both("outlives", pods=2)
    kubelet = work.lab.worker(1).kubelet
    kubelet.kill()
    try:
        work.let_go()
        eventually(lambda: work.get("outlives")["status"].get("succeeded"), lambda count: count == 1)
    finally:
        work.lab.worker(1).start()
    kind, _, status = work.ended("outlives")
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 2, 0)
    for plane in work.lab.workers:
        assert restarts(work.pods(plane, "outlives")) == [0]


def test_a_lost_clusters_work_runs_elsewhere(work: Work) -> None:
    lost, other = work.lab.workers
    work.policy(failover={"after": f"{FAILOVER_SECONDS}s"})
    # On the first cluster, nothing but index 0 ever ends.
    script = f'case "$JOB_COMPLETION_INDEX-$NODE" in [1-9]-{lost.name}-*) {SLEEPS};; esac; echo "$NODE"'
    node = {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    work.create(
        "moved", script, container={"env": [node]}, completionMode="Indexed", completions=6, parallelism=6
    )
    eventually(lambda: work.get("moved")["status"].get("completedIndexes"), lambda done: done == "0,3-5")
    kill(lost)
    try:
        kind, _, status = work.ended("moved")
        assert (kind, status["completedIndexes"], status.get("failed", 0)) == ("Complete", "0-5", 0)
        ran = {
            pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]
            for pod in work.pods(other, "moved")
        }
        assert ran == set("12345"), "only what was unfinished moved"
    finally:
        lost.start()
    eventually(lambda: is_gone(lost, f"/apis/batch/v1/namespaces/{work.namespace}/jobs/moved"), bool)
    assert work.get("moved")["status"] == status, "nothing is counted twice"


def kill(plane: Plane) -> None:
    """Ends the control plane, the kubelet, containerd and all pods: only the node's empty namespace is left."""
    for component in reversed(plane.components):
        if component.name != "node":
            component.kill()
    machine.end_pods(plane.folder.parent, plane=plane.name)
