"""Two replicas that serve the view API, and a certificate that changes under them, on real planes."""

import base64
import contextlib
import datetime
import hashlib
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dispatcher.view.certificates import issue
from hack.lab import Lab, ports
from hack.lab.api import ApiError
from hack.lab.pki import FRONT_PROXY_CLIENT, Authority, KeyPair
from hack.running.controller import Controller
from hack.running.view import API_SERVICE, NAMESPACE, SERVICE, registered, wait_available
from tests.cli.plugin import MANAGED_BY, Plugin, manifest, namespace_everywhere, wait_until

pytestmark = pytest.mark.lab

ROOT = "/apis/view.jobdispatcher.io/v1alpha1"
HOST = f"{SERVICE}.{NAMESPACE}.svc"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SERVICE}-serving"
PUBLISHED = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"
ADMIN = {"X-Remote-User": "lab:admin", "X-Remote-Group": "system:masters"}
DUE_AFTER = datetime.timedelta(seconds=40)
"""When the certificate that the replicas begin with is two thirds through its life."""


@dataclass(frozen=True)
class Replicas:
    """Two dispatchers, one of them the leader; the API server asks the first."""

    addresses: tuple[str, str]
    controllers: tuple[Controller, Controller]
    first_certificate: str


@pytest.fixture(scope="module")
def replicas(lab: Lab) -> Iterator[Replicas]:
    """The replicas of this module; they begin with a certificate that will soon be due."""
    api = lab.management.api
    with contextlib.suppress(ApiError):
        api.delete(SECRET)
    # Certificates are valid from ten minutes before they are made.
    life = datetime.timedelta(minutes=5) + DUE_AFTER * 3 / 2
    certificate, key = issue(HOST, datetime.datetime.now(datetime.UTC), life)
    content = {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate}
    api.create(
        SECRET.rpartition("/")[0],
        {
            "metadata": {"name": f"{SERVICE}-serving"},
            "type": "kubernetes.io/tls",
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in content.items()},
        },
    )
    first, second = ports.pick(2)
    with registered(lab, port=first), contextlib.ExitStack() as stack:
        controllers = []
        for port in (first, second):
            environment = {"JOB_DISPATCHER_VIEW_ADDRESS": f"127.0.0.1:{port}"}
            controller = Controller.start(
                lab, managed_by=MANAGED_BY, environment=environment, options=("--leader-elect",)
            )
            stack.callback(controller.stop)
            controllers.append(controller)
        wait_available(lab)
        yield Replicas(
            (f"127.0.0.1:{first}", f"127.0.0.1:{second}"), (controllers[0], controllers[1]), certificate
        )
    api.delete(SECRET)


@pytest.fixture(scope="module")
def reader(lab: Lab, replicas: Replicas) -> Iterator[Plugin]:
    """The plugin in a namespace with the finished Job ``pages``."""
    with namespace_everywhere(lab, "view") as namespace:
        plugin = Plugin(lab.management.kubeconfig, namespace)
        plugin.ok("submit", "-f", "-", "--wait", input=manifest("pages", completions=6, parallelism=6))
        yield plugin


def bundle(lab: Lab) -> str:
    """By which the API server knows the replicas."""
    return base64.b64decode(lab.management.api.get(API_SERVICE)["spec"]["caBundle"]).decode()


def ask(lab: Lab, address: str, path: str, pair: KeyPair) -> tuple[int, str]:
    """Ask a replica as a front proxy with this certificate would: HTTP status (0: none), what it serves with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=bundle(lab))
    context.load_cert_chain(pair.certificate, pair.key)
    host, _, port = address.partition(":")
    headers = "".join(f"{name}: {value}\r\n" for name, value in ADMIN.items())
    request = f"GET {path} HTTP/1.1\r\nHost: view\r\nConnection: close\r\n{headers}\r\n"
    shown = ""
    try:
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as tls,
        ):
            shown = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
            tls.sendall(request.encode())
            answer = tls.recv(12)
    except (ssl.SSLError, ConnectionError):
        return 0, shown
    return int(answer[9:12] or 0), shown


def fingerprint(certificate: str) -> str:
    """Of a PEM text's first certificate, as :func:`ask` gives it."""
    end = "-----END CERTIFICATE-----\n"
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.partition(end)[0] + end)).hexdigest()


