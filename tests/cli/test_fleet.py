"""clusters, cordon, uncordon, drain, forget and top on real planes."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from hack.lab import Lab
from hack.running.controller import Controller
from tests.cli.plugin import Plugin, manifest, wait_until

CLUSTERS = "/apis/jobdispatcher.io/v1alpha1/workerclusters"


@pytest.fixture(autouse=True)
def open_clusters(lab: Lab) -> Iterator[None]:
    """Every test leaves the shared clusters as they were."""
    yield
    admin = Plugin(lab.management.kubeconfig, None)
    admin.ok("uncordon", *(plane.name for plane in lab.workers))


@pytest.fixture
def dead(lab: Lab) -> Iterator[str]:
    """A WorkerCluster whose cluster is not there."""
    name = f"dead-{uuid.uuid4().hex[:6]}"
    spec = {"kubeconfigSecretRef": {"name": name}}
    lab.management.api.apply(
        {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "WorkerCluster",
            "metadata": {"name": name},
            "spec": spec,
        }
    )
    yield name
    if name in names(lab):
        lab.management.api.delete(f"{CLUSTERS}/{name}")


def test_the_fleet(plugin: Plugin, controller: Controller) -> None:
    header, *lines = plugin.ok("clusters").splitlines()
    assert header.split() == [
        *("NAME", "READY", "REASON", "VERSION", "ACTIVE", "CAPACITY", "UNSCHEDULABLE", "TAINTS", "AGE")
    ]
    assert [line.split()[:3] for line in lines] == [[f"worker-{n}", "True", "Connected"] for n in (1, 2, 3)]
    one = json.loads(plugin.ok("clusters", "worker-2", "-o", "json"))
    assert (one["kind"], one["metadata"]["name"]) == ("WorkerCluster", "worker-2")
    assert "the API server answers" in plugin.ok("clusters", "-o", "wide", "--no-headers")
    assert plugin.run("clusters", "-l", "none=there").stderr == "No worker clusters found.\n"


def test_a_cordoned_cluster_gets_no_work(plugin: Plugin, lab: Lab, controller: Controller) -> None:
    assert plugin.ok("cordon", "worker-1") == "workercluster.jobdispatcher.io/worker-1 cordoned\n"
    assert plugin.ok("cordon", "worker-1") == "workercluster.jobdispatcher.io/worker-1 already cordoned\n"
    wait_until(lambda: noticed(lab, "worker-1"))
    text = manifest("x", completions=4, parallelism=4)
    plugin.ok("submit", "-f", "-", "--wait", input=text)
    assert plugin.ok("get", "x", "--no-headers").split()[5] == "worker-2:2/2,worker-3:2/2"
    assert plugin.ok("uncordon", "worker-1") == "workercluster.jobdispatcher.io/worker-1 uncordoned\n"
    assert plugin.ok("uncordon", "worker-1") == "workercluster.jobdispatcher.io/worker-1 already uncordoned\n"


def test_draining_waits_until_no_work_is_left(plugin: Plugin, lab: Lab, controller: Controller) -> None:
    text = manifest("x", completions=2, parallelism=2, script=[{"after": "4s"}])
    plugin.ok("submit", "-f", "-", "--clusters", "worker-1", input=text)
    wait_until(lambda: "worker-1" in plugin.ok("get", "x"))
    said = plugin.ok("drain", "worker-1", "--timeout", "50s").splitlines()
    assert said[0] == "workercluster.jobdispatcher.io/worker-1 cordoned"
    assert f"1 Job with unfinished work on worker-1: {plugin.namespace}/x (" in said[1]
    assert f"{plugin.namespace}/x has nothing left on worker-1" in said
    assert said[-1] == "workercluster.jobdispatcher.io/worker-1 drained"
    [row] = plugin.ok("clusters", "worker-1", "--no-headers").splitlines()
    assert row.split()[6:8] == ["true", "jobdispatcher.io/drain:NoExecute"]


def test_uncordon_takes_back_draining_and_nothing_else(plugin: Plugin, lab: Lab) -> None:
    taint = {"key": "mine", "value": "x", "effect": "NoSchedule"}
    _set_taints(lab, "worker-3", [taint])
    try:
        assert plugin.ok("drain", "worker-3", "--no-wait").splitlines() == [
            "workercluster.jobdispatcher.io/worker-3 cordoned"
        ]
        assert len(spec(lab, "worker-3")["taints"]) == 2
        plugin.ok("uncordon", "worker-3")
        assert spec(lab, "worker-3")["taints"] == [taint]
        assert "unschedulable" not in spec(lab, "worker-3")
    finally:
        _set_taints(lab, "worker-3", [])


def test_forgetting_a_dead_cluster(plugin: Plugin, lab: Lab, dead: str) -> None:
    assert "give --yes" in plugin.refused("forget", dead, code=2)
    assert plugin.ok("forget", dead, "--yes") == f"workercluster.jobdispatcher.io/{dead} forgotten\n"
    assert dead not in names(lab)
    assert "NotFound" in plugin.refused("forget", dead, "--yes")


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_a_person_is_asked(plugin: Plugin, lab: Lab, dead: str, answer: str, code: int) -> None:
    session = plugin.on_a_terminal("forget", dead)
    session.read_until(f"Forget {dead}?")
    session.type(answer)
    assert session.end() == code
    assert (dead in names(lab)) == bool(code)


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "drain"])
def test_a_cluster_that_there_is_not(plugin: Plugin, verb: str) -> None:
    complaint = 'Error from server (NotFound): workerclusters.jobdispatcher.io "moon" not found\n'
    assert plugin.refused(verb, "moon") == complaint


def test_top_prints_once_where_there_is_no_terminal(plugin: Plugin, controller: Controller) -> None:
    plugin.ok("submit", "-f", "-", "--wait", input=manifest("x"))
    said = plugin.ok("top")
    assert "clusters 3/3 ready" in said
    assert "1 complete" in said
    assert [line.split()[1:3] for line in said.splitlines() if " x " in line] == [["x", "Complete"]]


def noticed(lab: Lab, name: str) -> bool:
    """Whether the dispatcher has seen the present spec."""
    found = lab.management.api.get(f"{CLUSTERS}/{name}")
    [ready] = [entry for entry in found["status"]["conditions"] if entry["type"] == "Ready"]
    return bool(ready["observedGeneration"] >= found["metadata"]["generation"])


def names(lab: Lab) -> list[str]:
    """The WorkerClusters that there are."""
    return [item["metadata"]["name"] for item in lab.management.api.get(CLUSTERS)["items"]]


def spec(lab: Lab, name: str) -> dict[str, Any]:
    """The spec of a WorkerCluster."""
    found: dict[str, Any] = lab.management.api.get(f"{CLUSTERS}/{name}")["spec"]
    return found


def _set_taints(lab: Lab, name: str, taints: list[dict[str, str]]) -> None:
    secret = {"kubeconfigSecretRef": spec(lab, name)["kubeconfigSecretRef"]}
    lab.management.api.apply(
        {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "WorkerCluster",
            "metadata": {"name": name},
            "spec": {**secret, **({"taints": taints} if taints else {})},
        }
    )
