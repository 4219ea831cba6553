"""What a real API server makes of WorkerClusters and DispatchPolicies: the good ones pass with their defaults,
each impossible one is refused at once, by a message that says what is wrong.
"""

import json
import subprocess
from typing import Any

import pytest

from dispatcher.core import names
from hack.lab import Lab
from hack.lab.api import ApiError

pytestmark = pytest.mark.lab

Spec = dict[str, Any]

SECRET: Spec = {"kubeconfigSecretRef": {"name": "worker-1"}}


def weighing(weight: Any) -> Spec:
    return {"division": "Weighted", "clusters": {"worker-1": {"weight": weight}}}


def selecting(**expression: Any) -> Spec:
    return {"matchExpressions": [expression]}


def tolerating(**toleration: Any) -> Spec:
    return {"tolerations": [toleration]}


def failing_over(after: Any) -> Spec:
    return {"failover": {"after": after}}


GOOD_CLUSTERS: dict[str, Spec] = {
    "a Secret": SECRET,
    "a Secret's other key": {"kubeconfigSecretRef": {"name": "worker-1", "key": "admin_kubeconfig.yaml"}},
    "local": {"local": True},
    "a Secret and local false": SECRET | {"local": False},
    "everything": SECRET
    | {
        "weight": 10000,
        "taints": [
            {"key": "maintenance", "effect": "NoSchedule"},
            {"key": "maintenance", "effect": "NoExecute"},
            {"key": "example.com/gpu-only", "value": "yes", "effect": "NoSchedule"},
        ],
        "unschedulable": True,
        "capacity": {"parallelism": 30},
        "namespaceSelector": {
            "matchLabels": {"team": "blue"},
            "matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["default"]},
                {"key": "batch", "operator": "Exists"},
            ],
        },
        "createNamespace": True,
    },
    "weight 0": SECRET | {"weight": 0},
    "every namespace": SECRET | {"namespaceSelector": {}},
}

BAD_CLUSTERS: dict[str, tuple[Spec, str]] = {
    "nothing named": ({}, "no cluster is named"),
    "local false alone": ({"local": False}, "no cluster is named"),
    "both": (SECRET | {"local": True}, "exclude each other"),
    "a Secret without name": ({"kubeconfigSecretRef": {}}, "spec.kubeconfigSecretRef.name: Required value"),
    "a Secret of no valid name": ({"kubeconfigSecretRef": {"name": "Worker_1"}}, "not the name of a Secret"),
    "a Secret with an empty name": ({"kubeconfigSecretRef": {"name": ""}}, "not the name of a Secret"),
    "a key with a slash": ({"kubeconfigSecretRef": {"name": "a", "key": "a/b"}}, "not a key of a Secret"),
    "an unknown field": (SECRET | {"taint": []}, 'unknown field "spec.taint"'),
    "negative weight": (SECRET | {"weight": -1}, "greater than or equal to 0"),
    "huge weight": (SECRET | {"weight": 1_000_001}, "less than or equal to 1000000"),
    "weight as text": (SECRET | {"weight": "2"}, 'spec.weight in body must be of type integer: "string"'),
    "negative capacity": (SECRET | {"capacity": {"parallelism": -1}}, "greater than or equal to 0"),
    "huge capacity": (SECRET | {"capacity": {"parallelism": 2**31}}, "less than or equal to 2147483647"),
    "a taint without effect": (SECRET | {"taints": [{"key": "a"}]}, "spec.taints[0].effect: Required value"),
    "a taint of unknown effect": (
        SECRET | {"taints": [{"key": "a", "effect": "PreferNoSchedule"}]},
        'supported values: "NoSchedule", "NoExecute"',
    ),
    "a taint of no valid key": (
        SECRET | {"taints": [{"key": "a b", "effect": "NoSchedule"}]},
        "not the key of a taint",
    ),
    "a taint of no valid value": (
        SECRET | {"taints": [{"key": "a", "value": "-", "effect": "NoSchedule"}]},
        "not the value of a taint",
    ),
    "a taint twice": (SECRET | {"taints": [{"key": "a", "effect": "NoExecute"}] * 2}, "Duplicate value"),
    "a label's key": (
        SECRET | {"namespaceSelector": selecting(key="a b", operator="Exists")},
        "not the key of a label",
    ),
    "a label's value": (
        SECRET | {"namespaceSelector": {"matchLabels": {"team": "blue green"}}},
        "not the value of a label",
    ),
    "In without values": (
        SECRET | {"namespaceSelector": selecting(key="a", operator="In")},
        "In and NotIn need values",
    ),
    "Exists with values": (
        SECRET | {"namespaceSelector": selecting(key="a", operator="Exists", values=["b"])},
        "Exists and DoesNotExist take no values",
    ),
    "an unknown operator": (
        SECRET | {"namespaceSelector": selecting(key="a", operator="Gt", values=["1"])},
        'supported values: "In", "NotIn", "Exists", "DoesNotExist"',
    ),
}

