"""The whole path with the accounts that the charts make: every verb that is used is granted, and the other way round.

Per values file: the release is installed, the workers are joined, and Jobs make the dispatcher do all that it does.
"""

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from dispatcher.clusters.account_token import token_in, with_token
from dispatcher.commands.worker_account import CREATE_NAMESPACE, account_manifests
from dispatcher.core import names
from dispatcher.core.manifest import origin_value
from hack.generate.files import CHARTS
from hack.lab import Lab, Plane
from hack.running.controller import Controller
from tests.chart.audit import Audit, Right
from tests.chart.charts import NAMESPACE, Manifest, only
from tests.chart.installation import (
    CLUSTERS,
    Installation,
    delete,
    find,
    forget_everything,
    forget_leases,
    token_of,
    until,
)

pytestmark = pytest.mark.lab

FILES = sorted((CHARTS / "job-dispatcher" / "ci").glob("*-values.yaml"))
DEFAULT = "default"


@pytest.fixture(params=FILES, ids=lambda path: path.stem.removesuffix("-values"))
def installation(bare_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Installation]:
    """A release with one values file; nothing of it is left afterwards."""
    release = Installation(bare_lab, values=request.param, sets={"orphanInterval": 1})
    release.install()
    forget_leases(bare_lab)
    yield release
    forget_everything(bare_lab)
    release.uninstall("--no-hooks")


def job(name: str, **spec: Any) -> Manifest:
    """A Job of the dispatcher's."""
    container = {"name": "main", "image": "example/main"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": DEFAULT},
        "spec": {"managedBy": names.DEFAULT_MANAGED_BY, "template": template, **spec},
    }


def condition(plane: Plane, name: str, kind: str) -> bool:
    """Whether a Job has the condition."""
    found = find(plane, f"/apis/batch/v1/namespaces/{DEFAULT}/jobs/{name}")
    conditions = ((found or {}).get("status") or {}).get("conditions") or ()
    return any(entry["type"] == kind and entry["status"] == "True" for entry in conditions)


def run_everything(release: Installation) -> None:
    """Jobs that make the dispatcher use each of its verbs."""
    management, workers = release.lab.management, release.lab.workers
    jobs = f"/apis/batch/v1/namespaces/{DEFAULT}/jobs"
    # On a worker somebody has that name already: the mirror gets another.
    foreign = job("indexed", suspend=True)
    del foreign["spec"]["managedBy"]
    workers[0].api.create(jobs, foreign)
    # A mirror of no Job: one that was left behind, or made up by somebody.
    kube_system = management.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
    orphan = job("orphan", suspend=True)
    del orphan["spec"]["managedBy"]
    orphan["metadata"]["labels"] = {
        names.ORIGIN_LABEL: origin_value(kube_system, names.DEFAULT_MANAGED_BY),
        names.JOB_UID_LABEL: "00000000-0000-4000-8000-000000000000",
        names.SHARE_LABEL: "0",
    }
    workers[1].api.create(jobs, orphan)
    # Split by indexes: mirrors are seeded, resumed, counted.
    management.api.create(jobs, job("indexed", completionMode="Indexed", completions=6, parallelism=3))
    until(lambda: condition(management, "indexed", "Complete"), "the indexed Job is Complete")
    until(lambda: find(workers[1], f"{jobs}/orphan") is None, "the orphan is gone")
    assert find(workers[0], f"{jobs}/indexed") is not None
    for name in ("indexed",):
        management.api.delete(f"{jobs}/{name}")
        until(lambda name=name: find(management, f"{jobs}/{name}") is None, f"{name} is gone")  # type: ignore[misc]
    delete(workers[0], f"{jobs}/indexed")


