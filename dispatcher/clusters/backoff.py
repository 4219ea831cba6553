"""How long to wait before the next try."""

import asyncio
import contextlib
import random


class Backoff:
    """Doubling waits between ``first`` and ``cap`` seconds, each shortened by a random part of up to a half.

    ``kick`` ends the wait under way, or the next one, at once and starts over.
    """

    def __init__(self, *, first: float, cap: float, rng: random.Random) -> None:
        self._first = first
        self._cap = cap
        self._rng = rng
        self._failures = 0
        self._kicked = asyncio.Event()

    @property
    def failures(self) -> int:
        """Waits since the last reset."""
        return self._failures

    def reset(self) -> None:
        """It worked: the next wait is the shortest again."""
        self._failures = 0
        self._kicked.clear()

    def kick(self) -> None:
        """Something changed for the better: try now."""
        self._failures = 0
        self._kicked.set()

    async def wait(self, *, at_least: float = 0.0) -> None:
        """Wait for the next turn. ``at_least``: seconds the server asked for (at most six times the cap)."""
        # The exponent is bounded so that a long outage does not overflow a float.
        full = min(self._cap, self._first * 2 ** min(self._failures, 30))
        self._failures += 1
        seconds = max(full * (1 - self._rng.random() / 2), min(at_least, 6 * self._cap))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._kicked.wait()
        self._kicked.clear()
