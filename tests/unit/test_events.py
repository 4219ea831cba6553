"""Events never become a flood."""

import asyncio
from typing import Any

import pytest

from dispatcher.core.actions import Event
from dispatcher.operator.events import BURST, PATIENCE, REFILL_SECONDS, Recorder

WAITING = Event("Warning", "ClusterUnreachable", "Waiting for cluster a: no answer")
DISPATCHED = Event("Normal", "Dispatched", "Divided over 1 cluster: a")


def job(number: int) -> dict[str, Any]:
    return {"metadata": {"name": f"j{number}", "namespace": "n", "uid": str(number)}}


class Posted(list[tuple[str, str]]):  # (Job, reason)
    async def __call__(self, namespace: str, body: dict[str, Any]) -> None:
        self.append((body["involvedObject"]["name"], body["reason"]))


async def test_a_thousand_waiting_jobs_cost_one_event_each_and_state_change() -> None:
    posted = Posted()
    recorder = Recorder(posted)
    for _look in range(20):
        for number in range(1000):
            recorder.record(job(number), WAITING)
    await recorder.drain()
    assert len(posted) == len(set(posted)) == 1000
    for number in range(1000):
        recorder.record(job(number), DISPATCHED)
    await recorder.drain()
    assert len(posted) == len(set(posted)) == 2000


async def test_a_state_that_flickers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("dispatcher.operator.events.monotonic", lambda: clock)
    posted = Posted()
    recorder = Recorder(posted)

    def flicker() -> None:
        for _turn in range(100):
            recorder.record(job(1), WAITING)
            recorder.record(job(1), DISPATCHED)

    flicker()
    recorder.record(job(2), WAITING)
    await recorder.drain()
    assert len(posted) == BURST + 1
    clock += 3 * REFILL_SECONDS
    flicker()
    await recorder.drain()
    assert len(posted) == BURST + 1 + 3


async def test_an_api_server_that_does_not_answer_costs_no_memory() -> None:
    posted = Posted()
    recorder = Recorder(posted, limit=10)
    for number in range(100):
        recorder.record(job(number), WAITING)
    await recorder.drain()
    assert [name for name, _ in posted] == [f"j{number}" for number in range(90, 100)]


async def test_events_wait_for_a_lull_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, busy = 0.0, True
    monkeypatch.setattr("dispatcher.operator.events.monotonic", lambda: clock)
    monkeypatch.setattr("dispatcher.operator.events._LOOK_SECONDS", 0)
    posted = Posted()
    recorder = Recorder(posted, busy=lambda: busy)
    running = asyncio.create_task(recorder.run())

    async def turns() -> list[str]:
        for _turn in range(20):
            await asyncio.sleep(0)
        return [name for name, _reason in posted]

    recorder.record(job(1), WAITING)
    assert await turns() == []
    clock = PATIENCE
    recorder.record(job(2), WAITING)
    assert await turns() == ["j1"]
    busy = False
    assert await turns() == ["j1", "j2"]
    recorder.record(job(3), WAITING)
    assert await turns() == ["j1", "j2", "j3"]
    running.cancel()
