"""The plugin as people run it: a process, a kubeconfig, a namespace of the test's own on all planes."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.lab import Lab
from hack.running.controller import Controller
from tests.cli.plugin import MANAGED_BY, Plugin, namespace_everywhere


@pytest.fixture(scope="module")
def controller(lab: Lab) -> Iterator[Controller]:
    """A dispatcher for the Jobs of one module."""
    running = Controller.start(lab, managed_by=MANAGED_BY)
    yield running
    running.stop()


@pytest.fixture
def namespace(lab: Lab) -> Iterator[str]:
    """A namespace of the test's own on all planes."""
    with namespace_everywhere(lab, "cli") as name:
        yield name


@pytest.fixture
def plugin(lab: Lab, namespace: str) -> Plugin:
    """The plugin as the administrator of the management plane."""
    return Plugin(lab.management.kubeconfig, namespace)


class People:
    """Makes users of the management plane with just these rights."""

    def __init__(self, lab: Lab, namespace: str, folder: Path) -> None:
        self._api = lab.management.api
        self._lab = lab
        self._namespace = namespace
        self._folder = folder
        self._cluster_roles: list[str] = []

    def make(self, name: str) -> Plugin:
        """The plugin as a user without any right."""
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts"
        self._api.create(path, {"metadata": {"name": name}})
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token: str = self._api.create(f"{path}/{name}/token", request)["status"]["token"]
        file = self._folder / f"{name}.kubeconfig"
        admin = yaml.safe_load(self._lab.management.kubeconfig.read_text())
        admin["users"][0]["user"] = {"token": token}
        admin["contexts"][0]["context"]["namespace"] = self._namespace
        file.write_text(json.dumps(admin))
        return Plugin(file, None)

    def allow(self, name: str, *rules: dict[str, Any], everywhere: bool = False) -> None:
        """Give a user these rules, in the namespace or everywhere."""
        kind = "ClusterRole" if everywhere else "Role"
        group, scope = "rbac.authorization.k8s.io", "" if everywhere else f"/namespaces/{self._namespace}"
        role = f"{self._namespace}-{name}-{uuid.uuid4().hex[:6]}"
        base = f"/apis/{group}/v1{scope}/{kind.lower()}"
        self._api.create(f"{base}s", {"metadata": {"name": role}, "rules": list(rules)})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self._namespace}
        binding = {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": group, "kind": kind, "name": role},
            "subjects": [subject],
        }
        self._api.create(f"{base}bindings", binding)
        if everywhere:
            self._cluster_roles.append(role)

    def clear(self) -> None:
        """Remove what is not in the namespace."""
        for role in self._cluster_roles:
            for resource in ("clusterroles", "clusterrolebindings"):
                self._api.delete(f"/apis/rbac.authorization.k8s.io/v1/{resource}/{role}")


@pytest.fixture
def people(lab: Lab, namespace: str, tmp_path: Path) -> Iterator[People]:
    """Users with few rights."""
    made = People(lab, namespace, tmp_path)
    yield made
    made.clear()
