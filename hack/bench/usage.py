"""What processes use, from proc(5)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of some processes together: CPU seconds since their start, resident bytes now and at most."""

    cpu_seconds: float
    resident_bytes: int
    peak_resident_bytes: int


def measure(pids: Sequence[int]) -> Usage:
    """Now. Raises FileNotFoundError when a process is gone."""
    cpu, resident, peak = 0.0, 0, 0
    for pid in pids:
        folder = Path("/proc") / str(pid)
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        cpu += (int(fields[11]) + int(fields[12])) / TICKS  # utime, stime
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        resident += int(status["VmRSS"].split()[0]) * 1024
        peak += int(status["VmHWM"].split()[0]) * 1024
    return Usage(cpu, resident, peak)
