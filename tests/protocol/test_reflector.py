import asyncio
import contextlib
import dataclasses
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.reflector import Reflector, WatchSettings
from dispatcher.clusters.reply import Outcome, Reply
from tests.protocol.fake_server import JOBS, Answer, FakeApiServer, Watch, make_job, status, until

QUICK = WatchSettings(page_size=2, backoff_first=0.002, backoff_cap=0.01)


@contextlib.asynccontextmanager
async def reflecting(
    api: ApiServer, *, settings: WatchSettings = QUICK, **options: Any
) -> AsyncIterator[Reflector]:
    reflector = Reflector(
        api, JOBS, ObjectCache(), label_selector="o=x", settings=settings, rng=random.Random(1), **options
    )
    task = asyncio.create_task(reflector.run())
    try:
        yield reflector
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), "nothing but a cancellation ends it"


def names(reflector: Reflector) -> set[str]:
    return {item["metadata"]["name"] for item in reflector.cache}


def holds(reflector: Reflector, *expected: str) -> Callable[[], bool]:
    return lambda: names(reflector) == set(expected)


async def test_it_lists_in_pages_and_then_watches(server: FakeApiServer, api: ApiServer) -> None:
    for name in "abcde":
        server.job(name)
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        assert reflector.synced.is_set()
        assert names(reflector) == set("abcde")
        pages = server.queries("GET", JOBS)
        assert [page.get("continue") for page in pages] == [None, "2", "4"]
        assert {page["labelSelector"] for page in pages} == {"o=x"}
        assert not any("resourceVersion" in page for page in pages), "the most recent state, not a cached one"
        item = reflector.cache.get("ns", "a")
        assert item is not None
        assert (item["kind"], item["apiVersion"]) == ("Job", "batch/v1"), "lists leave these out of items"
        query = watch.seen.query
        assert (query["resourceVersion"], query["allowWatchBookmarks"], query["labelSelector"]) == (
            str(server.version),
            "true",
            "o=x",
        )
        assert 300 <= int(query["timeoutSeconds"]) <= 600
        await until(lambda: reflector.connected)


async def test_events_change_the_cache(server: FakeApiServer, api: ApiServer) -> None:
    server.job("a")
    async with reflecting(api) as reflector:
        told: list[tuple[int, bool]] = []
        watch = await server.next_watch()
        reflector.cache.on_delete = lambda last, final: told.append((last["status"]["succeeded"], final))
        watch.send("ADDED", server.job("b"))
        watch.send("MODIFIED", server.job("a", status={"succeeded": 1}))
        await until(lambda: (reflector.cache.get("ns", "a") or {}).get("status") == {"succeeded": 1})
        last = server.remove("a") | {"status": {"succeeded": 2}}
        watch.send("DELETED", last)
        await until(holds(reflector, "b"))
        assert told == [(2, True)]


async def test_duplicates_and_reordered_events_change_nothing(server: FakeApiServer, api: ApiServer) -> None:
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        first, second = server.job("a", status={"n": 1}), server.job("a", status={"n": 2})
        for item in (second, first, second, first):
            watch.send("MODIFIED", item)
        gone, late = server.job("b"), server.job("b")
        watch.send("ADDED", gone)
        watch.send("DELETED", server.remove("b"))
        watch.send("MODIFIED", late)
        watch.send("ADDED", server.job("end"))
        await until(lambda: "end" in names(reflector))
        assert names(reflector) == {"a", "end"}
        assert (reflector.cache.get("ns", "a") or {})["status"] == {"n": 2}


async def test_a_watch_resumes_from_the_last_bookmark(server: FakeApiServer, api: ApiServer) -> None:
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        watch.bookmark(5000)
        watch.end()
        again = await server.next_watch()
        assert again.version == "5000"
        assert server.count("GET", JOBS) == 1, "no new list"
        await until(lambda: reflector.connected)
        assert reflector.reconnects == 1


async def test_a_watch_that_the_server_ends_is_no_error(server: FakeApiServer, api: ApiServer) -> None:
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        watch.send("ADDED", server.job("a"))
        watch.end()
        again = await server.next_watch()
        assert again.version == str(server.version)
        assert reflector.last_error is None


EXPIRED = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}


def _expired_event(server: FakeApiServer, watch: Watch) -> None:
    watch.send("ERROR", EXPIRED)


