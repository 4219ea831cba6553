"""A queue of keys: each key is worked on by one task at a time, many keys at once.

An addition while a key is worked on brings it back once, if it came after the handler's last look; a failure brings
it back after a growing pause. Levels, not edges: a key says only that something may have changed.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Final

from dispatcher import metrics
from dispatcher.clusters import request_id

logger = logging.getLogger(__name__)

Key = tuple[str, str]
"""Namespace and name of a management Job."""


PATIENCE: Final = 2.0
"""Seconds that a key lets all others overtake that go first; after them, every second one."""


class TryAgain(Exception):
    """What a handler needs is away for now, through no fault of the key, which comes back after ``pause`` seconds."""

    def __init__(self, reason: str, *, pause: float) -> None:
        super().__init__(reason)
        self.pause = pause


class KeyQueue:
    """Calls ``handle(key)`` for added keys, at most ``concurrency`` at once.

    ``handle`` returns in how many seconds it wants the key back (None: not by itself). Keys of which ``goes_first``
    says yes as they are added overtake the others; once one of those has waited for ``PATIENCE``, they take turns.
    With more to do than can be done, new Jobs begin all the same, and what is reported of the others becomes fewer
    writes.
    """

    def __init__(
        self,
        handle: Callable[[Key], Awaitable[float | None]],
        *,
        concurrency: int = 32,
        goes_first: Callable[[Key], bool] = lambda _key: False,
    ) -> None:
        self._handle = handle
        self._concurrency = concurrency
        self._goes_first = goes_first
        self._first: deque[Key] = deque()
        self._first_was_last = False
        self._waiting: deque[Key] = deque()
        self._since: dict[Key, float] = {}
        self._running: set[Key] = set()
        self._begun: set[Key] = set()
        """Of the running ones those whose task has had its first turn of the event loop."""
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._last_end = monotonic()
        self.retries = 0

    @property
    def depth(self) -> int:
        """Keys that wait for their turn."""
        return len(self._since)

    @property
    def load(self) -> int:
        """Keys that wait or are worked on."""
        return len(self._since) + len(self._running)

    @property
    def oldest_age(self) -> float:
        """Seconds that the longest waiting key has waited."""
        now = monotonic()
        return max((now - self._since[keys[0]] for keys in (self._first, self._waiting) if keys), default=0.0)

    @property
    def waiting(self) -> list[Key]:
        """The keys that wait, those that go first before the others."""
        return [*self._first, *self._waiting]

    @property
    def running(self) -> list[Key]:
        """The keys that are worked on."""
        return list(self._running)

    @property
    def failing(self) -> list[tuple[Key, int]]:
        """Keys on which work has failed, with how often in a row."""
        return list(self._failures.items())

    @property
    def since_last_end(self) -> float:
        """Seconds since work on any key has ended."""
        return monotonic() - self._last_end

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing runs (timers may be set)."""
        return not self._since and not self._running

    def add(self, key: Key) -> None:
        """Something about this key may have changed."""
        if self._stopped:
            return
        if key in self._begun:
            self._again.add(key)
        elif key in self._running:
            return  # its task has not looked at anything yet
        elif key not in self._since:
            self._since[key] = monotonic()
            (self._first if self._goes_first(key) else self._waiting).append(key)
            self._start()

    def add_after(self, key: Key, seconds: float) -> None:
        """Bring the key back then; an earlier timer of it stays."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None and not timer.cancelled() and timer.when() <= due:
            return
        if timer is not None:
            timer.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def looks(self, key: Key) -> None:
        """The handler looks at this key now: nothing that was seen before is a reason to bring it back.

        Between this and its look nothing may be awaited. When to look again it says itself, as it returns.
        """
        self._again.discard(key)
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    async def stop(self) -> None:
        """Take no more keys and wait for those under way."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._first.clear()
        self._waiting.clear()
        self._since.clear()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _start(self) -> None:
        while self._since and len(self._running) < self._concurrency:
            key = self._next()
            del self._since[key]
            self._running.add(key)
            task = asyncio.create_task(self._work(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _next(self) -> Key:
        waited = monotonic() - self._since[self._waiting[0]] if self._waiting else 0.0
        others_turn = self._first_was_last and waited > PATIENCE
        self._first_was_last = bool(self._first) and not others_turn
        return (self._first if self._first_was_last else self._waiting).popleft()

    async def _work(self, key: Key) -> None:
        pause: float | None
        self._begun.add(key)
        request_id.begin()
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("reconcile begins", extra={"key": "/".join(key)})
        try:
            pause = await self._handle(key)
            self._failures.pop(key, None)
        except TryAgain as passing:
            pause = passing.pause
            self.retries += 1
            metrics.reconcile_put_off()
            logger.debug("reconcile put off", extra={"key": "/".join(key), "reason": str(passing)})
        except Exception:
            # The loop must outlive a fault in the handling of one key.
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            pause = min(60.0, 0.1 * 2 ** min(failures, 10)) * random.uniform(0.5, 1)
            self.retries += 1
            metrics.reconcile_failed()
            logger.exception("reconcile failed", extra={"key": "/".join(key), "retry_in": round(pause, 2)})
        finally:
            self._begun.discard(key)
            self._running.discard(key)
            self._last_end = monotonic()
        if key in self._again:
            self._again.discard(key)
            self.add(key)
        elif pause is not None and not self._stopped:
            self.add_after(key, pause)
        self._start()
