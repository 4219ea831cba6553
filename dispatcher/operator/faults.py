"""A fault hook for tests: the process kills itself at a chosen write. Off unless the variable is set.

``JOB_DISPATCHER_CRASH_AT_WRITE=3:before`` kills the process (SIGKILL) before its third write is sent,
``3:after`` once the answer to it has come, before anything is made of it.
"""

import os
import signal

VARIABLE = "JOB_DISPATCHER_CRASH_AT_WRITE"


class CrashPoint:
    """Counts writes and ends the process at the one that was asked for."""

    def __init__(self, setting: str | None) -> None:
        number, _, moment = (setting or "").partition(":")
        self._number = int(number) if number else 0
        self._moment = moment or "before"
        self._writes = 0

    @classmethod
    def from_environment(cls) -> "CrashPoint":
        """As the environment says; never crashes if the variable is not set."""
        return cls(os.environ.get(VARIABLE))

    def before(self) -> int:
        """A write is about to be sent. Returns its number, to be given to :meth:`after`."""
        self._writes += 1
        self._crash(self._writes, "before")
        return self._writes

    def after(self, number: int) -> None:
        """The answer to that write has come."""
        self._crash(number, "after")

    def _crash(self, number: int, moment: str) -> None:
        if number == self._number and moment == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)