def _expired_event_without_code(server: FakeApiServer, watch: Watch) -> None:
    watch.send("ERROR", {key: value for key, value in EXPIRED.items() if key != "code"})


def _expired_answer(server: FakeApiServer, watch: Watch) -> None:
    server.stage("WATCH", JOBS, status(410, "Expired"))
    watch.cut()


@pytest.mark.parametrize(
    "expire",
    [
        pytest.param(_expired_event, id="as an event"),
        pytest.param(_expired_event_without_code, id="as an event without a code"),
        pytest.param(_expired_answer, id="as the answer to a watch"),
    ],
)
async def test_410_leads_to_a_list_and_its_difference(
    server: FakeApiServer, api: ApiServer, expire: Callable[[FakeApiServer, Watch], None]
) -> None:
    server.job("stays")
    server.job("goes")
    async with reflecting(api) as reflector:
        deleted: list[tuple[str, bool]] = []
        watch = await server.next_watch()
        reflector.cache.on_delete = lambda last, final: deleted.append((last["metadata"]["name"], final))
        server.remove("goes")  # in the gap: no event tells
        server.job("comes")
        server.version += 10
        expire(server, watch)
        again = await server.next_watch()
        assert again.version == str(server.version)
        assert names(reflector) == {"stays", "comes"}
        assert deleted == [("goes", False)], "its final state is not known"
        assert reflector.lists == 2


async def test_410_in_mid_list_starts_the_list_over(server: FakeApiServer, api: ApiServer) -> None:
    for name in "abcde":
        server.job(name)
    pages = [server._page({"limit": "2", "continue": token}) for token in ("0", "2")]
    server.stage("GET", JOBS, pages[0], status(410, "Expired"), pages[0], pages[1], status(410, "Expired"))
    async with reflecting(api) as reflector:
        await server.next_watch()
        assert names(reflector) == set("abcde")
        queries = server.queries("GET", JOBS)
        assert [query.get("continue") for query in queries] == [None, "2", None, "2", "4", None]
        assert "limit" not in queries[-1], "after two tries all is asked for in one piece"
        assert reflector.lists == 1


async def test_an_object_deleted_between_two_tries_of_a_list_goes(
    server: FakeApiServer, api: ApiServer
) -> None:
    for name in "abc":
        server.job(name)
    first = server._page({"limit": "2"})
    server.remove("a")
    server.stage("GET", JOBS, first, status(410, "Expired"))
    async with reflecting(api) as reflector:
        await server.next_watch()
        assert names(reflector) == {"b", "c"}


async def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(
    server: FakeApiServer, api: ApiServer
) -> None:
    for name in "abcd":
        server.job(name, spec={"x": "y" * 500})
    settings = WatchSettings(page_size=4, max_page_bytes=1_500, backoff_first=0.002, backoff_cap=0.01)
    async with reflecting(api, settings=settings) as reflector:
        await server.next_watch()
        assert names(reflector) == set("abcd")
        assert [query["limit"] for query in server.queries("GET", JOBS)] == ["4", "1", "1", "1", "1"]


async def test_what_was_written_while_a_list_was_under_way_stays(
    server: FakeApiServer, api: ApiServer
) -> None:
    for name in "abc":
        server.job(name)
    async with reflecting(api) as reflector:
        await server.next_watch()
        server.stage("GET", JOBS, server._page({"limit": "2"}))
        server.stage(
            "GET", JOBS, dataclasses.replace(server._page({"limit": "2", "continue": "2"}), hang=True)
        )
        reflector.invalidate()
        await until(lambda: len(server.queries("GET", JOBS)) == 4)
        reflector.cache.put(server.job("new"))  # the reply to a write of ours
        server.unstage()
        again = await server.next_watch()
        assert names(reflector) == {"a", "b", "c", "new"}
        assert int(again.version) == server.version - 1, "the watch starts at the list, before that write"


