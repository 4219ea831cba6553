"""Who may read /metrics: every way in which it can be asked and answered, through the HTTP endpoint."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from dispatcher.clusters.client import ApiServer
from dispatcher.operator import endpoints, metrics_access
from dispatcher.operator.metrics_access import ALLOWED_SECONDS, REFUSED_SECONDS, REMEMBERED, MetricsAccess
from tests.protocol.fake_server import Answer, FakeApiServer, status

TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
GOOD = "Bearer a-good-token"

USER = {
    "username": "system:serviceaccount:monitoring:prometheus",
    "groups": ["g"],
    "uid": "u",
    "extra": {"x": ["y"]},
}


def review(**fields: Any) -> Answer:
    return Answer(201, {"kind": "TokenReview", "status": fields})


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Endpoint:
    """The served port, with an API server behind it that knows one token."""

    def __init__(self, server: FakeApiServer, session: aiohttp.ClientSession, url: str, clock: Clock) -> None:
        self.server, self.session, self.url, self.clock = server, session, url, clock

    async def status(self, authorization: str | None, path: str = "/metrics") -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        async with self.session.get(self.url + path, headers=headers) as response:
            text = await response.text()
            assert ("# HELP " in text) == (response.status == 200 and path == "/metrics")
            assert "a-good-token" not in text
            return response.status

    def asked(self) -> tuple[int, int]:
        return self.server.count("POST", TOKENS), self.server.count("POST", ACCESS)


@pytest.fixture
async def endpoint(server: FakeApiServer, api: ApiServer) -> AsyncIterator[Endpoint]:
    clock = Clock()
    server.stage("POST", TOKENS, review(authenticated=True, user=USER), standing=True)
    server.stage("POST", ACCESS, Answer(201, {"status": {"allowed": True}}), standing=True)
    access = MetricsAccess(api, clock=clock)
    runner = await endpoints.serve("127.0.0.1:0", healthy=lambda: "", ready=lambda: "", access=access.judge)
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as session:
        yield Endpoint(server, session, f"http://127.0.0.1:{port}", clock)
    await runner.cleanup()


async def test_with_rights(endpoint: Endpoint) -> None:
    assert await endpoint.status(GOOD) == 200
    assert await endpoint.status(GOOD, "/debug/state") == 200
    assert endpoint.asked() == (1, 1), "the answer is remembered"
    [sent] = [seen for seen in endpoint.server.seen if seen.path == ACCESS]
    assert b'"nonResourceAttributes":{"path":"/metrics","verb":"get"}' in sent.body
    for part in (b"prometheus", b'"groups":["g"]', b'"uid":"u"', b'"extra":{"x":["y"]}'):
        assert part in sent.body
    endpoint.clock.now = ALLOWED_SECONDS - 1
    assert await endpoint.status("bearer   a-good-token") == 200
    assert endpoint.asked() == (1, 1)
    endpoint.clock.now = ALLOWED_SECONDS + 1
    assert await endpoint.status(GOOD) == 200
    assert endpoint.asked() == (2, 2), "and not for ever"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "a-good-token",
        "Token a-good-token",
        "Bearer " + "x" * 7000,
    ],
    ids=repr,
)
@pytest.mark.parametrize("path", ["/metrics", "/debug/state"])
async def test_without_a_token(endpoint: Endpoint, authorization: str | None, path: str) -> None:
    endpoint.server.stage("POST", TOKENS, review(authenticated=False), standing=True)
    assert await endpoint.status(authorization, path) == 401


async def test_no_token_asks_nobody_and_probes_stay_open(endpoint: Endpoint) -> None:
    assert await endpoint.status(None) == 401
    assert await endpoint.status(None, "/healthz") == 200
    assert await endpoint.status(None, "/readyz") == 200
    assert endpoint.asked() == (0, 0)


NOT_ACCEPTED: dict[str, Answer] = {
    "refused": review(authenticated=False, error="unknown"),
    "no status": Answer(201, {"kind": "TokenReview"}),
    "a status that is none": Answer(201, {"status": "authenticated"}),
    "true in words": review(authenticated="true", user=USER),
    "nobody": review(authenticated=True, user={}),
}


@pytest.mark.parametrize("answer", NOT_ACCEPTED.values(), ids=NOT_ACCEPTED)
async def test_a_bad_token(endpoint: Endpoint, answer: Answer) -> None:
    endpoint.server.stage("POST", TOKENS, answer, standing=True)
    assert await endpoint.status("Bearer wrong") == 401
    assert await endpoint.status("Bearer wrong") == 401
    assert endpoint.asked() == (1, 0)
    # What was refused may be right a moment later.
    endpoint.server.stage("POST", TOKENS, review(authenticated=True, user=USER), standing=True)
    endpoint.clock.now = REFUSED_SECONDS + 1
    assert await endpoint.status("Bearer wrong") == 200


@pytest.mark.parametrize(
    "found", [{"allowed": False}, {"allowed": "yes"}, {}, {"allowed": True, "denied": True}], ids=str
)
async def test_a_token_without_rights(endpoint: Endpoint, found: dict[str, Any]) -> None:
    endpoint.server.stage("POST", ACCESS, Answer(201, {"status": found}), standing=True)
    assert await endpoint.status(GOOD) == 403


AWAY: dict[str, Answer] = {
    "an error": status(500, "InternalError"),
    "overloaded": status(429, "TooManyRequests"),
    "no rights of our own": status(403, "Forbidden"),
    "a torn answer": Answer(201, {"status": {"authenticated": True, "allowed": True}}, cut=True),
    "a page of a proxy": Answer(200, raw=b"<html>"),
    "not there": Answer(404, raw=b"404 page not found"),
}


@pytest.mark.parametrize("answer", AWAY.values(), ids=AWAY)
@pytest.mark.parametrize("path", [TOKENS, ACCESS], ids=["who", "whether"])
async def test_an_api_server_that_cannot_be_asked_opens_nothing(
    endpoint: Endpoint, answer: Answer, path: str
) -> None:
    endpoint.server.stage("POST", path, answer, standing=True)
    assert await endpoint.status(GOOD) == 503
    endpoint.server.unstage()
    endpoint.server.stage("POST", TOKENS, review(authenticated=True, user=USER), standing=True)
    endpoint.server.stage("POST", ACCESS, Answer(201, {"status": {"allowed": True}}), standing=True)
    assert await endpoint.status(GOOD) == 200, "a 503 is not remembered"


async def test_an_api_server_that_is_gone_opens_nothing(endpoint: Endpoint) -> None:
    assert await endpoint.status(GOOD) == 200
    await endpoint.server.stop()
    assert await endpoint.status(GOOD) == 200, "what was said holds for its minute"
    assert await endpoint.status("Bearer another") == 503
    endpoint.clock.now = ALLOWED_SECONDS + 1
    assert await endpoint.status(GOOD) == 503


async def test_what_is_remembered_is_bounded_and_a_flood_drives_nobody_out(
    server: FakeApiServer, api: ApiServer
) -> None:
    access = MetricsAccess(api, clock=Clock())
    server.stage("POST", TOKENS, review(authenticated=True, user=USER))
    server.stage("POST", ACCESS, Answer(201, {"status": {"allowed": True}}))
    assert (await access.judge(GOOD)).status == 200
    server.stage("POST", TOKENS, review(authenticated=False), standing=True)
    for number in range(REMEMBERED + 50):
        assert (await access.judge(f"Bearer wrong-{number}")).status == 401
    before = server.count("POST", TOKENS)
    assert (await access.judge(GOOD)).status == 200
    assert server.count("POST", TOKENS) == before
    assert len(access._refused) == REMEMBERED
    assert len(access._allowed) == 1


async def test_a_flood_of_tokens_is_no_flood_of_reviews(
    server: FakeApiServer, api: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_access, "WAIT_SECONDS", 0.2)
    access = MetricsAccess(api, clock=Clock())
    server.stage("POST", TOKENS, Answer(hang=True), standing=True)
    verdicts = await asyncio.gather(*(access.judge(f"Bearer wrong-{number}") for number in range(50)))
    assert {verdict.status for verdict in verdicts} == {503}
    assert server.count("POST", TOKENS) <= metrics_access.ASKED_AT_ONCE


async def test_the_same_token_at_once_is_asked_about_once(server: FakeApiServer, api: ApiServer) -> None:
    access = MetricsAccess(api, clock=Clock())
    server.stage("POST", TOKENS, review(authenticated=True, user=USER), standing=True)
    server.stage("POST", ACCESS, Answer(201, {"status": {"allowed": True}}), standing=True)
    verdicts = await asyncio.gather(*(access.judge(GOOD) for _ in range(40)))
    assert {verdict.status for verdict in verdicts} == {200}
    assert server.count("POST", TOKENS) <= metrics_access.ASKED_AT_ONCE