GOOD_POLICIES: dict[str, Spec] = {
    "nothing": {},
    "weights": {
        "division": "Weighted",
        "clusters": {
            "worker-1": {"weight": 2, "minReplicas": 1, "maxReplicas": 1},
            "eu.west-2": {"weight": 0},
        },
    },
    "even with bounds": {"clusters": {"worker-1": {"minReplicas": 2}, "worker-2": {"maxReplicas": 0}}},
    "single": {"division": "Single", "maxClusters": 1},
    "everything": {
        "clusterSelector": {"matchLabels": {"region": "eu"}} | selecting(key="gpu", operator="DoesNotExist"),
        "tolerations": [
            {"operator": "Exists"},
            {"key": "maintenance", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "example.com/gpu-only", "value": "yes"},
        ],
        "division": "Available",
        "clusters": {"worker-1": {"weight": 1}},
        "minShare": 5,
        "maxClusters": 3,
        "failover": {"after": "1h30m", "unschedulableAfter": "10m"},
        "moveRunning": True,
        "rebalance": True,
        "stealUnstarted": True,
        "propagate": ["ConfigMap", "Secret"],
    },
    "never failing over": failing_over("off"),
    "failing over in hours, minutes and seconds": failing_over("999999h59m59s"),
    "the most clusters": {"clusters": {f"cluster-{number}": {"maxReplicas": 1} for number in range(256)}},
}

NOT_A_DURATION = "not a duration: write 30s, 5m or 1h30m"

BAD_POLICIES: dict[str, tuple[Spec, str]] = {
    "an unknown field": ({"rebalanced": True}, 'unknown field "spec.rebalanced"'),
    "an unknown division": (
        {"division": "Random"},
        'supported values: "Even", "Weighted", "Available", "Single"',
    ),
    "single over several": ({"division": "Single", "maxClusters": 2}, "contradicts maxClusters above 1"),
    "even with weights": ({"clusters": {"a": {"weight": 2}}}, "set division to Weighted"),
    "minimum above maximum": (
        {"clusters": {"a": {"minReplicas": 3, "maxReplicas": 2}}},
        "spec.clusters[a]: Invalid value: minReplicas is larger than maxReplicas",
    ),
    "a negative weight": (weighing(-1), "greater than or equal to 0"),
    "a huge weight": (weighing(10**9), "less than or equal to 1000000"),
    "a fraction": (weighing(1.5), "must be of type integer"),
    "a negative minimum": ({"clusters": {"a": {"minReplicas": -1}}}, "greater than or equal to 0"),
    "a huge minimum": ({"clusters": {"a": {"minReplicas": 2**31}}}, "less than or equal to 2147483647"),
    "a huge maximum": ({"clusters": {"a": {"maxReplicas": 2**63}}}, "must be of type integer"),
    "a cluster of no valid name": (
        {"clusters": {"worker-1": {}, "Worker_1": {}}},
        '"Worker_1" is not the name of a WorkerCluster',
    ),
    "too many clusters": (
        {"clusters": {f"cluster-{number}": {} for number in range(257)}},
        "must have at most 256 items",
    ),
    "a share of nothing": ({"minShare": 0}, "greater than or equal to 1"),
    "no clusters": ({"maxClusters": 0}, "greater than or equal to 1"),
    "an unknown kind": ({"propagate": ["ServiceAccount"]}, 'supported values: "ConfigMap", "Secret"'),
    "a kind twice": ({"propagate": ["Secret", "Secret"]}, "Duplicate value"),
    "a duration without unit": (failing_over("300"), NOT_A_DURATION),
    "a duration as number": (failing_over(300), 'must be of type string: "integer"'),
    "an empty duration": (failing_over(""), NOT_A_DURATION),
    "no duration": (failing_over("0s"), NOT_A_DURATION),
    "a negative duration": (failing_over("-5m"), NOT_A_DURATION),
    "a duration in words": (failing_over("5 minutes"), NOT_A_DURATION),
    "an unquoted off": (failing_over(False), 'must be of type string: "boolean"'),
    "the other duration": ({"failover": {"unschedulableAfter": "soon"}}, NOT_A_DURATION),
    "a toleration of nothing": (tolerating(effect="NoExecute"), "its operator must be Exists"),
    "a toleration with a value too many": (
        tolerating(key="a", operator="Exists", value="b"),
        "with the operator Exists takes no value",
    ),
    "a toleration that ends without reason": (
        tolerating(key="a", effect="NoSchedule", tolerationSeconds=1),
        "counts only with the effect NoExecute",
    ),
    "a toleration of no valid key": (tolerating(key="a b"), "not the key of a taint"),
    "a selector without values": ({"clusterSelector": selecting(key="a", operator="NotIn")}, "need values"),
}