async def test_more_objects_than_allowed_are_an_error(server: FakeApiServer, api: ApiServer) -> None:
    for name in "abc":
        server.job(name)
    settings = WatchSettings(max_objects=2, backoff_first=0.002, backoff_cap=0.01)
    async with reflecting(api, settings=settings) as reflector:
        await until(lambda: reflector.last_error)
        assert reflector.last_error is not None
        assert reflector.last_error.reason == "TooManyObjects"
        assert not reflector.synced.is_set()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(status(403, "Forbidden"), "Forbidden", id="403"),
        pytest.param(status(401, "Unauthorized"), "Unauthorized", id="401"),
        pytest.param(status(503, "ServiceUnavailable"), "ServiceUnavailable", id="503"),
        pytest.param(Answer(body={"kind": "JobList"}), "ListBroken", id="a list without anything"),
        pytest.param(
            Answer(body={"kind": "JobList", "apiVersion": "v1", "items": [1]}),
            "ListBroken",
            id="a list of no objects",
        ),
        pytest.param(Answer(raw=b"[]"), "NotKubernetes", id="no list"),
        pytest.param(Answer(body={"items": []}, cut=True), "ConnectionClosed", id="torn"),
        pytest.param(Answer(hang=True), "Timeout", id="silence"),
    ],
)
async def test_a_list_that_fails_is_tried_again(
    server: FakeApiServer, api: ApiServer, answer: Answer, reason: str
) -> None:
    settings = dataclasses.replace(QUICK, list_timeout=0.05) if answer.hang else QUICK
    server.stage("GET", JOBS, answer, standing=True)
    server.job("a")
    async with reflecting(api, settings=settings) as reflector:
        await until(lambda: server.count("GET", JOBS) >= 3)
        assert reflector.last_error is not None
        assert reflector.last_error.reason == reason
        assert not reflector.synced.is_set()
        server.unstage()
        await server.next_watch()
        await until(lambda: reflector.connected)
        assert names(reflector) == {"a"}
        assert reflector.last_error is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(status(403, "Forbidden"), "Forbidden", id="403"),
        pytest.param(status(500, "InternalError"), "InternalError", id="500"),
        pytest.param(Answer(body={}, raw=b""), "Closed", id="closed at once, again and again"),
    ],
)
async def test_a_watch_that_is_refused_is_tried_again_without_a_list(
    server: FakeApiServer, api: ApiServer, answer: Answer, reason: str
) -> None:
    server.stage("WATCH", JOBS, answer, standing=True)
    async with reflecting(api) as reflector:
        await until(lambda: server.count("WATCH", JOBS) >= 3)
        await until(lambda: reflector.last_error)
        assert reflector.last_error is not None
        assert reflector.last_error.reason == reason
        assert reflector.synced.is_set(), "what was listed stays usable"
        assert server.count("GET", JOBS) == 1
        server.unstage()
        await server.next_watch()
        await until(lambda: reflector.connected)
        assert server.count("GET", JOBS) == 1


async def test_retry_after_is_kept_to(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", JOBS, Answer(429, raw=b"", headers={"Retry-After": "1"}))
    settings = WatchSettings(backoff_first=0.002, backoff_cap=0.05)  # the wait is bounded by six caps
    started = asyncio.get_running_loop().time()
    async with reflecting(api, settings=settings):
        await server.next_watch()
        assert asyncio.get_running_loop().time() - started >= 0.3


async def test_kick_ends_a_wait(server: FakeApiServer, api: ApiServer) -> None:
    server.stage("GET", JOBS, status(503))
    settings = WatchSettings(backoff_first=1000, backoff_cap=1000)
    async with reflecting(api, settings=settings) as reflector:
        await until(lambda: reflector.last_error)
        reflector.kick()
        await server.next_watch()


async def test_silence_ends_a_watch_and_it_resumes(server: FakeApiServer, api: ApiServer) -> None:
    item = server.job("a")
    server.objects.clear()
    server.version -= 1  # the list is from before the Job
    server.on_watch = lambda watch: watch.send("ADDED", item)
    async with reflecting(api, settings=dataclasses.replace(QUICK, idle_timeout=0.05)) as reflector:
        await until(holds(reflector, "a"))
        versions = set()
        while item["metadata"]["resourceVersion"] not in versions:
            versions.add((await server.next_watch()).version)  # nothing is ever cut: only silence ends one
        assert server.count("GET", JOBS) == 1
        await until(lambda: reflector.reconnects >= 1)


async def test_a_watch_that_is_not_answered_is_given_up(server: FakeApiServer, api: ApiServer) -> None:
    settings = WatchSettings(open_timeout=0.03, backoff_first=0.002, backoff_cap=0.01)
    server.stage("WATCH", JOBS, Answer(hang=True))
    async with reflecting(api, settings=settings):
        await server.next_watch()


async def test_a_torn_line_is_dropped_and_comes_again(server: FakeApiServer, api: ApiServer) -> None:
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        before = watch.version
        item = server.job("a")
        watch.raw(json.dumps({"type": "ADDED", "object": item}).encode()[:-20])
        watch.cut()
        again = await server.next_watch()
        assert again.version == before
        assert names(reflector) == set()
        line = json.dumps({"type": "ADDED", "object": item}).encode()
        for start in range(0, len(line), 7):  # in small pieces, with an empty line around
            again.raw(line[start : start + 7])
        again.raw(b"\n\n")
        await until(holds(reflector, "a"))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"{not json}\n", id="not JSON"),
        pytest.param(b'{"type": "ADDED"}\n', id="no object"),
        pytest.param(
            b'{"type": "ADDED", "object": {"metadata": {"resourceVersion": "x"}}}\n', id="no version"
        ),
        pytest.param(b'["ADDED"]\n', id="no event"),
        pytest.param(b"x" * 30_000 + b"\n", id="too long"),
        pytest.param(b"x" * 30_000, id="too long and without end"),
    ],
)
async def test_a_broken_line_that_comes_again_is_passed_by_a_list(
    server: FakeApiServer, api: ApiServer, line: bytes
) -> None:
    settings = WatchSettings(max_line_bytes=20_000, backoff_first=0.002, backoff_cap=0.01)
    async with reflecting(api, settings=settings) as reflector:
        watch = await server.next_watch()
        watch.send("ADDED", server.job("a"))
        await until(holds(reflector, "a"))
        watch.raw(line)
        again = await server.next_watch()
        assert again.version == str(server.version), "resumed before the broken line"
        assert reflector.lists == 1
        server.job("b")
        again.raw(line)
        await server.next_watch()
        assert reflector.lists == 2
        assert names(reflector) == {"a", "b"}


