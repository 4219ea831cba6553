"""When a status is due that brings nothing but news of the mirrors."""

from datetime import datetime

from dispatcher.core.observation import REPORT_INTERVAL, Observation

FIRST_REPORT_INTERVALS = 10
"""So many report intervals a new placement's Dispatched condition waits for the mirrors' first report, to be written
together with it: one write less. A worker's Job controller with much to do takes seconds to its first report."""


def due(observation: Observation) -> datetime | None:
    """When new counters are to be written; None: now.

    The built-in controller gathers for a second what happens to a Job's pods (its ``syncJobBatchPeriod``); so is
    gathered here what happens to the mirrors, however many they are. What is decided is never held back, nor are the
    counts of a mirror that is gone: only the Job would have them.
    """
    written = observation.written_at
    if written is None or any(mirror.gone for mirror in observation.mirrors):
        return None
    moment = written + observation.report_interval
    lately = written <= observation.now < moment  # not so after the clock was set back
    return moment if lately else None


def dispatched_due(observation: Observation, *, reported: bool) -> datetime | None:
    """When it is to be said of a placed Job that all its mirrors exist; None: now. ``reported``: one has begun.

    While writes take long, it is news like the counters: what ends soon is then said with the end.
    """
    if reported:
        return due(observation) if observation.report_interval > REPORT_INTERVAL else None
    started = observation.job.start_time
    if started is None or observation.job.suspend:
        return None
    moment = started + FIRST_REPORT_INTERVALS * observation.report_interval
    return moment if started <= observation.now < moment else None
