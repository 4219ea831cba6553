"""Writes wait together while the management API server is away, or has just started and knows nobody's rights."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from dispatcher.clusters.client import ApiServer
from dispatcher.operator import availability as module
from dispatcher.operator.availability import Availability
from tests.protocol.fake_server import Answer, FakeApiServer, status

READYZ = "/readyz"


@pytest.fixture
async def availability(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Availability]:
    monkeypatch.setattr(module, "PROBE_SECONDS", 0.01)
    found = Availability()
    found.attach(api)
    yield found
    await found.stop()


def report(availability: Availability, code: int) -> None:
    availability.observing(lambda *_: None)("PUT", "jobs/status", code, 0.1)


@pytest.mark.parametrize("code", [200, 403, 409, 422, 429, 500])
async def test_an_answer_holds_nobody_up(availability: Availability, code: int) -> None:
    report(availability, code)
    async with asyncio.timeout(30):
        await availability.wait()


async def test_after_no_answer_everybody_waits_until_the_server_is_ready(
    server: FakeApiServer, availability: Availability
) -> None:
    server.stage("GET", READYZ, status(403, "Forbidden"), status(500, "Error"), Answer(raw=b"ok"))
    report(availability, 0)
    waiting = [asyncio.create_task(availability.wait()) for _ in range(3)]
    async with asyncio.timeout(30):
        await asyncio.gather(*waiting)
    assert server.count("GET", READYZ) == 3, "one probe for all of them"


async def test_a_403_of_a_server_that_is_not_ready_says_nothing(
    server: FakeApiServer, availability: Availability
) -> None:
    server.stage("GET", READYZ, status(403, "Forbidden"), Answer(raw=b"ok"))
    assert not await availability.knows_rights()
    async with asyncio.timeout(30):
        await availability.wait()
    server.stage("GET", READYZ, Answer(raw=b"ok"))
    assert await availability.knows_rights()


async def test_a_server_that_forbids_the_question_is_believed_after_a_while(
    server: FakeApiServer, availability: Availability, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FORBIDDEN_SECONDS", 0.05)
    server.stage("GET", READYZ, status(403, "Forbidden"), standing=True)
    assert not await availability.knows_rights()
    async with asyncio.timeout(30):
        await availability.wait()
    assert await availability.knows_rights()
