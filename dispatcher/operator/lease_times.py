"""The timings of Leases, and the clock that they are measured with."""

import time
from dataclasses import dataclass


def uptime() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """In seconds. Raises ValueError for times that cannot work together."""

    duration: float = 10.0
    """A Lease that was not renewed for so long may be taken."""
    renew_deadline: float = 7.0
    """A holder whose last renewal is so long ago writes nothing more."""
    retry_period: float = 1.0
    """Between two looks."""

    def __post_init__(self) -> None:
        if not self.retry_period > 0:
            raise ValueError("--leader-elect-retry-period must be more than 0")
        if not self.renew_deadline > self.retry_period:
            raise ValueError("--leader-elect-renew-deadline must be more than --leader-elect-retry-period")
        if not self.duration > self.renew_deadline:
            raise ValueError("--leader-elect-lease-duration must be more than --leader-elect-renew-deadline")
        if self.duration < 1:
            raise ValueError("--leader-elect-lease-duration must be at least 1")
