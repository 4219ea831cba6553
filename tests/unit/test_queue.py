"""The queue of keys: nothing is missed, and nothing is looked at twice for one change."""

import asyncio

import pytest

from dispatcher.operator.queue import PATIENCE, Key, KeyQueue

KEY: Key = ("ns", "job")


class Handler:
    """Keeps what it was called with; each call waits for its turn to be released."""

    def __init__(self) -> None:
        self.calls: list[Key] = []
        self.called = asyncio.Event()
        self.release = asyncio.Event()

    async def __call__(self, key: Key) -> float | None:
        self.calls.append(key)
        self.called.set()
        await self.release.wait()
        return None


async def _turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_changes_before_the_first_look_are_one() -> None:
    handler = Handler()
    queue = KeyQueue(handler)
    for _ in range(3):
        queue.add(KEY)
    handler.release.set()
    await _turns()
    assert queue.idle
    assert handler.calls == [KEY]


async def test_a_change_after_the_first_look_is_looked_at() -> None:
    handler = Handler()
    queue = KeyQueue(handler)
    queue.add(KEY)
    await handler.called.wait()
    queue.add(KEY)
    queue.add(KEY)
    assert handler.calls == [KEY], "one at a time"
    handler.release.set()
    await _turns()
    assert queue.idle
    assert handler.calls == [KEY, KEY]


async def test_each_key_for_itself_and_no_more_than_allowed_at_once() -> None:
    handler = Handler()
    queue = KeyQueue(handler, concurrency=2)
    keys = [("ns", str(number)) for number in range(5)]
    for key in keys:
        queue.add(key)
    await _turns()
    assert (handler.calls, queue.depth) == (keys[:2], 3)
    handler.release.set()
    await _turns()
    await _turns()
    assert queue.idle
    assert sorted(handler.calls) == keys


async def test_what_comes_before_a_look_is_looked_at_by_it() -> None:
    handler = Handler()
    queue = KeyQueue(handler)
    queue.add(KEY)
    await handler.called.wait()
    queue.add(KEY)
    queue.add_after(KEY, 0)
    queue.looks(KEY)
    handler.release.set()
    await asyncio.sleep(0.05)
    assert (queue.idle, handler.calls) == (True, [KEY])


async def test_what_comes_after_a_look_brings_the_key_back() -> None:
    handler = Handler()
    queue = KeyQueue(handler)
    queue.add(KEY)
    await handler.called.wait()
    queue.looks(KEY)
    queue.add(KEY)
    handler.release.set()
    await _turns()
    assert handler.calls == [KEY, KEY]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The queue's clock: its only item is the time."""
    clock = [1000.0]
    monkeypatch.setattr("dispatcher.operator.queue.monotonic", lambda: clock[0])
    return clock


async def _occupied(handler: Handler) -> KeyQueue:
    """Works on KEY, one at a time; keys of the namespace ``new`` go first."""
    queue = KeyQueue(handler, concurrency=1, goes_first=lambda key: key[0] == "new")
    queue.add(KEY)
    await handler.called.wait()
    return queue


OTHERS: list[Key] = [("ns", str(number)) for number in range(3)]
NEW: list[Key] = [("new", str(number)) for number in range(5)]


async def test_those_that_go_first_overtake_all_others(now: list[float]) -> None:
    handler = Handler()
    queue = await _occupied(handler)
    for key in (*OTHERS, *NEW):
        queue.add(key)
    assert (queue.depth, queue.waiting) == (8, [*NEW, *OTHERS])
    now[0] += PATIENCE
    handler.release.set()
    await _turns(40)
    assert queue.idle
    assert handler.calls == [KEY, *NEW, *OTHERS]


async def test_those_who_waited_long_take_turns_with_those_that_go_first(now: list[float]) -> None:
    handler = Handler()
    queue = await _occupied(handler)
    queue.add(OTHERS[0])
    queue.add(OTHERS[1])
    now[0] += PATIENCE + 0.1
    for key in (OTHERS[2], *NEW):
        queue.add(key)
    handler.release.set()
    await _turns(40)
    assert queue.idle
    assert handler.calls == [KEY, NEW[0], OTHERS[0], NEW[1], OTHERS[1], NEW[2], NEW[3], NEW[4], OTHERS[2]]


async def test_the_longest_wait_is_that_of_whichever_key(now: list[float]) -> None:
    handler = Handler()
    queue = await _occupied(handler)
    assert queue.oldest_age == 0
    queue.add(OTHERS[0])
    now[0] += 3
    queue.add(NEW[0])
    assert queue.oldest_age == 3
    handler.release.set()
    await queue.stop()
    assert (queue.depth, queue.oldest_age) == (0, 0)
