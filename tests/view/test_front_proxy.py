"""Whom the front proxy's certificate makes trusted, in real TLS handshakes without a network."""

import datetime
import json
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request

from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.view.certificates import issue
from dispatcher.view.front_proxy import FrontProxy
from dispatcher.view.status import Refused
from hack.lab.pki import FRONT_PROXY_CLIENT, Authority, KeyPair

if TYPE_CHECKING:
    from dispatcher.clusters.client import ApiServer

HOST = "view.job-dispatcher.svc"


class Published:
    """An API server that publishes this ConfigMap."""

    def __init__(self, authority: str) -> None:
        self.data = {
            "requestheader-client-ca-file": authority,
            "requestheader-allowed-names": json.dumps([FRONT_PROXY_CLIENT]),
        }

    async def get(self, _path: str) -> Reply:
        return Reply(Outcome.OK, 200, body={"data": dict(self.data)})


class Made:
    """An authority with the certificate of a proxy, and one with another name."""

    def __init__(self, folder: Path, name: str) -> None:
        authority = Authority(folder, name)
        self.proxy = KeyPair(folder / f"{name}-proxy.crt", folder / f"{name}-proxy.key")
        self.other = KeyPair(folder / f"{name}-other.crt", folder / f"{name}-other.key")
        authority.client(self.proxy, user=FRONT_PROXY_CLIENT)
        authority.client(self.other, user="another-client")
        self.text = (folder / f"{name}.crt").read_text()


@pytest.fixture
def old(tmp_path: Path) -> Made:
    """What is published at first."""
    return Made(tmp_path, "old")


@pytest.fixture
def new(tmp_path: Path) -> Made:
    """What is published later."""
    return Made(tmp_path, "new")


async def serving(published: Published) -> FrontProxy:
    """A server that has taken over what is published."""
    front = FrontProxy(cast("ApiServer", published))
    assert await front.refresh()
    front.serve_with(*issue(HOST, datetime.datetime.now(datetime.UTC)))
    return front


def connect(front: FrontProxy, pair: KeyPair | None) -> ssl.SSLObject:
    """The server's side of a connection after its handshake. Raises ssl.SSLError where the server ends it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(back, there, server_hostname=HOST)
    server = front.listening.wrap_bio(there, back, server_side=True)
    left = [client, server]
    while left:
        side = left.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            left.append(side)
    return server


def user(front: FrontProxy, connection: ssl.SSLObject) -> str:
    """Who asks on this connection; the refusal's code for nobody."""
    transport = SimpleNamespace(
        get_extra_info=lambda name, _default=None: {"ssl_object": connection}.get(name)
    )
    request: Any = make_mocked_request("GET", "/apis", headers={"X-Remote-User": "jane"}, transport=transport)
    try:
        return front.user_of(request).name
    except Refused as refused:
        return str(refused.code)


async def test_only_the_proxys_certificate_is_trusted(old: Made, new: Made) -> None:
    front = await serving(Published(old.text))
    assert user(front, connect(front, old.proxy)) == "jane"
    assert user(front, connect(front, old.other)) == "401"
    assert user(front, connect(front, None)) == "401"
    with pytest.raises(ssl.SSLError):
        connect(front, new.proxy)


async def test_a_rotated_authority_holds_for_new_connections_and_for_those_that_are_open(
    old: Made, new: Made
) -> None:
    published = Published(old.text)
    front = await serving(published)
    kept = connect(front, old.proxy)
    published.data["requestheader-client-ca-file"] = old.text + new.text
    assert await front.refresh()
    kept_by_new = connect(front, new.proxy)
    for connection in (kept, kept_by_new, connect(front, old.proxy)):
        assert user(front, connection) == "jane"
    published.data["requestheader-client-ca-file"] = new.text
    assert await front.refresh()
    assert [user(front, connection) for connection in (kept, kept_by_new)] == ["401", "jane"]
    assert user(front, connect(front, new.proxy)) == "jane"
    assert user(front, connect(front, new.other)) == "401"
    with pytest.raises(ssl.SSLError):
        connect(front, old.proxy)


async def test_a_renewed_serving_certificate_leaves_connections_as_they_are(old: Made) -> None:
    front = await serving(Published(old.text))
    kept = connect(front, old.proxy)
    front.serve_with(*issue(HOST, datetime.datetime.now(datetime.UTC)))
    assert user(front, kept) == "jane"


@pytest.mark.parametrize(
    ("key", "text"),
    [("requestheader-client-ca-file", "no certificate"), ("requestheader-allowed-names", "no list")],
)
async def test_what_cannot_be_read_changes_nothing(old: Made, key: str, text: str) -> None:
    published = Published(old.text)
    front = await serving(published)
    published.data[key] = text
    with pytest.raises((ssl.SSLError, ValueError)):
        await front.refresh()
    assert user(front, connect(front, old.proxy)) == "jane"
    assert user(front, connect(front, old.other)) == "401"
