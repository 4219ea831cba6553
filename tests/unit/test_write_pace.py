"""How often Jobs report, by how long writes take."""

from datetime import timedelta

import pytest

from dispatcher.core.observation import REPORT_INTERVAL
from dispatcher.operator.write_pace import HALF_LIFE, LONGEST, WRITES_APART, WritePace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(pace: WritePace, clock: Clock, seconds: float) -> None:
    """Begun so long ago, it ends now."""
    clock.now -= seconds
    with pace.write():
        clock.now += seconds


def after(clock: Clock, seconds: float, *, writes: int = 200) -> WritePace:
    """So many writes, many at once, took so long; one ended each hundredth of a second."""
    pace = WritePace(clock)
    for _ in range(writes):
        write(pace, clock, seconds)
        clock.now += 0.01
    return pace


@pytest.mark.parametrize("seconds", [0.005, 0.05, 0.09])
def test_while_writes_are_quick_the_interval_is_the_usual_one(clock: Clock, seconds: float) -> None:
    assert after(clock, seconds).report_interval == REPORT_INTERVAL


def test_a_job_waits_as_long_as_some_writes_take(clock: Clock) -> None:
    interval = after(clock, 0.3).report_interval
    assert interval.total_seconds() == pytest.approx(WRITES_APART * 0.3, rel=0.1)


def test_no_job_waits_longer_than_the_longest(clock: Clock) -> None:
    assert after(clock, 10.0).report_interval == LONGEST


def test_one_slow_write_says_little(clock: Clock) -> None:
    pace = after(clock, 0.005)
    write(pace, clock, 1.0)
    assert pace.report_interval == REPORT_INTERVAL


def test_what_is_over_slows_nobody_down(clock: Clock) -> None:
    pace = after(clock, 0.4)
    before = pace.report_interval
    clock.now += HALF_LIFE
    assert pace.report_interval / before == pytest.approx(0.5, rel=0.01)
    clock.now += 2 * HALF_LIFE
    assert pace.report_interval == REPORT_INTERVAL == timedelta(seconds=1)
