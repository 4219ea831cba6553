"""Accounts and objects that tie the planes together: what a person would set up with the chart and kubectl."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dispatcher.commands.worker_account import (
    CREATE_NAMESPACE,
    EVERYWHERE,
    FEATURES,
    NODES,
    VIEW,
    account_manifests,
)
from hack.lab.api import JSON, kubeconfig, write_kubeconfig
from hack.lab.component import READY_SECONDS, ROOT, ComponentFailed
from hack.lab.plane import Plane

NAMESPACE = "job-dispatcher"
ACCOUNT = "job-dispatcher"
TOKEN_SECONDS = 24 * 3600
CHART = ROOT / "charts" / "job-dispatcher"
VALUES = Path(__file__).parent / "values.yaml"
CHART_PARTS = ("crds", "serviceaccount", "rbac")


def prepare_management(plane: Plane, *, helm: Path, dispatcher_kubeconfig: Path) -> None:
    """The chart's CRDs, the controller's namespace, and its account with a kubeconfig of a day."""
    objects = render_chart(helm, kubernetes_version=plane.apiserver.record["version"])
    definitions = [entry for entry in objects if entry["kind"] == "CustomResourceDefinition"]
    token = _account(plane, objects)
    write_kubeconfig(
        dispatcher_kubeconfig,
        name=plane.name,
        url=plane.url,
        authority=plane.certificates.authority,
        token=token,
    )
    for definition in definitions:
        _wait_established(plane, definition["metadata"]["name"])


def prepare_worker(plane: Plane) -> dict[str, Any]:
    """The controller's account on a worker; gives a kubeconfig of it."""
    token = _account(
        plane,
        account_manifests(
            namespace=NAMESPACE,
            account=ACCOUNT,
            features=(*FEATURES, NODES, VIEW, CREATE_NAMESPACE),
            propagation_namespaces=(EVERYWHERE,),
        ),
    )
    return kubeconfig(name=plane.name, url=plane.url, authority=plane.certificates.authority, token=token)


def register(management: Plane, worker: Plane, access: dict[str, Any]) -> None:
    """The Secret and the WorkerCluster of one worker."""
    metadata = {"name": worker.name, "namespace": NAMESPACE}
    secret = {"kubeconfig": yaml.safe_dump(access, sort_keys=False)}
    management.api.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": secret})
    management.api.apply(
        {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "WorkerCluster",
            "metadata": {"name": worker.name},
            "spec": {"kubeconfigSecretRef": {"name": worker.name}},
        }
    )


def render_chart(helm: Path, *, kubernetes_version: str) -> list[JSON]:
    """CRDs, account and roles of the chart, with the features of VALUES.

    Raises ComponentFailed.
    """
    command = [str(helm), "template", ACCOUNT, str(CHART), "--namespace", NAMESPACE, "--values", str(VALUES)]
    command += ["--kube-version", kubernetes_version]
    for part in CHART_PARTS:
        command += ["--show-only", f"templates/{part}.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ComponentFailed(f"helm cannot render the chart: {done.stderr.strip()}")
    return [entry for entry in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if entry]


def _account(plane: Plane, objects: Sequence[JSON]) -> str:
    plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    for manifest in objects:
        plane.api.apply(manifest)
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{ACCOUNT}/token"
    token: str = plane.api.create(path, request)["status"]["token"]
    return token


def _wait_established(plane: Plane, name: str) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        status = plane.api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}").get(
            "status", {}
        )
        conditions = {entry["type"]: entry for entry in status.get("conditions", [])}
        if conditions.get("Established", {}).get("status") == "True":
            return
        if time.monotonic() > end:
            raise ComponentFailed(f"the API server does not serve the CRD {name}: {status.get('conditions')}")
        time.sleep(0.05)
