"""When a status is due that brings nothing but new counters."""

from datetime import datetime, timedelta

from dispatcher.core.observation import Observation

REPORT_INTERVAL = timedelta(seconds=1)
"""Between two writes of a Job of which the second has nothing but new counters."""


def due(observation: Observation) -> datetime | None:
    """When such a status is to be written; None: now.

    The built-in controller gathers for a second what happens to a Job's pods (its ``syncJobBatchPeriod``); so is
    gathered here what happens to the mirrors, however many they are. What is decided is never held back, nor are the
    counts of a mirror that is gone: only the Job would have them.
    """
    written = observation.written_at
    if written is None or any(mirror.gone for mirror in observation.mirrors):
        return None
    moment = written + REPORT_INTERVAL
    lately = written <= observation.now < moment  # not so after the clock was set back
    return moment if lately else None
