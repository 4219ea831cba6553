"""Processes that outlive the command that started them, and are found again after it was killed.

Every process carries the lab's folder in its environment (MARK), so that even one whose record was never written is
found. A process id is only ever used together with its start time: a reused id is never signalled.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "JOB_DISPATCHER_LAB"


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for good: its id, and its start in clock ticks since boot (proc(5), field 22)."""

    pid: int
    start_time: int


def spawn(command: Sequence[str], *, lab: Path, log: Path, environment: Mapping[str, str]) -> ProcessId:
    """Starts `command` in a session of its own, output appended to `log`, with `lab` as its mark."""
    log.parent.mkdir(parents=True, exist_ok=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    try:
        pid = os.posix_spawn(
            command[0],
            list(command),
            {**environment, MARK: str(lab)},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, nothing, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsid=True,
            setsigmask=[],
        )
    finally:
        os.close(output)
        os.close(nothing)
    stat = _stat(pid)
    assert stat is not None  # our own child cannot vanish before we waited for it
    return ProcessId(pid, stat[1])


def is_running(process: ProcessId) -> bool:
    """Whether that very process exists and has not ended (one that nobody waited for counts as ended)."""
    stat = _stat(process.pid)
    return stat is not None and stat[1] == process.start_time and stat[0] not in "ZX"


def is_paused(process: ProcessId) -> bool:
    """Whether that very process was stopped by SIGSTOP."""
    stat = _stat(process.pid)
    return stat is not None and stat[1] == process.start_time and stat[0] == "T"


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signals that very process; False when it is gone."""
    with _handle(process) as handle:
        if handle is None:
            return False
        try:
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        return True


def wait_gone(processes: Iterable[ProcessId], *, timeout: float) -> list[ProcessId]:
    """Waits until they ended, `timeout` seconds for all; gives those that still run."""
    end = time.monotonic() + timeout
    left = []
    for process in processes:
        with _handle(process) as handle:
            if handle is not None:
                poll = select.poll()
                poll.register(handle, select.POLLIN)  # readable once the process ended
                if not poll.poll(max(end - time.monotonic(), 0) * 1000):
                    left.append(process)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)  # only if it is our own child
    return left


def kill(processes: Iterable[ProcessId], *, timeout: float = 20.0) -> None:
    """Ends all by SIGKILL (which also ends a paused one) and waits until they are gone.

    Raises TimeoutError.
    """
    doomed = list(processes)
    for process in doomed:
        send(process, signal.SIGKILL)
    if left := wait_gone(doomed, timeout=timeout):
        raise TimeoutError(f"still running after SIGKILL: {', '.join(str(process.pid) for process in left)}")


def marked(lab: Path) -> list[ProcessId]:
    """All processes of this user that were started for the lab in folder `lab`."""
    mark = os.fsencode(f"{MARK}={lab}")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # ended meanwhile, or another user's
            continue
        if mark in environment.split(b"\0") and (stat := _stat(int(entry.name))):
            found.append(ProcessId(int(entry.name), stat[1]))
    return found


@contextlib.contextmanager
def _handle(process: ProcessId) -> Iterator[int | None]:
    """A pidfd of that very process; None when it ended, even if nobody waited for it yet."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Asked after the pidfd was opened: the answer cannot be about a later process of that id.
        yield handle if is_running(process) else None
    finally:
        os.close(handle)


def _stat(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name, in brackets, may hold anything
    return fields[0], int(fields[19])