def test_each_verb_is_granted_and_used(installation: Installation) -> None:
    lab = installation.lab
    features = yaml.safe_load(yaml.safe_dump(values_of(installation)))
    account, here = "job-dispatcher", NAMESPACE
    propagated = features["propagation"]["namespaces"]
    with_renewal = features["tokenRenewal"]["enabled"]
    given = (
        "core",
        *(("tokenRenewal",) if with_renewal else ()),
        *((CREATE_NAMESPACE,) if propagated else ()),
    )
    worker_rights: dict[str, Any] = {"features": given, "propagation_namespaces": propagated}
    audits = {
        "management": Audit(lab.management, account=installation.account),
        **{plane.name: Audit(plane, account=f"{here}:{account}") for plane in lab.workers},
    }
    controller = installation.start()
    try:
        for worker in lab.workers:
            output = installation.join(worker)
            assert f"{worker.name} is ready" in output
        if features["localCluster"]["enabled"]:
            add_local(lab.management)
        run_everything(installation)
        if propagated:
            let_objects_follow(lab, account_manifests(namespace=here, account=account, **worker_rights))
        if features["tokenRenewal"]["enabled"]:
            for worker in lab.workers:
                renew(lab, worker)
        if features["metrics"]["authentication"]["enabled"]:
            read_metrics(lab.management, controller, only(installation.objects(), "ServiceAccount"))
    finally:
        controller.stop()
    tells_no_secret(lab, controller)
    refused = {name: audit.refused() for name, audit in audits.items()}
    assert not any(refused.values()), refused
    assert audits["management"].unused(installation.objects()) == set()
    rights = account_manifests(namespace=here, account=account, **worker_rights)
    used_by_any = audits["worker-1"].unused(rights) & audits["worker-2"].unused(rights)
    assert used_by_any == set()


def let_objects_follow(lab: Lab, accounts: list[Manifest]) -> None:
    """Two Jobs that share a ConfigMap and a Secret; a third in a namespace that no worker has."""
    management = lab.management.api
    for worker in lab.workers:
        for manifest in accounts:
            worker.api.apply(manifest)
    policies = f"/apis/jobdispatcher.io/v1alpha1/namespaces/{DEFAULT}/dispatchpolicies"
    policy = {
        "kind": "DispatchPolicy",
        "metadata": {"name": "follow"},
        "spec": {"propagate": ["ConfigMap", "Secret"]},
    }
    management.create(policies, {"apiVersion": "jobdispatcher.io/v1alpha1", **policy})
    core = f"/api/v1/namespaces/{DEFAULT}"
    management.create(f"{core}/configmaps", {"metadata": {"name": "settings"}, "data": {"a": "1"}})
    management.create(f"{core}/secrets", {"metadata": {"name": "password"}, "stringData": {"a": "1"}})
    jobs = f"/apis/batch/v1/namespaces/{DEFAULT}/jobs"
    for name in ("first", "second"):
        manifest = job(name, parallelism=3, completions=3)
        manifest["metadata"]["annotations"] = {names.POLICY_ANNOTATION: "follow"}
        needs = [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "password"}}]
        manifest["spec"]["template"]["spec"]["containers"][0]["envFrom"] = needs
        management.create(jobs, manifest)
        until(lambda name=name: condition(lab.management, name, "Complete"), f"{name} is Complete")  # type: ignore[misc]
    management.create("/api/v1/namespaces", {"metadata": {"name": "new"}})
    for worker in lab.workers:
        patch = {"spec": {"createNamespace": True}}
        management._request(
            "PATCH", f"{CLUSTERS}/{worker.name}", patch, content_type="application/merge-patch+json"
        )
    manifest = job("third", parallelism=3, completions=3)
    manifest["metadata"]["namespace"] = "new"
    path = "/apis/batch/v1/namespaces/new/jobs"
    management.create(path, manifest)
    until(
        lambda: (find(lab.management, f"{path}/third") or {}).get("status", {}).get("succeeded") == 3,
        "third is done",
    )
    for where in (f"{jobs}/first", f"{jobs}/second", f"{path}/third"):
        management.delete(where)
        until(lambda where=where: find(lab.management, where) is None, f"{where} is gone")  # type: ignore[misc]
    for where in (f"{policies}/follow", f"{core}/configmaps/settings", f"{core}/secrets/password"):
        management.delete(where)


