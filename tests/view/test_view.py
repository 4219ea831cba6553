"""Pods and logs of workers through the management API server, on real planes."""

import contextlib
import http.client
import json
import re
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hack.lab import Lab
from tests.cli.conftest import People
from tests.cli.plugin import Plugin, manifest

pytestmark = pytest.mark.lab

ROOT = "/apis/view.jobdispatcher.io/v1alpha1"
READ_LOGS = (
    {"apiGroups": ["view.jobdispatcher.io"], "resources": ["jobs/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
)
REFUSED_PATHS = [
    "/api/v1/secrets",
    "/api/v1/pods",
    "/api/v1/nodes",
    "/api/v1/namespaces/NS",
    "/api/v1/namespaces/NS/secrets",
    "/api/v1/namespaces/NS/configmaps/kube-root-ca.crt",
    "/api/v1/namespaces/kube-system/pods/POD",
    "/api/v1/namespaces/NS/pods/POD/exec?command=sh&stdout=true",
    "/api/v1/namespaces/NS/pods/POD/attach",
    "/api/v1/namespaces/NS/pods/POD/portforward",
    "/api/v1/namespaces/NS/pods/POD/proxy/",
    "/api/v1/namespaces/NS/pods/POD/status",
    "/api/v1/namespaces/NS/pods?watch=true&resourceVersion=now",
    "/api/v1/namespaces/NS/pods/POD/../../secrets",
    "/api/v1/namespaces/NS/pods/%2e%2e/secrets",
    "/api/v1/namespaces/NS/pods/..%2f..%2fsecrets",
    "/api/v1/namespaces/NS/pods/POD%00",
    "/api/v1//namespaces/NS/pods",
    "//api/v1/namespaces/NS/pods",
    "/../../worker-2/proxy/api/v1/namespaces/NS/pods",
    "/%2e%2e/%2e%2e/worker-2/proxy/api/v1/namespaces/NS/pods",
    "/apis/batch/v1/namespaces/NS/jobs",
    "/version",
    "/metrics",
    "/logs/",
]


def kubectl(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    """kubectl as the administrator of the management plane."""
    command = [
        str(lab.folder / "bin" / "kubectl"),
        "--kubeconfig",
        str(lab.management.kubeconfig),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_pods_are_listed_from_all_clusters(plugin: Plugin, pages: str, lab: Lab) -> None:
    lines = plugin.ok("pods", pages).splitlines()
    assert lines[0].split() == ["CLUSTER", "NAME", "INDEX", "PHASE", "REASON", "NODE", "RESTARTS", "AGE"]
    rows = [line.split() for line in lines[1:]]
    assert [row[2] for row in rows] == list("012345")
    assert {row[0] for row in rows} == {worker.name for worker in lab.workers}
    assert {row[3] for row in rows} == {"Succeeded"}
    shown = json.loads(plugin.ok("pods", f"job/{pages}", "-o", "json"))["items"]
    assert [(pod["kind"], pod["metadata"]["name"]) for pod in shown] == [("Pod", row[1]) for row in rows]


def test_logs_come_from_all_pods_with_their_cluster(plugin: Plugin, pages: str, lab: Lab) -> None:
    lines = plugin.ok("logs", pages).splitlines()
    assert len(lines) == 6
    matches = [re.fullmatch(r"\[(worker-\d+)/pages-\d-\w+\] started", line) for line in lines]
    assert {match[1] for match in matches if match} == {worker.name for worker in lab.workers}
    assert all(matches)


def test_a_follow_of_a_finished_job_ends(plugin: Plugin, pages: str) -> None:
    assert len(plugin.ok("logs", pages, "-f", "--timestamps").splitlines()) == 6


def test_logs_can_be_narrowed(plugin: Plugin, pages: str) -> None:
    one = plugin.ok("logs", pages, "--index", "3", "--no-prefix", "--timestamps")
    assert one == "2026-01-01T00:00:00.000000000Z started\n"
    assert "worker-2" not in plugin.ok("logs", pages, "--cluster", "worker-1")
    pod = plugin.ok("pods", pages, "--no-headers").split()[1]
    assert plugin.ok("logs", pages, "--pod", pod) == "started\n"


def test_a_follow_goes_on_with_pods_that_come_later(plugin: Plugin) -> None:
    script = [{"after": "2s", "exit": 0}]
    job = manifest("steps", script=script, completions=4, parallelism=2)
    plugin.ok("submit", "-f", "-", input=job)
    out = plugin.ok("logs", "steps", "-f")
    lines = [line for line in out.splitlines() if line.endswith("] started")]
    assert len(lines) == len(set(lines)) == 4, out


def test_wrong_input_says_what_is_wrong(plugin: Plugin, pages: str) -> None:
    assert 'jobs.batch "nothing" not found' in plugin.refused("logs", "nothing")
    assert "not one of the Job's: c" in plugin.refused("logs", pages, "-c", "sidecar")
    assert '"worker-9" not found' in plugin.refused("logs", pages, "--cluster", "worker-9")
    assert "has no pod with index 9" in plugin.refused("logs", pages, "--index", "9")
    plugin.refused("logs", pages, "-f", "--previous", code=2)
    plugin.refused("logs", pages, "--since", "soon", code=2)


def test_a_foreign_job_is_not_read(plugin: Plugin, lab: Lab, namespace: str) -> None:
    foreign = json.loads(manifest("foreign", suspend=True))
    lab.management.api.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", foreign)
    for verb in ("pods", "logs"):
        assert "is not dispatched: its spec.managedBy is" in plugin.refused(verb, "foreign")


def test_a_user_needs_both_rights(people: People, pages: str) -> None:
    nobody = people.make("nobody")
    assert 'resources: ["jobs/log"]' in nobody.refused("logs", pages)
    people.allow("nobody", READ_LOGS[0])
    refused = nobody.refused("logs", pages)
    assert "Forbidden" in refused
    assert 'a rule {apiGroups: [""], resources: ["pods/log"], verbs: ["get"]}' in refused


def test_a_user_with_both_rights_reads(people: People, pages: str) -> None:
    reader = people.make("reader")
    people.allow("reader", *READ_LOGS)
    assert len(reader.ok("logs", pages).splitlines()) == 6
    assert "Forbidden" in reader.refused("pods", pages)


@pytest.mark.parametrize("headers", [{}, {"X-Remote-User": "admin", "X-Remote-Group": "system:masters"}])
def test_a_caller_without_the_proxys_certificate_is_nobody(
    view_address: str, pages: str, namespace: str, headers: dict[str, str]
) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = f"https://{view_address}{ROOT}/namespaces/{namespace}/jobs/{pages}/pods"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, headers=headers), context=context)
    assert refused.value.code == 401
    refused.value.close()


def test_a_certificate_of_another_authority_is_refused(view_address: str, lab: Lab, pages: str) -> None:
    admin = lab.management.certificates.admin
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(admin.certificate, admin.key)
    host, _, port = view_address.partition(":")
    answer = b""
    with (
        contextlib.suppress(ssl.SSLError, ConnectionError),
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain) as tls,
    ):
        tls.sendall(b"GET /apis HTTP/1.1\r\nHost: view\r\nX-Remote-User: admin\r\n\r\n")
        answer = tls.recv(100)
    assert answer == b""


def test_plain_kubectl_works_on_one_worker(lab: Lab, pages: str, namespace: str, tmp_path: Path) -> None:
    worker = lab.workers[0]
    foreign = {"metadata": {"name": "other"}, "spec": {"containers": [{"name": "c", "image": "x"}]}}
    worker.api.create(f"/api/v1/namespaces/{namespace}/pods", foreign)
    server = ["--server", f"{lab.management.url}{ROOT}/clusters/{worker.name}/proxy", "-n", namespace]
    listed = kubectl(lab, *server, "get", "pods", "--no-headers")
    names = [line.split()[0] for line in listed.stdout.splitlines()]
    assert names, listed
    assert all(name.startswith("pages-") for name in names)
    assert kubectl(lab, *server, "logs", names[0]).stdout == "started\n"
    assert "NotFound" in kubectl(lab, *server, "logs", "other").stderr
    assert kubectl(lab, *server, "get", "secrets").returncode != 0
    assert kubectl(lab, *server, "delete", "pod", names[0]).returncode != 0


def test_the_proxy_lets_through_nothing_else(lab: Lab, plugin: Plugin, pages: str, namespace: str) -> None:
    pod = plugin.ok("pods", pages, "--no-headers").split()[1]
    paths = [path.replace("NS", namespace).replace("POD", pod) for path in REFUSED_PATHS]
    answers = {path: proxied(lab, f"worker-1/proxy{path}") for path in paths}
    assert {path: code for path, code in answers.items() if code not in (400, 404)} == {}


def test_the_proxy_serves_what_is_allowed(lab: Lab, plugin: Plugin, pages: str, namespace: str) -> None:
    pod = plugin.ok("pods", pages, "--no-headers").split()[1]
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for path in ("/api", "/apis", "/api/v1", pods, f"{pods}/{pod}", f"{pods}/{pod}/log?follow=false"):
        assert proxied(lab, f"worker-1/proxy{path}") == 200, path
    assert proxied(lab, f"worker-1/proxy{pods}/{pod}", method="DELETE") == 405
    assert proxied(lab, f"worker-9/proxy{pods}") == 404


def proxied(lab: Lab, path: str, *, method: str = "GET") -> int:
    """The status of a request to a worker, by the management API server; the path is sent as it is."""
    admin = lab.management.certificates.admin
    context = ssl.create_default_context(cafile=str(lab.management.certificates.authority))
    context.load_cert_chain(admin.certificate, admin.key)
    host, _, port = lab.management.url.removeprefix("https://").partition(":")
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    with contextlib.closing(connection):
        connection.putrequest(method, f"{ROOT}/clusters/{path}", skip_accept_encoding=True)
        connection.endheaders()
        return connection.getresponse().status


def test_a_pod_with_forged_labels_is_not_read(lab: Lab, plugin: Plugin, pages: str, namespace: str) -> None:
    worker = lab.workers[0]
    pods = f"/api/v1/namespaces/{namespace}/pods"
    mirror = next(
        pod for pod in worker.api.get(pods)["items"] if pod["metadata"]["name"].startswith(f"{pages}-")
    )
    labels = {key: value for key, value in mirror["metadata"]["labels"].items() if "name" not in key}
    container = {"name": "c", "image": "x"}
    # Without the pods' own controller: nobody but a Job has one.
    forged = {"metadata": {"name": "forged", "labels": labels}, "spec": {"containers": [container]}}
    worker.api.create(pods, forged)
    assert "forged" not in plugin.ok("pods", pages)
    assert "has no pod with pod forged" in plugin.refused("logs", pages, "--pod", "forged")
    assert proxied(lab, f"worker-1/proxy{pods}/forged/log") == 404


def test_a_cluster_that_cannot_be_read_is_named(plugin: Plugin, pages: str, lab: Lab) -> None:
    role = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/job-dispatcher"
    worker = lab.workers[1]
    binding = worker.api.get(role)
    worker.api.delete(role)
    try:
        done = plugin.run("logs", pages)
    finally:
        del binding["metadata"]["resourceVersion"], binding["metadata"]["uid"]
        worker.api.create(role.rpartition("/")[0], binding)
    assert done.returncode == 1
    assert f"cluster {worker.name} is missing" in done.stderr
    assert "worker-1/pages" in done.stdout