def submit(lab: Lab, kind: str, spec: Spec, *, name: str = "tried") -> dict[str, Any]:
    """The object as the server would store it; nothing is stored.

    Raises ApiError with the server's message.
    """
    places = {"WorkerCluster": "workerclusters", "DispatchPolicy": "namespaces/default/dispatchpolicies"}
    api_version = f"{names.API_GROUP}/{names.API_VERSION}"
    manifest = {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec}
    path = f"/apis/{api_version}/{places[kind]}?dryRun=All&fieldValidation=Strict"
    return lab.management.api.create(path, manifest)


def refusal(lab: Lab, kind: str, spec: Spec, *, name: str = "tried") -> str:
    with pytest.raises(ApiError) as refused:
        submit(lab, kind, spec, name=name)
    assert refused.value.code in (400, 422)
    return str(refused.value)


def with_ids(table: dict[str, Any]) -> list[Any]:
    return [
        pytest.param(*(row if isinstance(row, tuple) else (row,)), id=name) for name, row in table.items()
    ]


@pytest.mark.parametrize("spec", with_ids(GOOD_CLUSTERS))
def test_a_good_cluster_is_kept_as_written(lab: Lab, spec: Spec) -> None:
    expected = {"weight": 1} | spec
    if reference := spec.get("kubeconfigSecretRef"):
        expected["kubeconfigSecretRef"] = {"key": "kubeconfig"} | reference
    assert submit(lab, "WorkerCluster", spec)["spec"] == expected


@pytest.mark.parametrize(("spec", "message"), with_ids(BAD_CLUSTERS))
def test_a_bad_cluster_is_refused(lab: Lab, spec: Spec, message: str) -> None:
    assert message in refusal(lab, "WorkerCluster", spec)


def test_a_clusters_name_fits_a_label(lab: Lab) -> None:
    submit(lab, "WorkerCluster", SECRET, name="a" * 63)
    assert "63 characters at most" in refusal(lab, "WorkerCluster", SECRET, name="a" * 64)


@pytest.mark.parametrize("spec", with_ids(GOOD_POLICIES))
def test_a_good_policy_is_kept_as_written(lab: Lab, spec: Spec) -> None:
    defaults = {"division": "Even", "moveRunning": False, "stealUnstarted": False, "stealAfter": "30s"}
    expected = defaults | spec
    expected["failover"] = {"after": "5m", "unschedulableAfter": "off"} | spec.get("failover", {})
    if tolerations := spec.get("tolerations"):
        expected["tolerations"] = [{"operator": "Equal"} | toleration for toleration in tolerations]
    assert submit(lab, "DispatchPolicy", spec)["spec"] == expected


@pytest.mark.parametrize(("spec", "message"), with_ids(BAD_POLICIES))
def test_a_bad_policy_is_refused(lab: Lab, spec: Spec, message: str) -> None:
    assert message in refusal(lab, "DispatchPolicy", spec)


def test_a_clusters_status_takes_what_the_controller_knows(lab: Lab) -> None:
    """Counts, identity and condition pass; a spec sent along is reset."""
    status = {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "ClusterChanged",
                "message": "the Secret leads to another cluster than before",
                "lastTransitionTime": "2026-01-02T03:04:05Z",
                "observedGeneration": 1,
            }
        ],
        "clusterUID": "8ebd0b80-3b08-4b64-a5d0-a4b3d95a4a5f",
        "serverVersion": "v1.36.3",
        "mirrors": 3,
        "activePods": 12,
    }
    sent = json.dumps({"status": status, "spec": {"weight": 7}})
    kubectl = [str(lab.kubectl), "--kubeconfig", str(lab.management.kubeconfig)]
    patch = ["patch", "workercluster", "worker-1", "--subresource=status", "--type=merge", "--patch", sent]
    answer = subprocess.run(
        [*kubectl, *patch, "--dry-run=server", "-o", "json"], capture_output=True, text=True, check=True
    )
    stored = json.loads(answer.stdout)
    assert stored["status"] == status
    assert stored["spec"]["weight"] == 1
