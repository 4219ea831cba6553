"""When what was seen of each Job. All moments are of this process' monotonic clock: no two clocks are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dispatcher.clusters.cache import OnChange
from dispatcher.core import names

Manifest = Mapping[str, Any]


@dataclass(slots=True)
class Moments:
    """Seconds of the monotonic clock. ``mirrors`` and ``mirrors_complete`` are keyed by cluster and name."""

    sent: float
    exists: float | None = None
    """Known to exist: by the answer to the POST or by the watch, whichever came first."""
    ended: float | None = None
    complete: bool = False
    mirrors: dict[tuple[str, str], float] = field(default_factory=dict)
    mirrors_complete: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def total(self) -> float | None:
        """From the sending of the POST until the Job was seen Complete."""
        return self.ended - self.sent if self.ended is not None and self.complete else None

    @property
    def dispatch(self) -> float | None:
        """From the Job's existence until the last of its mirrors existed."""
        if self.exists is None or not self.mirrors:
            return None
        return max(self.mirrors.values()) - self.exists

    @property
    def writeback(self) -> float | None:
        """From the last mirror's Complete until the Job's."""
        if self.ended is None or not self.complete or not self.mirrors_complete:
            return None
        return self.ended - max(self.mirrors_complete.values())


class Timeline:
    """Takes the watches' news of the Jobs that were announced by :meth:`sending`, and of no others.

    ``on_change`` is called when a Job ended, or it or a mirror went.
    """

    def __init__(self, *, on_change: Callable[[], None]) -> None:
        self.jobs: dict[str, Moments] = {}
        self._on_change = on_change
        self.unfinished = 0

    def sending(self, name: str) -> None:
        """The Job's POST is sent now."""
        self.jobs[name] = Moments(sent=time.monotonic())
        self.unfinished += 1

    def answered(self, name: str) -> None:
        """The POST was answered."""
        self._exists(self.jobs[name])

    def watch_jobs(self) -> OnChange:
        """For the watch of the cluster where the Jobs are created."""

        def changed(_old: Manifest | None, new: Manifest | None) -> None:
            if new is None:
                self._on_change()
                return
            moments = self.jobs.get(new["metadata"]["name"])
            if moments is None:
                return
            self._exists(moments)
            end = _end(new)
            if end and moments.ended is None:
                moments.ended, moments.complete = time.monotonic(), end == "Complete"
                self.unfinished -= 1
                self._on_change()

        return changed

    def watch_mirrors(self, cluster: str) -> OnChange:
        """For the watch of a worker cluster."""

        def changed(_old: Manifest | None, new: Manifest | None) -> None:
            if new is None:
                self._on_change()
                return
            metadata = new["metadata"]
            job = (metadata.get("annotations") or {}).get(names.JOB_NAME_ANNOTATION) or metadata["name"]
            moments = self.jobs.get(job)
            if moments is None:
                return
            slot = (cluster, metadata["name"])
            moments.mirrors.setdefault(slot, time.monotonic())
            if _end(new):
                moments.mirrors_complete.setdefault(slot, time.monotonic())

        return changed

    def _exists(self, moments: Moments) -> None:
        if moments.exists is None:
            moments.exists = time.monotonic()


def _end(manifest: Manifest) -> str:
    """Complete, Failed, or empty."""
    for entry in (manifest.get("status") or {}).get("conditions") or ():
        if entry["type"] in ("Complete", "Failed") and entry["status"] == "True":
            return str(entry["type"])
    return ""
