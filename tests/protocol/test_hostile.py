"""A worker that means harm: whatever it sends costs its own connection, not the process."""

import asyncio
import json
from typing import Any

import pytest

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.listing import _EMPTY_PAGES
from dispatcher.clusters.reflector import Reflector, WatchSettings
from tests.protocol.fake_server import JOBS, Answer, FakeApiServer, make_job, until

QUICK: dict[str, Any] = {"backoff_first": 0.002, "backoff_cap": 0.01}


class Running:
    """A reflector at work."""

    def __init__(self, api: ApiServer, **settings: Any) -> None:
        self.reflector = Reflector(api, JOBS, ObjectCache(), settings=WatchSettings(**QUICK, **settings))

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