async def test_unknown_event_types_are_passed_over(server: FakeApiServer, api: ApiServer) -> None:
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        watch.send("SOMETHING", make_job("x", 1))
        watch.send("ADDED", server.job("a"))
        await until(holds(reflector, "a"))


async def test_a_restored_store_is_noticed_by_its_bookmarks(server: FakeApiServer, api: ApiServer) -> None:
    server.version = 5000
    server.job("a")
    server.job("lost")
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        server.objects.clear()
        server.version = 200  # a backup: lower versions, "lost" was made after it
        server.job("a", status={"n": 1})
        watch.bookmark(server.version)
        again = await server.next_watch()
        assert again.version == "201"
        assert names(reflector) == {"a"}
        assert (reflector.cache.get("ns", "a") or {})["status"] == {"n": 1}


async def test_reconnect_drops_a_watch_that_may_be_dead(server: FakeApiServer, api: ApiServer) -> None:
    async with reflecting(api) as reflector:
        await server.next_watch()
        await until(lambda: reflector.connected)
        reflector.reconnect()
        await server.next_watch()
        assert server.count("GET", JOBS) == 1
        assert reflector.last_error is None


async def test_invalidate_lists_again(server: FakeApiServer, api: ApiServer) -> None:
    async with reflecting(api) as reflector:
        await server.next_watch()
        await until(lambda: reflector.connected)
        server.job("a")
        reflector.invalidate()
        await server.next_watch()
        assert names(reflector) == {"a"}


async def test_a_list_waits_for_the_identity_to_be_verified(server: FakeApiServer, api: ApiServer) -> None:
    verified = Reply(Outcome.CONFLICT, reason="ClusterChanged")

    async def verify() -> Reply:
        return verified

    async with reflecting(api, verify=verify) as reflector:
        await until(lambda: reflector.last_error)
        assert reflector.last_error is not None
        assert reflector.last_error.reason == "ClusterChanged"
        assert server.count("GET", JOBS) == 0
        verified = Reply(Outcome.OK)
        await server.next_watch()


async def test_a_burst_lets_other_tasks_run(server: FakeApiServer, api: ApiServer) -> None:
    events = 20_000
    async with reflecting(api) as reflector:
        watch = await server.next_watch()
        lines = [
            json.dumps({"type": "ADDED", "object": make_job(f"j{n % 100}", server.version + 1 + n)}).encode()
            for n in range(events)
        ]
        watch.raw(b"\n".join(lines) + b"\n")
        turns = 0
        while reflector.cache.highest_version < server.version + events:
            await asyncio.sleep(0)
            turns += 1 if reflector.cache.highest_version > server.version else 0
        assert turns >= 10, "events are handled in slices of about 10 ms"
