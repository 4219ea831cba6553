"""A worker that means harm: whatever it sends costs its own connection, not the process."""

import asyncio
import base64
import contextlib
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.clusters import account_token, jobs, prerequisites, stream
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.foreign_jobs import kept, weight
from dispatcher.clusters.kubeconfig import Credentials
from dispatcher.clusters.listing import _EMPTY_PAGES
from dispatcher.clusters.permissions import MIRROR_ACCESS, missing_permissions
from dispatcher.clusters.reflector import Reflector, WatchSettings
from dispatcher.clusters.reply import Outcome
from tests.protocol.fake_server import (
    JOBS,
    KUBE_SYSTEM,
    REVIEWS,
    Answer,
    FakeApiServer,
    make_job,
    status,
    until,
)

JOB = f"{JOBS.replace('/jobs', '/namespaces/ns/jobs')}/a"

QUICK: dict[str, Any] = {"backoff_first": 0.002, "backoff_cap": 0.01}


@pytest.fixture
async def api(server: FakeApiServer) -> AsyncIterator[ApiServer]:
    """A patient client: what is sent here may take a while to be refused."""
    credentials = Credentials(server=server.url, token="secret-token")
    client = ApiServer.from_credentials(credentials, timeout=30.0, allow_http=True)
    yield client
    await client.close()


class Running:
    """A reflector at work."""

    def __init__(self, api: ApiServer, *, max_weight: int | None = None, **settings: Any) -> None:
        cache = ObjectCache(trim=kept, weigh=weight, max_weight=max_weight)
        self.reflector = Reflector(api, JOBS, cache, settings=WatchSettings(**QUICK, **settings))

    async def __aenter__(self) -> Reflector:
        self._task = asyncio.create_task(self.reflector.run())
        return self.reflector

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        assert self._task.cancelled(), "whatever was sent has not ended it"


def page(items: list[dict[str, Any]], *, more: str = "") -> Answer:
    metadata = {"resourceVersion": "1", **({"continue": more} if more else {})}
    return Answer(200, {"kind": "JobList", "apiVersion": "batch/v1", "metadata": metadata, "items": items})


async def given_up(reflector: Reflector, reason: str, words: str = "") -> None:
    def seen() -> bool:
        error = reflector.last_error
        return error is not None and error.reason == reason and words in error.message

    await until(seen)
    assert not reflector.synced.is_set(), "a list that was not taken in whole concludes nothing"


async def test_a_list_without_an_end(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", JOBS, page([], more="on and on"), standing=True)
    async with Running(api) as reflector:
        await given_up(reflector, "TooManyObjects", f"{_EMPTY_PAGES} empty pages")


async def test_more_objects_than_anyone_has(server: FakeApiServer, api: ApiServer) -> None:
    jobs = [make_job(f"j{number}", version=1) for number in range(20)]
    server.stage("GET", JOBS, page(jobs, more="next"), standing=True)
    async with Running(api, max_objects=10) as reflector:
        await given_up(reflector, "TooManyObjects", "10 objects")


async def test_a_list_that_would_fill_the_memory(server: FakeApiServer, api: ApiServer) -> None:
    job = make_job("large", version=1) | {"spec": {"x": "y" * 5_000}}
    server.stage("GET", JOBS, page([job], more="next"), standing=True)
    async with Running(api, max_total_bytes=20_000) as reflector:
        await given_up(reflector, "TooManyObjects", "20000 bytes")


async def test_one_object_that_would_fill_the_memory(server: FakeApiServer, api: ApiServer) -> None:
    job = make_job("large", version=1) | {"spec": {"x": "y" * 5_000}}
    server.stage("GET", JOBS, page([job]), standing=True)
    async with Running(api, max_page_bytes=2_000) as reflector:
        await given_up(reflector, "ReplyTooLarge")


async def test_events_that_would_fill_the_memory_end_in_a_list(server: FakeApiServer, api: ApiServer) -> None:
    async with Running(api, max_total_bytes=20_000) as reflector:
        watch = await server.next_watch()
        for number in range(2, 30):
            watch.send("ADDED", make_job(f"made-up-{number}", version=number) | {"spec": {"x": "y" * 1_000}})
        await server.next_watch()
        assert reflector.lists == 2
        assert len(reflector.cache) == 0, "the list knows none of them"


async def test_one_event_without_an_end(server: FakeApiServer, api: ApiServer) -> None:
    server.job("a")
    async with Running(api, max_line_bytes=2_000) as reflector:
        watch = await server.next_watch()
        watch.raw(b'{"type": "ADDED", "object": ' + b"[" * 5_000)
        await until(lambda: reflector.last_error is not None)
        assert reflector.last_error is not None
        assert reflector.last_error.reason == "LineTooLarge"
        assert len(reflector.cache) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>Please log in</html>",
        b"[]",
        b'"Jobs"',
        b"\xff\xfe\x00",
        b"{" * 100_000,
        b'{"kind": "JobList", "metadata": {"resourceVersion": {}}, "items": 3}',
        b'{"kind": "JobList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [1, null]}',
        b'{"kind": "JobList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": [{"metadata": []}]}',
    ],
    ids=lambda raw: repr(raw[:24]),
)
@pytest.mark.parametrize("content_type", ["application/json", "text/html", "application/x-protobuf"])
async def test_what_is_no_list_of_jobs(
    server: FakeApiServer, api: ApiServer, raw: bytes, content_type: str
) -> None:
    server.stage("GET", JOBS, Answer(200, raw=raw, content_type=content_type), standing=True)
    async with Running(api) as reflector:
        await until(lambda: reflector.last_error is not None)
        assert not reflector.synced.is_set()
        assert len(reflector.cache) == 0