def tells_no_secret(lab: Lab, controller: Controller) -> None:
    """What was logged, at whatever level, holds no token and no part of a kubeconfig's Secret."""
    log = controller.log.read_text()
    assert "started" in log
    secrets = {yaml.safe_load((lab.folder / "installed.kubeconfig").read_text())["users"][0]["user"]["token"]}
    for worker in lab.workers:
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{worker.name}"
        data = lab.management.api.get(path)["data"]["kubeconfig"]
        content = yaml.safe_load(base64.b64decode(data))
        secrets |= {
            data,
            content["users"][0]["user"]["token"],
            content["clusters"][0]["cluster"]["certificate-authority-data"],
        }
    for secret in secrets:
        # Its middle too: of a token that was cut off somewhere.
        assert secret[:60] not in log
        assert secret[len(secret) // 2 :][:60] not in log


def values_of(installation: Installation) -> dict[str, Any]:
    """The values of a release, defaults included."""
    found: dict[str, Any] = json.loads(
        installation.helm("get", "values", "job-dispatcher", "--all", "--output", "json")
    )
    return found


def add_local(management: Plane) -> None:
    """The management cluster as one more worker."""
    management.api.create(
        CLUSTERS,
        {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "WorkerCluster",
            "metadata": {"name": "here"},
            "spec": {"local": True},
        },
    )

    def is_ready() -> bool:
        found = management.api.get(f"{CLUSTERS}/here").get("status", {}).get("conditions", ())
        return any(it["type"] == "Ready" and it["status"] == "True" for it in found)

    until(is_ready, "the local cluster is ready")


def renew(lab: Lab, worker: Plane) -> None:
    """A token past half its life is renewed, and the new one is what is used from then on."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{worker.name}"
    secret = lab.management.api.get(path)
    kubeconfig = base64.b64decode(secret["data"]["kubeconfig"]).decode()
    before = token_in(kubeconfig)
    assert before
    aged = with_token(kubeconfig, aged_token(worker, before))
    patch = {"data": {"kubeconfig": base64.b64encode(aged.encode()).decode()}}
    lab.management.api._request("PATCH", path, patch, content_type="application/merge-patch+json")

    def renewed() -> bool:
        content = base64.b64decode(lab.management.api.get(path)["data"]["kubeconfig"]).decode()
        token = token_in(content)
        return token is not None and claims(token)["iat"] >= time.time() - 120

    until(renewed, f"the token for {worker.name} is renewed")


def claims(token: str) -> dict[str, Any]:
    """The payload of a token."""
    payload = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return found


def aged_token(plane: Plane, token: str) -> str:
    """The same token as the plane's API server would have made it 400 s ago, for 600 s."""
    now = int(time.time())
    payload = claims(token) | {"iat": now - 400, "nbf": now - 400, "exp": now + 200}
    header = {"alg": "ES256", "typ": "JWT"}

    def encoded(value: bytes) -> str:
        return base64.urlsafe_b64encode(value).rstrip(b"=").decode()

    text = ".".join(encoded(json.dumps(part).encode()) for part in (header, payload))
    key = serialization.load_pem_private_key(plane.certificates.service_account.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{encoded(r.to_bytes(32) + s.to_bytes(32))}"


def read_metrics(management: Plane, controller: Controller, account: Manifest) -> None:
    """Without a token, with one of an account that may not, and with one that may."""

    def status(token: str | None) -> int:
        request = urllib.request.Request(f"http://{controller.address}/metrics")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status(None) == 401
    assert status("not.a.token") == 401
    token = token_of(management, f"{DEFAULT}:default")
    assert status(token) == 403
    reader = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole"}
    subject = {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": NAMESPACE}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "reads-metrics"},
        "roleRef": {**reader, "name": "job-dispatcher-metrics-reader"},
        "subjects": [subject],
    }
    management.api.apply(binding)
    may = token_of(management, f"{NAMESPACE}:{account['metadata']['name']}")
    until(lambda: status(may) == 200, "a reader of metrics is let in", seconds=30)
    delete(management, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/reads-metrics")
    for kind in ("readyz", "healthz"):
        with urllib.request.urlopen(f"http://{controller.address}/{kind}", timeout=10) as response:
            assert response.status == 200


def test_a_missing_verb_fails_the_audit(bare_lab: Lab, tmp_path: Path) -> None:
    """The suite itself: with a verb taken away, the audit says which."""
    release = Installation(bare_lab, sets={"tokenRenewal.enabled": False})
    release.install()
    try:
        path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/job-dispatcher"
        role = bare_lab.management.api.get(path)
        role["rules"] = [it for it in role["rules"] if "workerclusters/status" not in it["resources"]]
        role["metadata"].pop("managedFields", None)
        bare_lab.management.api._request("PUT", path, role)
        audit = Audit(bare_lab.management, account=release.account)
        controller = release.start()
        try:
            worker = bare_lab.worker(1)
            release.dispatch("join", worker.name, "--worker-kubeconfig", worker.kubeconfig, "--timeout", "0")
            missing = Right("patch", "workerclusters/status", "jobdispatcher.io", "")
            until(lambda: missing in audit.refused(), "the audit shows the missing verb")
        finally:
            controller.stop()
        assert Right("list", "secrets", "", NAMESPACE) not in audit.unused(release.objects())
        assert Right("create", "events", "", "") in audit.unused(release.objects())
    finally:
        forget_everything(bare_lab)
        release.uninstall("--no-hooks")
