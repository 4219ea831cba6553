"""The controller's account on a worker cluster, as manifests: what `kubectl dispatch join` makes there.

Its rights stand in ``worker_rbac.yaml``, which is the worker chart's own file.
"""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any, Final

import yaml

Manifest = dict[str, Any]

CORE: Final = "core"
TOKEN_RENEWAL: Final = "tokenRenewal"
NODES: Final = "nodes"
VIEW: Final = "view"
PROPAGATION: Final = "propagation"
CREATE_NAMESPACE: Final = "createNamespace"
EVERYWHERE: Final = "*"
FEATURES: Final = (CORE, TOKEN_RENEWAL)
"""The features of ``worker_rbac.yaml`` that a plain ``join`` gives."""

_RBAC_GROUP: Final = "rbac.authorization.k8s.io"


def account_manifests(
    *,
    namespace: str,
    account: str,
    features: Sequence[str] = FEATURES,
    manager: str = "kubectl-dispatch",
    propagation_namespaces: Sequence[str] = (),
) -> list[Manifest]:
    """ServiceAccount, roles and bindings, in the order in which they are created; without the namespace.

    ``propagation_namespaces``: where copies of ConfigMaps and Secrets may be kept; EVERYWHERE stands for all.
    """
    if propagation_namespaces:
        features = (*features, PROPAGATION)
    everywhere = EVERYWHERE in propagation_namespaces
    labels = {
        "app.kubernetes.io/name": "job-dispatcher",
        "app.kubernetes.io/component": "worker-account",
        "app.kubernetes.io/managed-by": manager,
    }
    rights = yaml.safe_load(files("dispatcher.commands").joinpath("worker_rbac.yaml").read_text("utf-8"))
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    cluster_wide = {"name": account, "labels": labels}
    namespaced = {"name": account, "namespace": namespace, "labels": labels}
    manifests: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": namespaced,
            "automountServiceAccountToken": False,
        }
    ]
    places: list[tuple[str, str, Manifest]] = [
        ("cluster", "ClusterRole", cluster_wide),
        ("namespace", "Role", namespaced),
    ]
    if not everywhere:
        places += [
            ("propagated", "Role", {"name": f"{account}-propagation", "namespace": place, "labels": labels})
            for place in propagation_namespaces
        ]
    for where, role, metadata in places:
        also = ("propagated",) if everywhere and where == "cluster" else ()
        rules = list(_rules(rights, features, where=(where, *also), account=account))
        if rules:
            manifests += [
                {
                    "apiVersion": f"{_RBAC_GROUP}/v1",
                    "kind": role,
                    "metadata": dict(metadata),
                    "rules": rules,
                },
                {
                    "apiVersion": f"{_RBAC_GROUP}/v1",
                    "kind": f"{role}Binding",
                    "metadata": dict(metadata),
                    "roleRef": {"apiGroup": _RBAC_GROUP, "kind": role, "name": metadata["name"]},
                    "subjects": [dict(subject)],
                },
            ]
    return manifests


def _rules(
    rights: Manifest, features: Sequence[str], *, where: Sequence[str], account: str
) -> Iterator[Manifest]:
    for feature in features:
        for rule in rights[feature]:
            if rule["where"] not in where:
                continue
            plain = {key: value for key, value in rule.items() if key not in ("where", "why")}
            if "resourceNames" in plain:
                plain["resourceNames"] = [
                    account if name == "ACCOUNT" else name for name in plain["resourceNames"]
                ]
            yield plain
