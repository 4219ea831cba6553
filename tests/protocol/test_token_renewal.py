"""Renewal of workers' tokens against a server that refuses, lies or is away; the good case runs on real ones."""

import base64
import datetime
import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from dispatcher.clusters import account_token
from dispatcher.clusters.client import ApiServer
from dispatcher.core import names
from dispatcher.operator import token_renewal
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.token_renewal import TokenRenewal
from tests.protocol.fake_server import KUBE_SYSTEM, Answer, FakeApiServer, status

START = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
TOKENS = "/api/v1/namespaces/there/serviceaccounts/dispatcher/token"
SECRET = "/api/v1/namespaces/job-dispatcher/secrets/worker-1"


def make_token(*, issued: datetime.datetime = START, hours: float = 2, **claims: Any) -> str:
    """An unsigned token of there/dispatcher."""
    begin = int(issued.timestamp())
    payload = {
        "sub": "system:serviceaccount:there:dispatcher",
        "iat": begin,
        "exp": begin + int(hours * 3600),
        **claims,
    }

    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none'})}.{part(payload)}.c2lnbmF0dXJl"


def make_kubeconfig(server: str, token: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "w", "cluster": {"server": server}}],
            "users": [{"name": "other", "user": {"token": "other"}}, {"name": "w", "user": {"token": token}}],
            "contexts": [{"name": "w", "context": {"cluster": "w", "user": "w"}}],
            "current-context": "w",
        }
    )


class Scene:
    """One joined cluster, whose worker and management cluster are the same fake server."""

    def __init__(self, server: FakeApiServer, api: ApiServer) -> None:
        self.server = server
        self.now = START
        self.leads = True
        self.old = make_token()
        self.kubeconfig = make_kubeconfig("https://worker.example", self.old)
        labels = {names.TOKEN_RENEWAL_LABEL: names.TOKEN_RENEWAL_ENABLED}
        self.secret: dict[str, Any] = {
            "metadata": {"name": "worker-1", "resourceVersion": "7", "labels": labels},
            "data": {"kubeconfig": base64.b64encode(self.kubeconfig.encode()).decode(), "other": "eA=="},
        }
        cluster = SimpleNamespace(name="worker-1", credentials=self.kubeconfig, connection=object(), api=api)
        fleet = SimpleNamespace(
            clusters={"worker-1": cast(RegisteredCluster, cluster)},
            secret_of=lambda _: self.secret,
            secret_key_of=lambda _: "kubeconfig",
        )
        self.renewal = TokenRenewal(
            fleet=cast(Fleet, fleet),
            management=api,
            namespace="job-dispatcher",
            now=lambda: self.now,
            may_write=lambda: self.leads,
        )

    def after(self, hours: float) -> "Scene":
        self.now = START + datetime.timedelta(hours=hours)
        return self

    def gives(self, token: str) -> None:
        body = {"kind": "TokenRequest", "status": {"token": token}}
        self.server.stage("POST", TOKENS, Answer(201, body))
        self.server.stage("PUT", SECRET, Answer(200, {"kind": "Secret", "metadata": {}}))

    @property
    def asked(self) -> int:
        return self.server.count("POST", TOKENS)

    @property
    def written(self) -> int:
        return self.server.count("PUT", SECRET)


@pytest.fixture
async def scene(server: FakeApiServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """The proof of a new token is sent to the fake server too, which speaks no TLS."""

    class Proven(ApiServer):
        @classmethod
        def from_credentials(cls, *_: Any, **__: Any) -> "ApiServer":
            return SimpleNamespace(request=api.request, close=lambda: _nothing())  # type: ignore[return-value]

    monkeypatch.setattr(token_renewal, "ApiServer", Proven)
    return Scene(server, api)


async def _nothing() -> None:
    return None


async def test_nothing_happens_before_half_of_its_life(scene: Scene) -> None:
    await scene.after(0.99).renewal.look()
    assert scene.asked == 0


async def test_from_then_on_it_is_renewed_for_as_long_as_before(scene: Scene) -> None:
    fresh = make_token(issued=START + datetime.timedelta(hours=1))
    scene.gives(fresh)
    await scene.after(1.01).renewal.look()
    [request] = [seen for seen in scene.server.seen if seen.path == TOKENS]
    assert json.loads(request.body)["spec"] == {"expirationSeconds": 7200}
    [write] = [seen for seen in scene.server.seen if seen.method == "PUT"]
    body = json.loads(write.body)
    assert body["metadata"] == scene.secret["metadata"], (
        "the resourceVersion that was read is the precondition"
    )
    assert body["data"]["other"] == "eA=="
    content = base64.b64decode(body["data"]["kubeconfig"]).decode()
    assert account_token.token_in(content) == fresh
    assert yaml.safe_load(content)["users"][0]["user"] == {"token": "other"}


async def test_secrets_of_others_are_left_alone(scene: Scene) -> None:
    scene.secret["metadata"]["labels"] = {}
    await scene.after(1.5).renewal.look()
    assert scene.asked == 0


async def test_a_token_that_does_not_work_replaces_none(scene: Scene) -> None:
    scene.gives(make_token(issued=START + datetime.timedelta(hours=1)))
    scene.server.stage("GET", KUBE_SYSTEM, status(401, "Unauthorized"))
    await scene.after(1.5).renewal.look()
    assert (scene.asked, scene.written) == (1, 0)


@pytest.mark.parametrize(
    "given",
    [
        "no token",
        make_token(sub="system:serviceaccount:kube-system:admin"),
        make_token(sub="system:admin"),
        make_token(hours=-1),
    ],
)
async def test_what_a_hostile_worker_gives_is_not_stored(scene: Scene, given: str) -> None:
    scene.gives(given)
    await scene.after(1.5).renewal.look()
    assert (scene.asked, scene.written) == (1, 0)


async def test_failures_are_tried_again_with_longer_pauses(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    scene.server.stage("POST", TOKENS, status(403, "Forbidden", "may not"), standing=True)
    start = scene.after(1.5).now
    for seconds, asked in ((0, 1), (29, 1), (31, 2), (89, 2), (92, 3)):
        scene.now = start + datetime.timedelta(seconds=seconds)
        await scene.renewal.look()
        assert scene.asked == asked, seconds
    assert scene.old not in caplog.text
    assert "token not renewed" in caplog.text


async def test_a_secret_that_changed_meanwhile_is_not_overwritten(scene: Scene) -> None:
    scene.server.stage(
        "POST", TOKENS, Answer(201, {"kind": "TokenRequest", "status": {"token": make_token()}})
    )
    scene.server.stage("PUT", SECRET, status(409, "Conflict", "changed"))
    await scene.after(1.5).renewal.look()
    assert scene.written == 1


async def test_a_replica_that_lost_its_lease_writes_nothing(scene: Scene) -> None:
    scene.gives(make_token())
    scene.leads = False
    await scene.after(1.5).renewal.look()
    assert scene.written == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "opaque",
        "a.b.c",
        make_token(sub="system:admin"),
        make_token(exp=None),
        make_token(iat="soon"),
        "é.é.é",
    ],
)
def test_what_is_no_accounts_token(text: str) -> None:
    assert account_token.read_token(text) is None


def test_a_token_is_not_shown() -> None:
    text = make_token()
    assert text not in repr(account_token.read_token(text))
