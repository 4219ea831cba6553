"""The time of a simulated history."""

from datetime import UTC, datetime, timedelta


class Clock:
    """Moves only when the history says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    @property
    def seconds(self) -> float:
        """Seconds since an arbitrary moment."""
        return self.now.timestamp()
