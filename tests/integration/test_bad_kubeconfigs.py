"""Every kubeconfig that must not be used is told on its WorkerCluster: the Ready condition says why."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.clusters.client import resource_path
from hack.chaos.gateway import Gateway
from hack.lab import Lab
from hack.lab.ports import ADDRESS
from hack.running.controller import Controller
from tests.integration.planes import Planes
from tests.integration.registrations import Registrations, changed

pytestmark = pytest.mark.lab

RECOVERY_SECONDS = 15.0
"""The product promises 5; a busy machine gets more."""

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("exec", {"user": {"token": None, "exec": {"command": "TOUCH"}}}, "ExecPluginRefused"),
    (
        "auth-provider",
        {"user": {"token": None, "auth-provider": {"name": "oidc"}}},
        "AuthProviderRefused",
    ),
    ("tokenFile", {"user": {"token": None, "tokenFile": "/etc/hostname"}}, "TokenFileRefused"),
    (
        "client-certificate",
        {"user": {"token": None, "client-certificate": "/etc/hostname", "client-key": "/etc/hostname"}},
        "ClientCertificateFileRefused",
    ),
    ("client-key", {"user": {"client-key": "/etc/hostname"}}, "ClientKeyFileRefused"),
    (
        "certificate-authority",
        {"cluster": {"certificate-authority-data": None, "certificate-authority": "/etc/hostname"}},
        "CertificateAuthorityFileRefused",
    ),
    (
        "insecure-skip-tls-verify",
        {"cluster": {"certificate-authority-data": None, "insecure-skip-tls-verify": True}},
        "InsecureSkipTLSVerifyRefused",
    ),
    ("http", {"cluster": {"server": "http://127.0.0.1:1"}}, "InsecureServer"),
    ("no credentials", {"user": {"token": None}}, "CredentialsMissing"),
]


@pytest.mark.parametrize(("changes", "reason"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
async def test_what_a_kubeconfig_must_not_ask_for_is_told(
    registrations: Registrations, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    proof = tmp_path / "was-run"
    content = changed(await registrations.kubeconfig("worker-1"), **changes)
    text = yaml.safe_dump(content).replace("command: TOUCH", f"command: touch\n      args: [{proof}]")
    name = await registrations.add(text)
    entry = await registrations.ready_when(name, lambda entry: entry["reason"] != "Connecting")
    assert (entry["status"], entry["reason"]) == ("False", reason)
    assert entry["message"]
    assert not proof.exists(), "nothing was run"


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{a: [", "KubeconfigNotYAML"), ("a: b", "NotAKubeconfig"), (None, "SecretKeyMissing")],
)
async def test_what_is_no_kubeconfig_is_told(
    registrations: Registrations, content: str | None, reason: str
) -> None:
    name = await registrations.add(content)
    entry = await registrations.ready_when(name, lambda entry: entry["reason"] != "Connecting")
    assert (entry["status"], entry["reason"]) == ("False", reason)


async def test_a_cluster_that_is_registered_already_is_told(registrations: Registrations) -> None:
    name = await registrations.add(await registrations.kubeconfig("worker-1"))
    entry = await registrations.ready_when(name, lambda entry: entry["reason"] == "AlreadyRegistered")
    assert entry["status"] == "False"
    assert "worker-1" in entry["message"]
    first = await registrations.ready_when("worker-1", lambda _: True)
    assert first["status"] == "True", "the older registration stays in use"


async def test_an_unknown_authority_is_told(registrations: Registrations) -> None:
    other = (await registrations.kubeconfig("worker-2"))["clusters"][0]["cluster"]
    ours = await registrations.kubeconfig("worker-1")
    authority = {"certificate-authority-data": other["certificate-authority-data"]}
    name = await registrations.add(changed(ours, cluster=authority))
    entry = await registrations.ready_when(name, lambda entry: entry["reason"] == "CertificateInvalid")
    assert entry["status"] == "False"


async def test_a_secret_that_leads_to_another_cluster_is_told_and_put_right(
    registrations: Registrations,
) -> None:
    right = await registrations.kubeconfig("worker-2")
    await registrations.change("worker-2", await registrations.kubeconfig("worker-1"))
    entry = await registrations.ready_when("worker-2", lambda entry: entry["reason"] == "ClusterChanged")
    assert entry["status"] == "False"
    await registrations.change("worker-2", right)
    await registrations.ready_when(
        "worker-2", lambda entry: entry["status"] == "True", seconds=RECOVERY_SECONDS
    )


async def test_missing_verbs_are_named(planes: Planes, registrations: Registrations) -> None:
    worker, account = planes.workers[1], f"poor-{planes.namespace}"
    accounts = resource_path("v1", "serviceaccounts", namespace=planes.namespace)
    assert (await worker.request("POST", accounts, body={"metadata": {"name": account}})).ok
    group = "rbac.authorization.k8s.io"
    rules = [
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch", "create"]},
        {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get"]},
    ]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": planes.namespace}
    objects = {
        "clusterroles": {"metadata": {"name": account}, "rules": rules},
        "clusterrolebindings": {
            "metadata": {"name": account},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": account},
            "subjects": [subject],
        },
    }
    try:
        for kind, body in objects.items():
            assert (await worker.request("POST", resource_path(f"{group}/v1", kind), body=body)).ok
        token = await worker.request("POST", f"{accounts}/{account}/token", body={"spec": {}})
        assert token.body is not None, token
        right = await registrations.kubeconfig("worker-2")
        await registrations.change("worker-2", changed(right, user={"token": token.body["status"]["token"]}))
        entry = await registrations.ready_when(
            "worker-2", lambda entry: entry["reason"] == "MissingPermissions"
        )
        assert entry["status"] == "False"
        assert "delete jobs.batch" in entry["message"]
        assert "create jobs.batch" not in entry["message"]
    finally:
        for kind in objects:
            await worker.request("DELETE", resource_path(f"{group}/v1", kind, name=account))


async def test_a_server_that_is_too_old_is_told(
    lab: Lab, registrations: Registrations, tmp_path: Path
) -> None:
    plane = lab.worker(2)
    old = {"major": "1", "minor": "30", "gitVersion": "v1.30.9"}
    gateway = Gateway(plane.url, authority=plane.certificates.authority, folder=tmp_path, version=old)
    await gateway.start()
    try:
        authority = base64.b64encode(gateway.authority.read_bytes()).decode()
        through = {
            "server": f"https://{ADDRESS}:{gateway.port}",
            "certificate-authority-data": authority,
        }
        right = await registrations.kubeconfig("worker-2")
        await registrations.change("worker-2", changed(right, cluster=through))
        entry = await registrations.ready_when("worker-2", lambda entry: entry["reason"] == "VersionTooOld")
        assert entry["status"] == "False"
        assert "v1.30.9" in entry["message"]
        await registrations.change("worker-2", right)
        await registrations.ready_when("worker-2", lambda entry: entry["status"] == "True")
    finally:
        await gateway.stop()


async def test_skipping_verification_needs_a_flag(
    lab: Lab, controller: Controller, registrations: Registrations
) -> None:
    """With --allow-insecure-kubeconfigs a second dispatcher uses what the first one refuses."""
    right = await registrations.kubeconfig("worker-2")
    insecure = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    await registrations.change("worker-2", changed(right, cluster=insecure))
    await registrations.ready_when(
        "worker-2", lambda entry: entry["reason"] == "InsecureSkipTLSVerifyRefused"
    )
    controller.pause()  # the two would write the same condition in turns
    try:
        allowing = await asyncio.to_thread(
            lambda: Controller.start(
                lab,
                managed_by="jobdispatcher.io/insecure",
                environment={"JOB_DISPATCHER_ALLOW_INSECURE_KUBECONFIGS": "true"},
            )
        )
        await asyncio.to_thread(allowing.stop)
    finally:
        controller.resume()
