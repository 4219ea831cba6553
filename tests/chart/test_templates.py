"""What the charts render to, without a cluster: every values file, every refusal, the security of the pod."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.commands.run import run
from dispatcher.commands.worker_account import account_manifests
from hack.generate import generated
from hack.generate.files import CHARTS
from hack.generate.values import described, leaves, undescribed
from tests.chart.charts import VALUES_FILES, HelmRefused, Manifest, granted, helm, of_kind, only, render

NAMES = sorted(path.name for path in CHARTS.iterdir())
ALONE = {"replicaCount": 1, "leaderElection.enabled": False}


@pytest.mark.parametrize("path", VALUES_FILES, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_every_values_file_lints_and_renders(helm_program: Path, path: Path) -> None:
    chart = path.parents[1]
    helm(helm_program, "lint", "--strict", "--kube-version", "v1.36.3", chart, "--values", path)
    objects = render(helm_program, chart.name, files=(path,), namespace="elsewhere")
    for entry in objects:
        if not entry["metadata"]["name"].endswith(
            "-propagation"
        ):  # in the namespaces of propagation.namespaces
            assert entry["metadata"].get("namespace", "elsewhere") == "elsewhere"
        assert entry["metadata"]["labels"]["app.kubernetes.io/name"] == "job-dispatcher"
    names = [(it["kind"], it["metadata"]["name"]) for it in objects]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("chart", NAMES)
def test_every_value_is_described_and_in_the_schema(chart: str) -> None:
    text = (CHARTS / chart / "values.yaml").read_text()
    assert undescribed(text) == set()
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
    known = set(schema_paths(schema, schema.get("$defs", {})))
    for path in leaves(yaml.safe_load(text)):
        assert any(path == it or path.startswith(f"{it}.") for it in known), path
    described_paths = {value.path for value in described(text)}
    for path in known - {"global"}:
        inner = any(path == it or path.startswith(f"{it}.") for it in described_paths)
        assert inner or path.startswith("resources."), f"{path} is in the schema, but not in values.yaml"


def schema_paths(schema: dict[str, Any], defs: dict[str, Any], path: str = "") -> list[str]:
    """Dotted paths of what the schema's closed objects may hold, at the lowest level."""
    if "$ref" in schema:
        schema = defs[schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema:
        return [path]
    assert schema["additionalProperties"] is False, path
    return [
        found
        for key, inner in schema["properties"].items()
        for found in schema_paths(inner, defs, f"{path}.{key}" if path else key)
    ]


REFUSED = [
    ({"replicas": 2}, "replicas"),
    ({"image.tagg": "1"}, "tagg"),
    ({"image.tag": "a tag"}, "/image/tag"),
    ({"image.digest": "sha256:abc"}, "/image/digest"),
    ({"image.pullPolicy": "Sometimes"}, "/image/pullPolicy"),
    ({"replicaCount": "two"}, "/replicaCount"),
    ({"replicaCount": 3, "leaderElection.enabled": False}, "replicaCount 3 needs leaderElection.enabled"),
    ({"managedBy": "kubernetes.io/job-controller"}, "/managedBy"),
    ({"managedBy": "dispatcher"}, "/managedBy"),
    ({"concurrency": 0}, "/concurrency"),
    ({"workerMemoryLimit": 0}, "/workerMemoryLimit"),
    ({"settleTimeout": -1}, "/settleTimeout"),
    ({"logLevel": "loud"}, "/logLevel"),
    ({"logFormat": "xml"}, "/logFormat"),
    ({"leaderElection.enable": True}, "enable"),
    ({"leaderElection.leaseDuration": 0}, "/leaderElection/leaseDuration"),
    ({"leaderElection.shards": 65}, "/leaderElection/shards"),
    ({"leaderElection.shards": 0}, "/leaderElection/shards"),
    (
        {"replicaCount": 1, "leaderElection.enabled": False, "leaderElection.shards": 2},
        "leaderElection.shards 2 needs leaderElection.enabled",
    ),
    ({"crds.keep": "yes"}, "/crds/keep"),
    ({"rbac": True}, "/rbac"),
    ({"serviceAccount.name": "Not A Name"}, "/serviceAccount/name"),
    ({"metrics.port": 70000}, "/metrics/port"),
    ({"metrics.authentication": True}, "/metrics/authentication"),
    ({"serviceMonitor.interval": "often"}, "/serviceMonitor/interval"),
    ({"extraArgs": ["verbose"]}, "/extraArgs/0"),
    ({"extraEnv": [{"nam": "A"}]}, "/extraEnv/0"),
    ({"networkPolicy.apiServerPorts": []}, "/networkPolicy/apiServerPorts"),
    ({"networkPolicy.metricsFrom": []}, "/networkPolicy/metricsFrom"),
    ({"networkPolicy.dnsTo": []}, "/networkPolicy/dnsTo"),
    ({"networkPolicy.apiServersTo": ["10.0.0.0/24"]}, "/networkPolicy/apiServersTo/0"),
    ({"podDisruptionBudget.maxUnavailable": "half"}, "/podDisruptionBudget/maxUnavailable"),
    ({"admissionPolicies.protectPlacements": {}}, "protectPlacements"),
    ({"admissionPolicies.protectPlacement.breakGlassGroups": ["it's"]}, "breakGlassGroups/0"),
    ({"resources.limit": {}}, "limit"),
    ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0"),
]


@pytest.mark.parametrize(("values", "key"), REFUSED, ids=lambda it: it if isinstance(it, str) else None)
def test_a_wrong_value_is_refused_with_its_key(helm_program: Path, values: dict[str, Any], key: str) -> None:
    with pytest.raises(HelmRefused) as refusal:
        render(helm_program, values=values)
    assert key in str(refusal.value)


@pytest.mark.parametrize(
    ("values", "key"), [({"acountName": "x"}, "acountName"), ({"accountName": "Me"}, "/accountName")]
)
def test_the_workers_chart_refuses_too(helm_program: Path, values: dict[str, Any], key: str) -> None:
    with pytest.raises(HelmRefused) as refusal:
        render(helm_program, "job-dispatcher-worker", values=values)
    assert key in str(refusal.value)


def test_what_is_generated_is_up_to_date() -> None:
    for path, content in generated().items():
        assert path.read_text() == content, f"{path.name}: run `make generate`"


def options() -> set[str]:
    """The flags that `job-dispatcher run` has."""
    return {flag for parameter in run.params for flag in parameter.opts}


@pytest.mark.parametrize(
    "path", sorted((CHARTS / "job-dispatcher" / "ci").iterdir()), ids=lambda path: path.stem
)
def test_the_controller_has_every_flag_that_the_chart_gives(helm_program: Path, path: Path) -> None:
    container = pod_of(only(render(helm_program, files=(path,)), "Deployment"))["containers"][0]
    verb, *flags = container["args"]
    assert verb == "run"
    assert {flag.partition("=")[0] for flag in flags} <= options()


def pod_of(workload: Manifest) -> dict[str, Any]:
    """The pod's spec."""
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_the_pods_are_confined(helm_program: Path, kind: str) -> None:
    pod = pod_of(only(render(helm_program), kind))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    [container] = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    assert pod["enableServiceLinks"] is False
    assert only(render(helm_program), "ServiceAccount")["automountServiceAccountToken"] is False
    assert "privileged" not in json.dumps(pod)
    assert "hostPath" not in json.dumps(pod)


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_both_pods_reach_the_api_server_in_the_same_way(helm_program: Path, kind: str) -> None:
    variable = {"name": "KUBERNETES_SERVICE_HOST", "value": "10.0.0.1"}
    pod = pod_of(only(render(helm_program), kind))
    assert not {"hostNetwork", "dnsPolicy"} & pod.keys()
    pod = pod_of(only(render(helm_program, values={"hostNetwork": True, "extraEnv": [variable]}), kind))
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    assert pod["containers"][0]["env"] == [variable]


def test_what_is_optional_is_off(helm_program: Path) -> None:
    kinds = {it["kind"] for it in render(helm_program)}
    assert kinds == {
        "ClusterRole",
        "ClusterRoleBinding",
        "CustomResourceDefinition",
        "Deployment",
        "Job",
        "PodDisruptionBudget",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    }


def test_crds_are_kept_unless_told_otherwise(helm_program: Path) -> None:
    policy = "helm.sh/resource-policy"
    kept = of_kind(render(helm_program), "CustomResourceDefinition")
    assert len(kept) >= 2
    assert all(it["metadata"]["annotations"][policy] == "keep" for it in kept)
    dropped = of_kind(render(helm_program, values={"crds.keep": False}), "CustomResourceDefinition")
    assert [it["spec"] for it in dropped] == [it["spec"] for it in kept]
    assert not any(policy in it["metadata"].get("annotations", {}) for it in dropped)
    assert not of_kind(render(helm_program, values={"crds.enabled": False}), "CustomResourceDefinition")


def test_crds_are_the_files(helm_program: Path) -> None:
    files = (CHARTS / "job-dispatcher" / "files" / "crds").glob("*.yaml")
    specs = {it["metadata"]["name"]: it["spec"] for it in map(yaml.safe_load, map(Path.read_text, files))}
    rendered = of_kind(render(helm_program), "CustomResourceDefinition")
    assert {it["metadata"]["name"]: it["spec"] for it in rendered} == specs


def test_alerts_and_dashboards_are_the_files(helm_program: Path) -> None:
    files = CHARTS / "job-dispatcher" / "files"
    objects = render(
        helm_program,
        values={"prometheusRule.enabled": True, "dashboards.enabled": True, "crds.enabled": False},
    )
    alerts = {path.stem: yaml.safe_load(path.read_text()) for path in (files / "alerts").glob("*.yaml")}
    rules = {it["metadata"]["name"]: it["spec"] for it in of_kind(objects, "PrometheusRule")}
    assert rules == {f"job-dispatcher-{name}": content for name, content in alerts.items()}
    dashboards = {path.name: json.loads(path.read_text()) for path in (files / "dashboards").glob("*.json")}
    data = {key: json.loads(text) for it in of_kind(objects, "ConfigMap") for key, text in it["data"].items()}
    assert data == dashboards


def test_each_feature_brings_its_own_rights_only(helm_program: Path) -> None:
    bare = {**ALONE, "tokenRenewal.enabled": False, "crds.enabled": False, "rbac.aggregateRoles": False}
    core = set(granted(render(helm_program, values=bare)))
    features = {
        "leaderElection": {
            (verb, "leases", "coordination.k8s.io", "Role") for verb in ("list", "create", "update")
        },
        "tokenRenewal": {("update", "secrets", "", "Role")},
        "priorityOrder": {
            (verb, "priorityclasses", "scheduling.k8s.io", "ClusterRole") for verb in ("list", "watch")
        },
        "metrics.authentication": {
            ("create", "tokenreviews", "authentication.k8s.io", "ClusterRole"),
            ("create", "subjectaccessreviews", "authorization.k8s.io", "ClusterRole"),
        },
        "localCluster": {
            *((verb, "jobs", "batch", "ClusterRole") for verb in ("create", "patch", "delete")),
            ("patch", "jobs/status", "batch", "ClusterRole"),
        },
    }
    for feature, rights in features.items():
        assert not rights & core
        objects = render(helm_program, values={**bare, f"{feature}.enabled": True})
        assert set(granted(objects)) - core == rights, feature
    objects = render(helm_program, values={**bare, "propagation.namespaces": ["team", "batch"]})
    assert (
        set(granted(objects)) - core
        == {
            (verb, resource, "", "Role")
            for verb in ("get", "list", "watch")
            for resource in ("configmaps", "secrets")
        }
        - core
    )
    places = {
        it["metadata"]["namespace"] for it in objects if it["metadata"]["name"].endswith("-propagation")
    }
    assert places == {"team", "batch"}
    everywhere = set(granted(render(helm_program, values={**bare, "propagation.namespaces": ["*"]}))) - core
    assert ("watch", "secrets", "", "ClusterRole") in everywhere
    assert not [right for right in everywhere if right[3] == "Role"]


def test_servers_before_1_35_are_asked_whether_they_keep_the_field(helm_program: Path) -> None:
    probe = ("create", "jobs", "batch", "Role")
    assert probe in granted(render(helm_program, kubernetes="v1.34.2"))
    assert probe not in granted(render(helm_program, kubernetes="v1.35.0"))


def test_too_old_a_server_is_refused(helm_program: Path) -> None:
    with pytest.raises(HelmRefused, match="kubeVersion"):
        render(helm_program, kubernetes="v1.31.9")
    with pytest.raises(HelmRefused, match=r"defaultManagedBy.*MutatingAdmissionPolicy"):
        render(
            helm_program, kubernetes="v1.33.1", values={"admissionPolicies.defaultManagedBy.enabled": True}
        )


def test_one_replica_without_election_never_overlaps_the_next(helm_program: Path) -> None:
    strategy = only(render(helm_program, values=ALONE), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "Recreate"}
    assert only(render(helm_program), "Deployment")["spec"]["strategy"]["type"] == "RollingUpdate"


def test_by_default_a_second_replica_waits_on_another_node_and_drains_leave_one(helm_program: Path) -> None:
    objects = render(helm_program)
    deployment = only(objects, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    pod = pod_of(deployment)
    assert "--leader-elect" in pod["containers"][0]["args"]
    labels = deployment["spec"]["selector"]["matchLabels"]
    [spread] = pod["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway", "a cluster of one node gets both"
    budget = only(objects, "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["selector"]["matchLabels"]) == (1, labels)


@pytest.mark.parametrize(
    "values", [{"replicaCount": 1}, ALONE, {"replicaCount": 0}, {"podDisruptionBudget.enabled": False}]
)
def test_a_budget_never_holds_up_the_drain_of_a_single_replica(
    helm_program: Path, values: dict[str, Any]
) -> None:
    assert not of_kind(render(helm_program, values=values), "PodDisruptionBudget")


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 1},
        {"affinity": {"nodeAffinity": {}}},
        {"topologySpreadConstraints": [{"topologyKey": "zone"}]},
    ],
)
def test_ones_own_placement_of_pods_is_all_there_is(helm_program: Path, values: dict[str, Any]) -> None:
    pod = pod_of(only(render(helm_program, values=values), "Deployment"))
    assert pod.get("topologySpreadConstraints", []) == values.get("topologySpreadConstraints", [])


def test_shards_are_a_value(helm_program: Path) -> None:
    def arguments(shards: int) -> list[str]:
        values = {"leaderElection.shards": shards}
        given: list[str] = pod_of(only(render(helm_program, values=values), "Deployment"))["containers"][0][
            "args"
        ]
        assert "--leader-elect" in given
        return [it for it in given if it.startswith("--shards")]

    assert arguments(4) == ["--shards=4"]
    assert arguments(1) == []
    assert "--shards" in options()


@pytest.mark.parametrize("places", [[], ["team", "batch"], ["*"]])
@pytest.mark.parametrize("renewal", [True, False])
def test_the_workers_chart_is_what_join_makes(helm_program: Path, renewal: bool, places: list[str]) -> None:
    objects = render(
        helm_program,
        "job-dispatcher-worker",
        values={"accountName": "mine", "tokenRenewal.enabled": renewal, "propagation.namespaces": places},
        namespace="there",
    )
    features = ("core", "tokenRenewal") if renewal else ("core",)
    made = account_manifests(
        namespace="there", account="mine", features=features, manager="Helm", propagation_namespaces=places
    )

    def by_name(entry: Manifest) -> tuple[str, str]:
        return entry["kind"], entry["metadata"]["name"]

    assert sorted(objects, key=by_name) == sorted(made, key=by_name)


@pytest.mark.parametrize("feature", ["nodes", "view"])
def test_a_workers_features_bring_their_own_rights(helm_program: Path, feature: str) -> None:
    objects = render(
        helm_program,
        "job-dispatcher-worker",
        values={"accountName": "mine", f"{feature}.enabled": True},
        namespace="there",
    )
    made = account_manifests(
        namespace="there", account="mine", features=("core", "tokenRenewal", feature), manager="Helm"
    )
    assert of_kind(objects, "ClusterRole") == of_kind(made, "ClusterRole")


@pytest.mark.parametrize("served", [False, True])
def test_the_network_policy_lets_api_servers_in_where_the_view_is_served(
    helm_program: Path, served: bool
) -> None:
    values = {"networkPolicy.enabled": True, "view.enabled": served, "networkPolicy.apiServersTo": []}
    objects = render(helm_program, values=values)
    ingress = only(objects, "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in ingress for port in rule["ports"]] == ["metrics", *["view"] * served]
    container = pod_of(only(objects, "Deployment"))["containers"][0]
    assert [port["name"] for port in container["ports"]] == ["metrics", *["view"] * served]


def test_the_network_policy_lets_in_and_out_what_is_needed_and_nothing_by_default_from_outside(
    helm_program: Path,
) -> None:
    policy = only(render(helm_program, values={"networkPolicy.enabled": True}), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["from"] for rule in policy["ingress"]] == [[{"namespaceSelector": {}}]]
    names, servers = policy["egress"]
    assert {port["port"] for port in names["ports"]} == {53}
    assert names["to"] == [{"namespaceSelector": {}}, {"ipBlock": {"cidr": "169.254.20.10/32"}}]
    assert {port["port"] for port in servers["ports"]} == {443, 6443}
    assert "to" not in servers, "where the workers are is not known"
    block = [{"ipBlock": {"cidr": "10.0.0.0/24"}}]
    values = {
        "networkPolicy.enabled": True,
        "networkPolicy.apiServersTo": block,
        "networkPolicy.dnsTo": block,
    }
    for rule in only(render(helm_program, values=values), "NetworkPolicy")["spec"]["egress"]:
        assert rule["to"] == block


def test_the_network_policy_holds_for_all_pods_of_the_release_and_no_other(helm_program: Path) -> None:
    objects = render(helm_program, values={"networkPolicy.enabled": True})
    selector = only(objects, "NetworkPolicy")["spec"]["podSelector"]
    [expression] = selector["matchExpressions"]
    for kind in ("Deployment", "Job"):
        labels = only(objects, kind)["spec"]["template"]["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
        assert labels[expression["key"]] in expression["values"]


FEATURES: dict[str, Any] = {
    "leaderElection.enabled": True,
    "priorityOrder.enabled": True,
    "localCluster.enabled": True,
    "metrics.authentication.enabled": True,
    "propagation.namespaces": ["team"],
    "view.enabled": True,
}


@pytest.mark.parametrize(
    ("place", "chart", "values"),
    [
        ("management", "job-dispatcher", FEATURES),
        (
            "worker",
            "job-dispatcher-worker",
            {
                "nodes.enabled": True,
                "view.enabled": True,
                "createNamespace.enabled": True,
                "propagation.namespaces": ["team"],
            },
        ),
    ],
    ids=["management", "worker"],
)
def test_the_table_of_rights_is_what_the_charts_give_with_everything_on(
    helm_program: Path, place: str, chart: str, values: dict[str, Any]
) -> None:
    """Both ways: docs/security.md says nothing that is not so, and leaves nothing out."""
    objects = render(helm_program, chart, values=values, kubernetes="v1.34.2")
    given = {(verb, resource, group, kind) for verb, resource, group, kind in granted(objects)}
    assert not [it for it in given if "*" in it], "no wildcards"
    assert told(place) == given


def told(place: str) -> set[tuple[str, str, str, str]]:
    """The rights in a table of docs/security.md, as ``granted`` gives them."""
    text = (CHARTS.parent / "docs" / "security.md").read_text()
    table = text.split(f"<!-- rights: {place} -->")[1].split("<!-- end -->")[0]
    found = set()
    for row in table.strip().splitlines()[2:]:
        verbs, resources, where, why, when = (cell.strip() for cell in row.strip("|").split("|"))
        assert why
        assert when
        group = re.search(r"\(([a-z0-9.]+)\)", resources)
        for resource in re.findall(r"`([a-z/]+)`", resources):
            for verb in verbs.split(", "):
                kind = "ClusterRole" if where == "cluster-wide" else "Role"
                found.add((verb, resource, group[1] if group else "", kind))
    return found
