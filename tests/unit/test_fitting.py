"""How many pods fit on nodes: quantities, requests, and the scheduler's filters that need no other pods."""

from fractions import Fraction
from typing import Any

import pytest

from dispatcher.core.candidates import free, policy_preferences
from dispatcher.core.decision import decide
from dispatcher.core.fitting import Node, how_many_fit, may_run_on, pod_requests, quantity, read_node, take
from dispatcher.core.policy import Division, Policy
from tests.unit.scene import Manifest, clusters, job_manifest, observe, placement_of, written
from tests.unit.test_leaving import A, B

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("2", 2),
        ("500m", Fraction(1, 2)),
        ("1.5", Fraction(3, 2)),
        ("100n", Fraction(1, 10**7)),
        ("64Mi", 64 * 2**20),
        ("1.5Gi", 3 * GIB // 2),
        ("1k", 1000),
        ("3M", 3_000_000),
        ("1e3", 1000),
        ("2E3", 2000),
        ("1E", 10**18),
        ("1Ei", 2**60),
    ],
)
def test_quantities(text: str, amount: Fraction | int) -> None:
    assert quantity(text) == amount


@pytest.mark.parametrize("text", ["", "m", "1 Gi", "1GB", "1mi", "x", "1ee3", "--1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        quantity(text)


def container(cpu: str = "", *, limit: str = "", **fields: Any) -> Manifest:
    resources: Manifest = {"requests": {"cpu": cpu}} if cpu else {}
    if limit:
        resources["limits"] = {"cpu": limit}
    return {"name": "c", "resources": resources, **fields}


@pytest.mark.parametrize(
    ("spec", "cpu"),
    [
        ({"containers": [container("1"), container("500m")]}, Fraction(3, 2)),
        ({"containers": [container()]}, 0),
        ({"containers": [container(limit="3")]}, 3),
        ({"containers": [container("1", limit="3")]}, 1),
        ({"containers": [container("1")], "initContainers": [container("4"), container("2")]}, 4),
        (
            {
                "containers": [container("1")],
                "initContainers": [container("1", restartPolicy="Always"), container("2")],
            },
            3,
        ),
        ({"containers": [container("1")], "overhead": {"cpu": "250m"}}, Fraction(5, 4)),
        ({"containers": [container("1")], "resources": {"requests": {"cpu": "4"}}}, 4),
    ],
)
def test_requests_of_a_pod(spec: Manifest, cpu: Fraction | int) -> None:
    assert pod_requests(spec).get("cpu", 0) == cpu
    assert pod_requests(spec)["pods"] == 1


def node_manifest(name: str = "n1", *, ready: bool = True, cpu: str = "8", **spec: Any) -> Manifest:
    status = {
        "allocatable": {"cpu": cpu, "memory": "16Gi", "pods": "110"},
        "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
    }
    return {"metadata": {"name": name, "labels": {"zone": "a", "size": "9"}}, "spec": spec, "status": status}


def node(**fields: Any) -> Node:
    found = read_node(node_manifest(**fields))
    assert found is not None
    return found


def test_a_node_that_is_not_ready_has_nothing() -> None:
    assert read_node(node_manifest(ready=False)) is None


def affinity(*terms: Manifest) -> Manifest:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def expression(key: str, operator: str, *values: str) -> Manifest:
    return {"key": key, "operator": operator, "values": list(values)}


ZONE_B, NAMED = expression("zone", "In", "b"), expression("metadata.name", "In", "n1")
CORDON = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}
TAINTED = {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}
WHERE: list[tuple[Manifest, Manifest, bool]] = [
    ({}, {}, True),
    ({}, {"nodeSelector": {"zone": "a"}}, True),
    ({}, {"nodeSelector": {"zone": "b"}}, False),
    ({}, {"nodeName": "n1"}, True),
    ({}, {"nodeName": "n2"}, False),
    ({}, affinity({"matchExpressions": [expression("zone", "In", "a", "b")]}), True),
    ({}, affinity({"matchExpressions": [expression("zone", "NotIn", "a")]}), False),
    ({}, affinity({"matchExpressions": [expression("rack", "NotIn", "a")]}), True),
    ({}, affinity({"matchExpressions": [expression("rack", "Exists")]}), False),
    ({}, affinity({"matchExpressions": [expression("rack", "DoesNotExist")]}), True),
    ({}, affinity({"matchExpressions": [expression("size", "Gt", "8")]}), True),
    ({}, affinity({"matchExpressions": [expression("size", "Lt", "9")]}), False),
    ({}, affinity({"matchExpressions": [expression("zone", "Gt", "8")]}), False),
    ({}, affinity({"matchFields": [expression("metadata.name", "In", "n1")]}), True),
    ({}, affinity({}), False),
    ({}, affinity({"matchExpressions": [ZONE_B]}, {"matchFields": [NAMED]}), True),
    (TAINTED, {}, False),
    (TAINTED, {"tolerations": [{"key": "gpu", "operator": "Exists"}]}, True),
    (TAINTED, {"tolerations": [{"key": "gpu", "value": "yes"}]}, True),
    (TAINTED, {"tolerations": [{"key": "gpu", "value": "no"}]}, False),
    (TAINTED, {"tolerations": [{"key": "gpu", "value": "yes", "effect": "NoExecute"}]}, False),
    (TAINTED, {"tolerations": [{"operator": "Exists"}]}, True),
    ({"taints": [{"key": "a", "effect": "PreferNoSchedule"}]}, {}, True),
    ({"unschedulable": True}, {}, False),
    ({"unschedulable": True}, {"tolerations": [CORDON]}, True),
]  # fmt: skip


@pytest.mark.parametrize(("of_node", "spec", "may"), WHERE)
def test_where_a_pod_may_run(of_node: Manifest, spec: Manifest, may: bool) -> None:
    assert may_run_on(node(**of_node), spec) is may


def test_what_runs_is_taken_off() -> None:
    nodes = {"n1": node(), "n2": node(name="n2")}
    spec = {"containers": [container("3")]}
    assert how_many_fit(nodes.values(), spec) == 4
    running = {"spec": {**spec, "nodeName": "n1"}, "status": {"phase": "Running"}}
    take(nodes, running)
    assert how_many_fit(nodes.values(), spec) == 3
    take(nodes, {**running, "status": {"phase": "Succeeded"}})
    take(nodes, {"spec": spec, "status": {"phase": "Pending"}})  # not on a node yet
    assert how_many_fit(nodes.values(), spec) == 3
    for _ in range(3):
        take(nodes, running)
    assert how_many_fit(nodes.values(), spec) == 2, "a node that is overfull counts for nothing, not less"


def test_pods_without_requests_are_bounded_by_the_nodes_pods() -> None:
    assert how_many_fit([node()], {"containers": [container()]}) == 110


def test_a_resource_that_no_node_has() -> None:
    wanted = {"containers": [{"resources": {"limits": {"example.com/gpu": "1"}}}]}
    assert how_many_fit([node()], wanted) == 0


def test_available_divides_by_what_fits() -> None:
    policy = Policy(name="p", division=Division.AVAILABLE)
    job = job_manifest(parallelism=9, completions=18)
    found = observe(job, policy=policy, fits={A: 10, B: 20})
    placed = placement_of(written(decide(found)))
    assert [(s.cluster, s.parallelism, s.completions) for s in placed.shares] == [("a", 3, 6), ("b", 6, 12)]


@pytest.mark.parametrize(
    ("room", "fits", "weights"),
    [
        ({}, {}, [1, 1]),
        ({A: 5, B: 7}, {}, [5, 7]),
        ({A: 5, B: 7}, {A: 3, B: 90}, [3, 7]),
        ({}, {A: 0, B: 4}, [0, 4]),
        ({}, {A: 0, B: 0}, [1, 1]),
        ({}, {A: 6}, [6, 6]),
        ({A: 0, B: 7}, {}, [1, 7]),
    ],
)
def test_weights_of_what_is_free(room: Any, fits: Any, weights: list[int]) -> None:
    policy = Policy(name="p", division=Division.AVAILABLE)
    found = observe(job_manifest(), policy=policy, room=room, fits=fits)
    preferences = policy_preferences(policy, clusters("a", "b"), free(found))
    assert [preferences.clusters[name].weight for name in (A, B)] == weights
