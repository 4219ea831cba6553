"""Log streams in tests: Jobs with a written log, the plugin's output in files, a worker's audit log."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hack.lab import Lab, Plane
from tests.cli.plugin import Plugin, manifest

FOREVER = [{"exit": None}]


def job(name: str, container: str, **options: Any) -> str:
    """A Job whose container has this name, and so this log (``Plane.container_log``)."""
    made = json.loads(manifest(name, **options))
    made["spec"]["template"]["spec"]["containers"][0]["name"] = container
    return json.dumps(made)


def cri(moment: str, text: str) -> str:
    """A line as a container runtime writes it; ``moment``: the time of day."""
    return f"2026-01-01T{moment}Z stdout F {text}\n"


def write_bulk(lab: Lab, megabytes: int, *, line_bytes: int = 120) -> int:
    """Give the containers ``bulk`` of all workers a log; the bytes that each of them has written."""
    filler = "x" * (line_bytes - 10)
    per_line = len(f"{0:08} {filler}\n")
    count = megabytes * 1_000_000 // per_line
    first = lab.workers[0].container_log("bulk")
    with first.open("w") as file:
        for number in range(count):
            second, fraction = divmod(number, 1000)
            minute, second = divmod(second, 60)
            hour, minute = divmod(minute, 60)
            moment = f"{hour:02}:{minute:02}:{second:02}.{fraction:03}000000"
            file.write(cri(moment, f"{number:08} {filler}"))
    for worker in lab.workers[1:]:
        other = worker.container_log("bulk")
        other.unlink(missing_ok=True)
        other.hardlink_to(first)
    return count * per_line


def remove_bulk(lab: Lab) -> None:
    """Take it away."""
    for worker in lab.workers:
        worker.container_log("bulk").unlink(missing_ok=True)


class Running:
    """The plugin at work, its output in files."""

    def __init__(self, plugin: Plugin, folder: Path, *arguments: str) -> None:
        self._out, self._err = folder / "out", folder / "err"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                plugin.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=plugin.environment(),
            )

    @property
    def lines(self) -> list[str]:
        """What it has printed."""
        return self._out.read_text().splitlines()

    @property
    def said(self) -> str:
        """What it said on standard error."""
        return self._err.read_text()

    def end(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(60)


@contextlib.contextmanager
def running(plugin: Plugin, folder: Path, *arguments: str) -> Iterator[Running]:
    """Start the plugin; it is gone afterwards."""
    folder.mkdir(exist_ok=True)
    started = Running(plugin, folder, *arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def log_requests(worker: Plane, namespace: str) -> tuple[int, int]:
    """How many logs of pods of a namespace a worker's API server has begun to send, and how many of them have ended."""
    begun: set[str] = set()
    ended: set[str] = set()
    for line in worker.audit_log.read_text().splitlines():
        if namespace not in line or '"log"' not in line:
            continue
        with contextlib.suppress(json.JSONDecodeError):  # of a line that is being written
            event = json.loads(line)
            reference = event.get("objectRef") or {}
            if reference.get("subresource") == "log" and reference.get("namespace") == namespace:
                (ended if event["stage"] == "ResponseComplete" else begun).add(event["auditID"])
    return len(begun | ended), len(ended)
