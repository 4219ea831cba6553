"""What is built once and kept: steps, each filling one folder of the cache, by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

Report = Callable[[str], None]  # a line for a person
Progress = Callable[[float, float], None]  # seconds so far, seconds left


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to build: `build(folder, progress)` fills the folder that becomes `target`.

    `seconds` is what it takes here with nothing at hand.
    """

    what: str
    target: Path
    seconds: float
    build: Callable[[Path, Progress], None]


def cache_folder() -> Path:
    """The cache, by default ~/.cache/job-dispatcher."""
    configured = os.environ.get("JOB_DISPATCHER_CACHE")
    return Path(configured or "~/.cache/job-dispatcher").expanduser().absolute()


def build_missing(steps: Sequence[Step], *, report: Report) -> None:
    """Builds, in order, what the cache does not have yet.

    Raises what a step's `build` raises; its folder is then not taken.
    """
    missing = [step for step in steps if not step.target.exists()]
    if missing:
        names = ", ".join(step.what for step in missing)
        report(f"to build once: {names}; about {clock(sum(step.seconds for step in missing))} in all")
    for number, step in enumerate(missing):
        later = sum(following.seconds for following in missing[number + 1 :])
        with _lock(cache_folder() / "locks" / f"{step.target.parent.name}-{step.target.name}", step, report):
            if not step.target.exists():  # another process may have built it while we waited
                _build(step, later, report)


def _build(step: Step, later: float, report: Report) -> None:
    folder = step.target.parent / f".{step.target.name}.building"
    shutil.rmtree(folder, ignore_errors=True)  # of a build that was killed: we hold the lock
    folder.mkdir(parents=True)
    begin = time.monotonic()

    def progress(elapsed: float, left: float) -> None:
        whole = f", {clock(left + later)} with what follows" if later else ""
        report(f"building {step.what}: {clock(elapsed)} so far, about {clock(left)} left{whole}")

    step.build(folder, progress)
    folder.rename(step.target)
    report(f"built {step.what} in {clock(time.monotonic() - begin)}")


@contextlib.contextmanager
def _lock(path: Path, step: Step, report: Report) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        # A compiler that outlives us still writes: it inherits the lock, and the next builder waits for it.
        os.set_inheritable(handle.fileno(), True)
        waited = 0
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if waited % 10 == 0:
                    report(f"another process is building {step.what}: waiting ({clock(waited)})")
                waited += 1
                time.sleep(1)
        yield


def clock(seconds: float) -> str:
    """Minutes and seconds for a person."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