@pytest.mark.parametrize(
    "event",
    [
        {"type": "ADDED", "object": None},
        {"type": "ADDED", "object": {"metadata": {"name": 5}}},
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "many"}}},
        {"type": "DELETED"},
        {"type": "ADDED", "object": make_job("b", 900) | {"status": {"succeeded": -1}}},
        {"type": "DELETED", "object": make_job("a", 900) | {"status": {"succeeded": "all"}}},
        {"type": "MODIFIED", "object": make_job("a", 900) | {"spec": {"parallelism": 2**40}}},
        [],
    ],
    ids=json.dumps,
)
async def test_what_is_no_event(server: FakeApiServer, api: ApiServer, event: Any) -> None:
    server.job("a")
    async with Running(api) as reflector:
        watch = await server.next_watch()
        watch.raw(json.dumps(event).encode() + b"\n")
        await server.next_watch()
        assert [it["metadata"]["name"] for it in reflector.cache] == ["a"]


LIES: dict[str, dict[str, Any]] = {
    "a negative counter": {"status": {"succeeded": -1}},
    "an absurd counter": {"status": {"failed": 10**18}},
    "a counter in words": {"status": {"active": "many"}},
    "no spec": {"spec": None},
    "a spec of words": {"spec": "run it"},
    "a huge parallelism": {"spec": {"parallelism": 2**31}},
    "indexes without end": {"status": {"completedIndexes": "0," * 2**20}},
    "labels that are none": {"metadata": {"name": "a", "namespace": "ns", "uid": "u", "labels": {"a": []}}},
    "a name that is a path": {"metadata": {"name": "../../secrets", "namespace": "ns", "uid": "u"}},
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_a_list_with_a_job_that_no_api_server_sends(
    server: FakeApiServer, api: ApiServer, lie: dict[str, Any]
) -> None:
    """Nothing is concluded from it, and what it was is said; when the list is right again, all is well."""
    server.stage("GET", JOBS, page([make_job("good", 1), make_job("a", 1) | lie]), standing=True)
    async with Running(api) as reflector:
        await given_up(reflector, "ListBroken", "not a list of objects: ns/")
        assert "a" not in {item["metadata"]["name"] for item in reflector.cache}
        server.unstage()
        await server.next_watch()
        assert reflector.synced.is_set()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
@pytest.mark.parametrize("ask", ["get", "create", "patch", "delete"])
async def test_an_answer_with_a_job_that_no_api_server_sends(
    server: FakeApiServer, api: ApiServer, lie: dict[str, Any], ask: str
) -> None:
    """A fault of the cluster: not "done", not "gone", and nothing for the cache."""
    reply = await answered(server, api, ask, make_job("a", 1) | lie)
    assert (reply.outcome, reply.reason) == (Outcome.SERVER_ERROR, "NotKubernetes")


@pytest.mark.parametrize("ask", ["get", "create", "patch", "delete"])
@pytest.mark.parametrize(
    "other", [make_job("b", 1), make_job("a", 1, namespace="kube-system")], ids=["b", "system"]
)
async def test_an_answer_about_another_job(
    server: FakeApiServer, api: ApiServer, other: dict[str, Any], ask: str
) -> None:
    reply = await answered(server, api, ask, other)
    assert reply.outcome is Outcome.SERVER_ERROR
    assert "asked about ns/a, answered about" in reply.message
    assert (await answered(server, api, ask, make_job("a", 1))).ok


async def answered(server: FakeApiServer, api: ApiServer, ask: str, body: dict[str, Any]) -> Any:
    """What comes of a request about Job ns/a that is answered with this object."""
    method = {"get": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}[ask]
    path = JOB.removesuffix("/a") if ask == "create" else JOB
    server.stage(method, path, Answer(200, body))
    match ask:
        case "get":
            return await jobs.get_job(api, "ns", "a")
        case "create":
            return await jobs.create_job(api, "ns", make_job("a", 1))
        case "patch":
            return await jobs.patch_job(api, "ns", "a", {"spec": {"suspend": True}})
        case _:
            return await jobs.delete_job(api, "ns", "a", "uid-a")


async def test_a_get_that_is_answered_with_no_job(server: FakeApiServer, api: ApiServer) -> None:
    """An empty object would otherwise be the Job that was asked for."""
    for body in ({}, {"kind": "Pod", "metadata": {"name": "a"}}, {"kind": "Status", "status": "Success"}):
        server.stage("GET", JOB, Answer(200, body))
        assert (await jobs.get_job(api, "ns", "a")).outcome is Outcome.SERVER_ERROR


@pytest.mark.parametrize(
    "metadata",
    [[], {}, {"name": "kube-system"}, {"name": "kube-system", "uid": ["x"]}, {"name": "default", "uid": "x"}],
    ids=json.dumps,
)
async def test_what_is_not_the_namespace_that_names_the_cluster(
    server: FakeApiServer, api: ApiServer, metadata: Any
) -> None:
    server.stage("GET", KUBE_SYSTEM, Answer(200, {"kind": "Namespace", "metadata": metadata}))
    assert (await jobs.get_namespace(api, "kube-system")).reason == "NotKubernetes"


async def test_odd_answers_to_the_questions_at_the_start(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", "/version", Answer(200, {"gitVersion": "v1." + "9" * 100_000}))
    server.stage("POST", REVIEWS, Answer(201, {"status": ["allowed"]}), standing=True)
    found = await prerequisites.check(api, MIRROR_ACCESS, timeout=5)
    assert len(found.server_version) <= 64
    assert found.findings
    server.stage("POST", REVIEWS, Answer(201, {"status": {"allowed": "no"}}), standing=True)
    assert await missing_permissions(api, MIRROR_ACCESS) == list(MIRROR_ACCESS)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
async def test_a_packed_answer_that_unpacks_to_more_than_fits(
    server: FakeApiServer, api: ApiServer, pack: Any
) -> None:
    bomb = pack(b"[" + b" " * (16 * 2**20))
    assert len(bomb) < 100_000
    encoding = "gzip" if pack is gzip.compress else "deflate"
    answer = Answer(200, raw=bomb, headers={"Content-Encoding": encoding})
    server.stage("GET", JOB, answer)
    reply = await api.get(JOB, timeout=60)
    assert (reply.outcome, reply.reason) == (Outcome.UNREACHABLE, "ReplyTooLarge")
    server.stage("GET", JOBS, answer, standing=True)
    async with Running(api) as reflector:
        await given_up(reflector, "ReplyTooLarge")


async def test_a_packed_watch_line_without_an_end(server: FakeApiServer, api: ApiServer) -> None:
    server.job("a")
    bomb = Answer(
        200, raw=gzip.compress(b'{"type": "' + b"x" * (16 * 2**20)), headers={"Content-Encoding": "gzip"}
    )
    server.stage("WATCH", JOBS, bomb, standing=True)
    async with Running(api) as reflector:
        await until(lambda: reflector.last_error is not None)
        assert reflector.last_error is not None
        assert reflector.last_error.reason == "LineTooLarge"


GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "no HTTP": b"\x16\x03\x01\x00\x05hello",
    "a chunk of no length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "a chunk that is too short": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
    "less than it said": b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{}",
    "a length that is none": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{}",
    "headers without end": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000,
    "a header without end": b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 2**20,
    "a broken packing": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
    "informational answers": b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,
}


@contextlib.asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[ApiServer]:
    """A client of a server that answers every connection with these bytes and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    client = ApiServer.from_credentials(
        Credentials(server=f"http://127.0.0.1:{port}", token="secret-token"), timeout=5.0, allow_http=True
    )
    try:
        yield client
    finally:
        await client.close()
        listening.close()
        await listening.wait_closed()


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_no_answer_at_all(answer: bytes) -> None:
    async with raw_server(answer) as api:
        reply = await api.get(JOB)
        assert reply.outcome is Outcome.UNREACHABLE
        async with Running(api) as reflector:
            await until(lambda: reflector.last_error is not None)
            assert not reflector.synced.is_set()


async def test_a_list_that_would_fill_the_memory_once_it_is_decoded(
    server: FakeApiServer, api: ApiServer
) -> None:
    """Small as text: what counts is what it takes here. Until it is short again, none of it is kept."""
    for number in range(20):
        server.job(f"j{number}", metadata_padding="x")
    async with Running(api, max_weight=10 * 3000) as reflector:
        await given_up(reflector, "TooManyObjects", "--worker-memory-limit")
        assert len(reflector.cache) == 0
        for number in range(15):
            server.remove(f"j{number}")
        await server.next_watch()
        assert reflector.synced.is_set()
        assert len(reflector.cache) == 5


async def test_other_names_with_each_list_do_not_pile_up(server: FakeApiServer, api: ApiServer) -> None:
    pages = [page([make_job(f"j{turn}-{n}", 1) for n in range(6)], more="next") for turn in range(40)]
    server.stage("GET", JOBS, *pages)
    server.stage("GET", JOBS, Answer(500), standing=True)
    async with Running(api, max_objects=10) as reflector:
        most = 0
        while server.count("GET", JOBS) < 41:
            most = max(most, len(reflector.cache))
            await asyncio.sleep(0)
        assert most <= 12


async def test_a_ready_cluster_that_shows_too_much_is_not_ready_at_once(
    server: FakeApiServer, api: ApiServer
) -> None:
    async with Running(api, max_weight=10 * 3000) as reflector:
        watch = await server.next_watch()
        for number in range(30):
            watch.send("ADDED", server.job(f"made-up-{number}"))
        await until(lambda: not reflector.synced.is_set())
        assert len(reflector.cache) == 0


async def test_a_stream_of_bytes_that_never_make_an_event(server: FakeApiServer, api: ApiServer) -> None:
    """Bytes alone keep no watch alive: nothing would be seen of that cluster, and it would look well."""
    for drop in (b"\n", b" "):
        async with Running(api, idle_timeout=0.5) as reflector:
            watch = await server.next_watch()

            async def drip(watch: Any = watch, drop: bytes = drop) -> None:
                while not watch.closed.is_set():
                    watch.raw(drop)
                    await asyncio.sleep(0.01)

            dripping = asyncio.create_task(drip())
            await until(lambda: reflector.last_error is not None)
            assert reflector.last_error is not None
            assert reflector.last_error.reason == "WatchIdle"
            await dripping
        while not server.no_watch_waits():
            await server.next_watch()


async def test_a_flood_of_events_gets_half_of_the_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rested = 0.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, rested
        now += seconds
        rested += seconds

    monkeypatch.setattr("dispatcher.clusters.stream.asyncio.sleep", sleep)
    turns = stream._Turns(lambda: now)
    for _ in range(10_000):
        turns.begin()
        now += 0.02
        assert turns.over
        await turns.end()
    assert rested == pytest.approx(200 - 2 * stream._BURST_SECONDS, rel=0.05)
    rested_before = rested
    for _ in range(100):  # an honest one, busy for a tenth of the time
        now += 0.18
        turns.begin()
        now += 0.02
        await turns.end()
    assert rested - rested_before < 2 * stream._BURST_SECONDS


async def test_one_cluster_that_floods_holds_up_no_other(server: FakeApiServer, api: ApiServer) -> None:
    """A second server, well-behaved, in the same process."""
    line = json.dumps({"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "1"}}}).encode() + b"\n"
    async with raw_server(b"HTTP/1.1 200 OK\r\n\r\n" + line * 400_000) as hostile:
        endless = Reflector(hostile, JOBS, ObjectCache(), settings=WatchSettings(**QUICK))
        endless._version = 1  # its list is behind it
        flood = asyncio.create_task(endless.run())
        async with Running(api) as reflector:
            watch = await server.next_watch()
            for number in range(20):
                watch.send("ADDED", server.job(f"j{number}"))
                await until(lambda number=number: len(reflector.cache) > number)  # type: ignore[misc]
        flood.cancel()
        await asyncio.wait([flood])


@pytest.mark.parametrize("value", ["1" * 400, str(10**9), "1e400", "Fri, 31 Dec 9999 23:59:59 GMT"])
async def test_nobody_is_told_to_wait_for_ever(server: FakeApiServer, api: ApiServer, value: str) -> None:
    server.stage("GET", JOB, Answer(429, raw=b"slow", headers={"Retry-After": value}))
    reply = await api.get(JOB)
    assert reply.retry_after is None or reply.retry_after <= 60
    server.stage("GET", JOB, status(429, retryAfterSeconds=2**62))
    reply = await api.get(JOB)
    assert reply.retry_after is not None
    assert reply.retry_after <= 60


@pytest.mark.parametrize(
    "reason", ["LeaseLost", "ReplyTooLarge", "Aborted", "Closed", "x" * 10**6, 5, {"a": 1}]
)
async def test_a_server_cannot_speak_with_our_own_voice(
    server: FakeApiServer, api: ApiServer, reason: Any
) -> None:
    """Reasons of ours steer what is done next: "not sent" would be taken for "nothing happened"."""
    body = {"kind": "Status", "status": "Failure", "code": 500, "reason": reason}
    server.stage("PATCH", JOB, Answer(500, body))
    reply = await jobs.patch_job(api, "ns", "a", {})
    assert (reply.outcome, reply.reason) == (Outcome.SERVER_ERROR, "ServerError")


@pytest.mark.parametrize(
    "text",
    [
        "no such token: secret-token",
        "Authorization: Bearer secret-token is not valid",
        "you sent secret-token\nsecret-token",
    ],
)
@pytest.mark.parametrize("code", [200, 302, 400, 401, 403, 404, 409, 410, 429, 500, 503])
async def test_an_error_that_quotes_our_token(
    server: FakeApiServer, api: ApiServer, code: int, text: str
) -> None:
    """By a server, or by a proxy in between: it would go into conditions, Events and logs."""
    for answer in (Answer(code, raw=text.encode()), status(code, "Forbidden", text)):
        if code == 200 and answer.raw is None:
            continue
        server.stage("GET", JOB, answer)
        reply = await api.get(JOB)
        assert not reply.ok
        assert "secret-token" not in reply.message
        assert "secret-token" not in str(reply)
        assert "\n" not in reply.message


async def test_a_piece_of_our_token(server: FakeApiServer) -> None:
    token = "".join(chr(97 + number * 7 % 26) + str(number % 10) for number in range(400))
    api = ApiServer.from_credentials(Credentials(server=server.url, token=token), allow_http=True)
    try:
        for piece in (token[:40], token[100:700], token[-50:], token[33:90]):
            server.stage("GET", JOB, status(401, "Unauthorized", f"bad token {piece}..."))
            reply = await api.get(JOB)
            assert reply.message.startswith("bad token [token]")
            assert not any(token[at : at + 20] in reply.message for at in range(len(token) - 20))
    finally:
        await api.close()


async def test_a_message_steers_no_terminal(server: FakeApiServer, api: ApiServer) -> None:
    text = "\x1b[2J\x1b]0;owned\x07all is well\r\n\u202e\x00"
    server.stage("GET", JOB, status(500, "InternalError", text))
    message = (await api.get(JOB)).message
    assert message.isprintable()
    assert "all is well" in message


@pytest.mark.parametrize(
    "text",
    ["a.b", "a.b.c\nX-Injected: 1", "x" * 20_000 + ".a.b", "." * 3, "\u0661.\u0661.\u0661"],
    ids=range(5),
)
def test_what_is_no_token_is_never_stored(text: str) -> None:
    claims = {"sub": "system:serviceaccount:a:b", "iat": 1, "exp": 2}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    assert account_token.read_token(f"e30.{payload}.c2ln") is not None
    assert account_token.read_token(text) is None
    assert account_token.read_token(f"e30.{payload}.{text}") is None
