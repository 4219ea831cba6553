"""Whether the watch on Jobs still brings what was written."""

from time import monotonic


class WatchEcho:
    """Whether the watch on Jobs still brings what was written: every write of ours must come back by it."""

    def __init__(self) -> None:
        self._written = 0
        self._seen = 0
        self._waiting_since: float | None = None

    def wrote(self, version: str) -> None:
        """A write to a Job was answered with this resourceVersion."""
        if version.isdecimal():
            self._written = max(self._written, int(version))
            # The watch is often faster than the answer to the write.
            if self._waiting_since is None and self._written > self._seen:
                self._waiting_since = monotonic()

    def saw(self, version: int) -> None:
        """The watch, or a list, has brought everything up to this resourceVersion."""
        self._seen = max(self._seen, version)
        if self._waiting_since is not None:
            self._waiting_since = None if version >= self._written else monotonic()

    @property
    def overdue(self) -> float:
        """Seconds since which the watch has brought nothing although something is due."""
        return 0.0 if self._waiting_since is None else monotonic() - self._waiting_since
