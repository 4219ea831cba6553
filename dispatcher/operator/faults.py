"""Fault hooks for tests: the process kills or pauses itself at a chosen write. Off unless a variable is set.

``JOB_DISPATCHER_CRASH_AT_WRITE=3:before`` kills the process (SIGKILL) before its third write is sent,
``3:after`` once the answer to it has come, before anything is made of it.

``JOB_DISPATCHER_PAUSE_AT_WRITE=create#2:before`` pauses it (SIGSTOP) before its second POST of a mirror;
``create#2:sending`` after the last question whether it may write, with nothing left to do but to hand the bytes
over: what such a write does when it is sent much too late has to be harmless by its own guards. Kinds of writes:
status, finalizer (its removal; both of a Job), create, seed, patch, patch-status, delete (of a mirror), copy (of a
ConfigMap or Secret), namespace.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable

VARIABLE = "JOB_DISPATCHER_CRASH_AT_WRITE"
PAUSE_VARIABLE = "JOB_DISPATCHER_PAUSE_AT_WRITE"


class CrashPoint:
    """Counts writes and ends or pauses the process at the one that was asked for."""

    def __init__(self, crash: str | None, pause: str | None = None) -> None:
        number, _, moment = (crash or "").partition(":")
        self._number = int(number) if number else 0
        self._moment = moment or "before"
        self._pause_at, _, pause_moment = (pause or "").partition(":")
        self._pause_moment = pause_moment or "before"
        self._kinds: Counter[str] = Counter()
        self._writes = 0

    @classmethod
    def from_environment(cls) -> "CrashPoint":
        """As the environment says; does nothing if no variable is set."""
        return cls(os.environ.get(VARIABLE), os.environ.get(PAUSE_VARIABLE))

    def before(self, kind: str, permit: Callable[[], bool]) -> tuple[int, Callable[[], bool]]:
        """A write is about to be sent. Returns its number, to be given to :meth:`after`, and its permit."""
        self._writes += 1
        self._kinds[kind] += 1
        self._crash(self._writes, "before")
        if self._pause_at != f"{kind}#{self._kinds[kind]}":
            return self._writes, permit
        if self._pause_moment == "before":
            os.kill(os.getpid(), signal.SIGSTOP)
            return self._writes, permit

        def paused() -> bool:
            may = permit()
            os.kill(os.getpid(), signal.SIGSTOP)
            return may

        return self._writes, paused

    def after(self, number: int) -> None:
        """The answer to that write has come."""
        self._crash(number, "after")

    def _crash(self, number: int, moment: str) -> None:
        if number == self._number and moment == self._moment:
            os.kill(os.getpid(), signal.SIGKILL)
