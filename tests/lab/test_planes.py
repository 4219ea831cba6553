"""What the planes offer from the start, and how tests handle their processes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from hack.lab import Lab
from tests.lab.jobs import NAMESPACE, Jobs, eventually


def kubectl(lab: Lab, kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(lab.kubectl), "--kubeconfig", str(kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_every_component_is_there_and_says_so(lab: Lab) -> None:
    rows = lab.status()
    assert {row["plane"] for row in rows} == {"management", "worker-1", "worker-2", "worker-3"}
    assert len(rows) == 4 * 6
    assert all(row["alive"] and Path(row["log"]).exists() for row in rows)
    assert lab.is_ready()


def test_the_controller_s_account_may_what_it_needs_and_no_more(lab: Lab) -> None:
    account = lab.dispatcher_kubeconfig
    assert "token" in account.read_text()
    assert account.stat().st_mode & 0o077 == 0
    assert kubectl(lab, account, "auth", "can-i", "watch", "jobs", "-A").stdout.strip() == "yes"
    refused = kubectl(lab, account, "auth", "can-i", "create", "pods")
    assert (refused.returncode, refused.stdout.strip()) == (1, "no")


def test_the_secret_of_a_worker_leads_to_it(lab: Lab, tmp_path: Path) -> None:
    registered = lab.management.api.get("/apis/jobdispatcher.io/v1alpha1/workerclusters")["items"]
    assert [item["metadata"]["name"] for item in registered] == ["worker-1", "worker-2", "worker-3"]
    for worker in lab.workers:
        answer = kubectl(
            lab,
            lab.management.kubeconfig,
            *[
                "get",
                "secret",
                worker.name,
                "-n",
                "job-dispatcher",
                "-o",
                "go-template={{.data.kubeconfig | base64decode}}",
            ],
        )
        access = tmp_path / worker.name
        access.write_text(answer.stdout)
        said = kubectl(
            lab, access, "get", "namespace", "kube-system", "-o", "jsonpath={.metadata.uid}"
        ).stdout
        assert said == worker.api.get("/api/v1/namespaces/kube-system")["metadata"]["uid"]
        assert kubectl(lab, access, "auth", "can-i", "create", "pods").stdout.strip() == "no"


def test_aggregated_servers_can_tell_who_asks(lab: Lab) -> None:
    path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
    data = lab.management.api.get(path)["data"]
    authority = lab.management.certificates.front_proxy_authority.read_text()
    assert data["requestheader-client-ca-file"].strip() == authority.strip()
    assert json.loads(data["requestheader-allowed-names"]) == ["front-proxy-client"]
    assert data["client-ca-file"] != data["requestheader-client-ca-file"]


def test_the_audit_log_names_who_wrote(lab: Lab, jobs: Jobs) -> None:
    jobs.create("audited")
    uri = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"

    def found() -> list[str]:
        events = (json.loads(line) for line in jobs.plane.audit_log.read_text().splitlines())
        return [
            event["user"]["username"]
            for event in events
            if event["requestURI"] == uri
            and event["verb"] == "create"
            and event["objectRef"].get("name") == "audited"
        ]

    assert eventually(found, bool, seconds=30) == ["lab:admin"]


def test_versions_are_told(lab: Lab) -> None:
    said = json.loads(kubectl(lab, lab.management.kubeconfig, "version", "-o", "json").stdout)
    assert said["clientVersion"]["gitVersion"] == "v1.36.3"
    assert said["serverVersion"]["gitVersion"] == "v1.36.3"
    assert (said["serverVersion"]["major"], said["serverVersion"]["minor"]) == ("1", "36")
    helm = subprocess.run([lab.helm, "version", "--short"], capture_output=True, text=True, check=True).stdout
    assert helm.startswith("v4.")


def test_an_api_server_is_frozen_killed_and_comes_back_as_it_was(lab: Lab, jobs: Jobs) -> None:
    server = jobs.plane.apiserver
    jobs.create("kept")
    uid = jobs.get("kept")["metadata"]["uid"]
    server.pause()
    try:
        assert server.is_paused()
        assert server.is_running()
        assert not server.is_healthy()
        assert [row["paused"] for row in lab.status() if row["pid"] == server.pid] == [True]
    finally:
        server.resume()
    server.wait_healthy(timeout=30)

    port, pid = server.port, server.pid
    server.kill()
    try:
        assert not server.is_running()
        assert not lab.is_ready()
        with pytest.raises(RuntimeError, match="does not run"):
            server.pause()
    finally:
        Lab.open(lab.folder).worker(3).apiserver.start()  # as another process of the tests would
    assert server.is_healthy()
    assert (server.port == port, server.pid != pid) == (True, True)
    assert jobs.get("kept")["metadata"]["uid"] == uid
    with pytest.raises(RuntimeError, match="runs already"):
        server.start()


def test_other_components_end_and_start(jobs: Jobs) -> None:
    plane = jobs.plane
    plane.etcd.kill()
    plane.scheduler.stop()
    plane.controller_manager.stop()
    ended = (plane.etcd, plane.scheduler, plane.controller_manager)
    assert not any(component.is_running() for component in ended)
    for component in ended:
        component.start()
    assert all(component.is_healthy() for component in ended)
    plane.apiserver.wait_healthy(timeout=30)
    jobs.create("after-all")
    eventually(lambda: jobs.condition("after-all"), bool)
