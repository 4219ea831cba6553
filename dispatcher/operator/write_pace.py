"""How long writes of Jobs take lately, and how often Jobs report because of it."""

import contextlib
import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from time import monotonic

from dispatcher.core.observation import REPORT_INTERVAL

WEIGHT = 1 / 16
"""Of one write in the average."""
HALF_LIFE = 2.0
"""Seconds in which the average halves while nothing is written: what is over slows nobody down."""
WRITES_APART = 10
"""A Job that only reports waits as long as so many writes take."""
LONGEST = timedelta(seconds=5)


class WritePace:
    """The busier the management API server is, the fewer writes it gets that only bring new counters."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seconds = 0.0
        self._at = clock()

    @contextlib.contextmanager
    def write(self) -> Iterator[None]:
        """Around the request that writes a Job, answered or not."""
        started = self._clock()
        try:
            yield
        finally:
            now = self._clock()
            lately = self._lately()
            self._seconds = lately + (now - started - lately) * WEIGHT
            self._at = now

    @property
    def report_interval(self) -> timedelta:
        """From one write of a Job to the next that only reports."""
        wait = timedelta(seconds=WRITES_APART * self._lately())
        return min(LONGEST, max(REPORT_INTERVAL, wait))

    def _lately(self) -> float:
        return self._seconds * math.exp2((self._at - self._clock()) / HALF_LIFE)
