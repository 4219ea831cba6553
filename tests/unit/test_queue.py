"""The queue of keys: nothing is missed, and nothing is looked at twice for one change."""

import asyncio

from dispatcher.operator.queue import Key, KeyQueue

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


async def test_those_that_go_first_overtake_the_others_which_come_in_between() -> None:
    handler = Handler()
    queue = KeyQueue(handler, concurrency=1, goes_first=lambda key: key[0] == "new")
    queue.add(KEY)
    await handler.called.wait()
    others = [("ns", str(number)) for number in range(3)]
    new = [("new", str(number)) for number in range(5)]
    for key in (*others, *new):
        queue.add(key)
    assert (queue.depth, queue.waiting) == (8, [*new, *others])
    handler.release.set()
    await _turns(40)
    assert queue.idle
    turns = [new[0], others[0], new[1], others[1], new[2], others[2], new[3], new[4]]
    assert handler.calls == [KEY, *turns]


async def test_the_longest_wait_is_that_of_whichever_key() -> None:
    handler = Handler()
    queue = KeyQueue(handler, concurrency=1, goes_first=lambda key: key[0] == "new")
    queue.add(KEY)
    await handler.called.wait()
    assert queue.oldest_age == 0
    queue.add(("ns", "other"))
    await asyncio.sleep(0.02)
    queue.add(("new", "one"))
    assert queue.oldest_age >= 0.02
    handler.release.set()
    await queue.stop()
    assert (queue.depth, queue.oldest_age) == (0, 0)