def test_each_replica_answers_and_the_bundle_is_right_for_both(
    lab: Lab, replicas: Replicas, reader: Plugin
) -> None:
    pair = lab.management.certificates.front_proxy_client
    path = f"{ROOT}/namespaces/{reader.namespace}/jobs/pages/log"
    for address in replicas.addresses:
        status, shown = ask(lab, address, path, pair)
        assert status == 200
        assert shown == fingerprint(serving_certificate(lab))
    leading = [controller.metric('job_dispatcher_leader{shard="0"}') for controller in replicas.controllers]
    assert sorted(leading) == [0.0, 1.0]


def serving_certificate(lab: Lab) -> str:
    """What the replicas' Secret holds now."""
    return base64.b64decode(lab.management.api.get(SECRET)["data"]["tls.crt"]).decode()


def test_a_certificate_is_renewed_under_way(lab: Lab, replicas: Replicas, reader: Plugin) -> None:
    failed: list[Any] = []
    over = threading.Event()

    def read_on() -> None:
        while not over.wait(0.2):
            done = reader.run("pods", "pages")
            if done.returncode:
                failed.append(done)

    pair = lab.management.certificates.front_proxy_client
    readers = threading.Thread(target=read_on)
    readers.start()
    try:
        first = fingerprint(replicas.first_certificate)
        wait_until(lambda: fingerprint(serving_certificate(lab)) != first, seconds=180)
        renewed = fingerprint(serving_certificate(lab))
        wait_until(
            lambda: all(ask(lab, address, ROOT, pair) == (200, renewed) for address in replicas.addresses),
            seconds=120,
        )
        # The old one stays in the bundle: a replica may have used it until now.
        assert replicas.first_certificate in bundle(lab)
    finally:
        over.set()
        readers.join()
    assert failed == []


def test_the_front_proxys_authority_rotates(
    lab: Lab, replicas: Replicas, reader: Plugin, tmp_path: Path
) -> None:
    certificates = lab.management.certificates
    authority, client = certificates.front_proxy_authority, certificates.front_proxy_client
    old, new, other = (KeyPair(tmp_path / f"{n}.crt", tmp_path / f"{n}.key") for n in ("old", "new", "other"))
    shutil.copy(client.certificate, old.certificate)
    shutil.copy(client.key, old.key)
    rotated = Authority(tmp_path, "next-front-proxy-ca")
    rotated.client(new, user=FRONT_PROXY_CLIENT)
    rotated.client(other, user="another-client")
    text = (tmp_path / "next-front-proxy-ca.crt").read_text()

    def published() -> str:
        try:
            data = lab.management.api.get(PUBLISHED)["data"]
        except ApiError:
            return ""  # deleted just now
        return str(data.get("requestheader-client-ca-file", ""))

    def answers(pair: KeyPair) -> set[int]:
        return {ask(lab, address, ROOT, pair)[0] for address in replicas.addresses}

    assert (answers(old), answers(new), answers(other)) == ({200}, {0}, {0})
    # As an administrator would: both authorities, then the new certificate, then the new authority alone.
    authority.write_text(authority.read_text() + text)
    wait_until(lambda: text.strip() in published(), seconds=180)
    wait_until(lambda: answers(new) == {200}, seconds=180)
    assert answers(old) == {200}
    assert answers(other) == {401}, "of the right authority, with a name that is not allowed"
    client.certificate.write_text(new.certificate.read_text())
    client.key.write_text(new.key.read_text())
    authority.write_text(text)

    def without_the_old() -> bool:
        # API servers add to what is published, and never take away: that is an administrator's.
        if published().count("BEGIN CERTIFICATE") > 1:
            lab.management.api.delete(PUBLISHED)
        return published().strip() == text.strip()

    wait_until(without_the_old, seconds=180)
    wait_until(lambda: answers(old) == {0}, seconds=180)
    assert answers(new) == {200}
    wait_until(lambda: reader.run("logs", "pages").returncode == 0, seconds=180)
    assert all(controller.is_running for controller in replicas.controllers)


def test_the_other_replica_goes_on_alone(lab: Lab, replicas: Replicas, reader: Plugin) -> None:
    port = int(replicas.addresses[1].rpartition(":")[2])
    patch = {"spec": {"service": {"port": port}}}
    lab.management.api._request("PATCH", API_SERVICE, patch, content_type="application/merge-patch+json")
    replicas.controllers[0].stop()
    wait_until(lambda: reader.run("logs", "pages").returncode == 0, seconds=120)
    assert len(reader.ok("logs", "pages").splitlines()) == 6
