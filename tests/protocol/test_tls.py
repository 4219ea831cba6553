import asyncio
import base64
import json
import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import Credentials, KubeconfigError, load_kubeconfig_file
from dispatcher.clusters.reply import Outcome, Reply
from tests.protocol.certificates import Authority, server_context
from tests.protocol.fake_server import KUBE_SYSTEM, FakeApiServer, running, until

CA = Authority()
OTHER_CA = Authority("another CA")
CLIENT = CA.issue("client")


@pytest.fixture
async def tls_server(tmp_path: Path) -> AsyncIterator[FakeApiServer]:
    """At 127.0.0.1, with a certificate for the name ``plane.test`` and that address; wants a client certificate."""
    pair = CA.issue("server", host="plane.test", address="127.0.0.1")
    async with running(tls=server_context(tmp_path, pair, client_ca=CA.pem)) as server:
        yield server


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


async def ask(server: FakeApiServer, **options: Any) -> Reply:
    options = {
        "ca_data": CA.pem,
        "client_certificate": CLIENT.certificate,
        "client_key": CLIENT.key,
    } | options
    api = ApiServer.from_credentials(Credentials(server=server.url, **options))
    reply = await api.get(KUBE_SYSTEM)
    await api.close()
    return reply


async def test_a_client_certificate_is_shown(tls_server: FakeApiServer) -> None:
    assert (await ask(tls_server)).ok


async def test_a_missing_client_certificate_is_data(tls_server: FakeApiServer) -> None:
    reply = await ask(tls_server, client_certificate=None, client_key=None, token="t")
    assert reply.outcome is Outcome.UNREACHABLE
    assert reply.reason in ("TLSError", "ConnectionClosed")


async def test_an_unknown_authority_is_refused(tls_server: FakeApiServer) -> None:
    reply = await ask(tls_server, ca_data=OTHER_CA.pem)
    assert (reply.outcome, reply.reason) == (Outcome.UNREACHABLE, "CertificateInvalid")
    assert "verify" in reply.message or "issuer" in reply.message or "self-signed" in reply.message


async def test_the_systems_authorities_do_not_know_a_private_one(tls_server: FakeApiServer) -> None:
    assert (await ask(tls_server, ca_data=None)).reason == "CertificateInvalid"


async def test_the_server_name_is_checked(tls_server: FakeApiServer) -> None:
    assert (await ask(tls_server, tls_server_name="plane.test")).ok
    assert (await ask(tls_server, tls_server_name="other.test")).reason == "CertificateInvalid"


async def test_insecure_checks_nothing(tls_server: FakeApiServer) -> None:
    assert (await ask(tls_server, ca_data=None, insecure=True)).ok


async def test_a_key_of_another_certificate_is_refused(tls_server: FakeApiServer) -> None:
    with pytest.raises(KubeconfigError) as caught:
        await ask(tls_server, client_key=CA.issue("other").key)
    assert caught.value.reason == "ClientKeyMismatch"


@pytest.mark.parametrize("part", ["ca_data", "client_certificate", "client_key"])
async def test_pem_that_holds_nothing_is_refused(tls_server: FakeApiServer, part: str) -> None:
    kind = "PRIVATE KEY" if part == "client_key" else "CERTIFICATE"
    empty = f"-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n"
    with pytest.raises(KubeconfigError) as caught:
        await ask(tls_server, **{part: empty})
    assert caught.value.reason == "ClientCertificateInvalid"
    assert "AAAA" not in str(caught.value)


async def test_no_key_stays_on_disk_or_open(tls_server: FakeApiServer) -> None:
    before = open_files()
    api = ApiServer.from_credentials(
        Credentials(server=tls_server.url, client_certificate=CLIENT.certificate, client_key=CLIENT.key)
    )
    assert open_files() == before
    await api.close()


async def test_a_server_that_hangs_collects_no_sockets(tmp_path: Path) -> None:
    context = server_context(tmp_path, CA.issue("server", address="127.0.0.1"), client_ca="")
    end = threading.Event()

    def accept_and_hang(listener: socket.socket) -> None:
        accepted = [context.wrap_socket(listener.accept()[0], server_side=True) for _ in range(4)]
        end.wait(10)
        for connection in accepted:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept_and_hang, args=[listener])
        thread.start()
        port = listener.getsockname()[1]
        api = ApiServer.from_credentials(
            Credentials(server=f"https://127.0.0.1:{port}", ca_data=CA.pem, token="t")
        )
        replies = await asyncio.gather(*(api.get(KUBE_SYSTEM, timeout=0.5) for _ in range(4)))
        assert [reply.reason for reply in replies] == ["Timeout"] * 4
        await until(lambda: not sockets_to(port))
        await api.close()
        end.set()
        thread.join()


def sockets_to(port: int) -> list[str]:
    """Our ends of established connections to a local port, as the kernel knows them."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return [
        local for _, local, remote, state, *_ in rows if remote.endswith(f":{port:04X}") and state == "01"
    ]


async def test_our_own_kubeconfig_may_name_files(tls_server: FakeApiServer, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(CA.pem)
    (tmp_path / "client.crt").write_text(CLIENT.certificate)
    user = {
        "client-certificate": "client.crt",
        "client-key-data": base64.b64encode(CLIENT.key.encode()).decode(),
    }
    kubeconfig = {
        "kind": "Config",
        "apiVersion": "v1",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": tls_server.url, "certificate-authority": "ca.crt"}}],
        "users": [{"name": "u", "user": user}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    api = ApiServer(await load_kubeconfig_file(path))
    reply = await api.get(KUBE_SYSTEM)
    await api.close()
    assert reply.ok


async def test_our_own_kubeconfig_may_run_a_plugin(server: FakeApiServer, tmp_path: Path) -> None:
    version = "client.authentication.k8s.io/v1"
    credential = json.dumps({"kind": "ExecCredential", "apiVersion": version, "status": {"token": "x1"}})
    plugin = {"apiVersion": version, "command": "echo", "args": [credential]}
    kubeconfig = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server.url}}],
        "users": [{"name": "u", "user": {"exec": plugin}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    api = ApiServer(await load_kubeconfig_file(path), allow_http=True)
    await api.get(KUBE_SYSTEM)
    await api.close()
    assert server.seen[0].headers["Authorization"] == "Bearer x1"
