"""A bound on what a process may use of the processors, by a cgroup of its own (Linux, root; cgroup v1 or v2)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
"""The kernel's own default: a process that has used up its part waits for the rest of it."""
GONE_SECONDS = 10.0


class QuotaError(RuntimeError):
    """There can be no quota here; the message says why."""


@contextlib.contextmanager
def cpu_quota(pid: int, cpus: float) -> Iterator[None]:
    """Let a process, with all its threads, have at most so many CPUs until the end of the context.

    :raises QuotaError: no cgroups, or no right to make one.
    """
    root, setting, value = _hierarchy(cpus)
    folder = root / f"job-dispatcher-bench-{pid}"
    try:
        folder.mkdir()
        for name, content in zip(setting, value, strict=True):
            (folder / name).write_text(content)
        (folder / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise QuotaError(f"no CPU quota can be set in {folder}: {error.strerror}; it takes root") from error
    try:
        yield
    finally:
        _remove(folder, root)


def _hierarchy(cpus: float) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    quota = str(round(cpus * PERIOD_US))
    if (CGROUPS / "cgroup.controllers").exists():
        with contextlib.suppress(OSError):
            (CGROUPS / "cgroup.subtree_control").write_text("+cpu")
        return CGROUPS, ("cpu.max",), (f"{quota} {PERIOD_US}",)
    if (CGROUPS / "cpu" / "cgroup.procs").exists():
        return CGROUPS / "cpu", ("cpu.cfs_period_us", "cpu.cfs_quota_us"), (str(PERIOD_US), quota)
    raise QuotaError(f"{CGROUPS} has no CPU controller")


def _remove(folder: Path, root: Path) -> None:
    """The processes go back to where all are; a cgroup with processes cannot be removed."""
    end = time.monotonic() + GONE_SECONDS
    while True:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (root / "cgroup.procs").write_text(pid)
        try:
            folder.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            os.sched_yield()
        else:
            return
