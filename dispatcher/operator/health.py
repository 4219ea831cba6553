"""Is the process alive in the sense that a restart would not help? And how does it look inside: the debug page."""

import asyncio
from collections import deque
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from dispatcher.clusters.redaction import redacted
from dispatcher.clusters.reflector import Reflector
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.health_echo import WatchEcho
from dispatcher.operator.job_tally import JobTally
from dispatcher.operator.queue import KeyQueue

WATCH_LIMIT: Final = 180.0
"""Seconds without news from the management cluster; bookmarks come every minute."""
WORK_LIMIT: Final = 300.0
"""Seconds that keys may wait while no work on any key ends."""
_BEAT: Final = 0.5
_REMEMBERED: Final = 10.0
_LISTED_KEYS: Final = 100


class LoopLag:
    """How late the event loop comes to what is due."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque()

    async def run(self) -> None:
        """Measure for as long as the process runs."""
        while True:
            before = monotonic()
            await asyncio.sleep(_BEAT)
            now = monotonic()
            self._samples.append((now, max(0.0, now - before - _BEAT)))
            while self._samples[0][0] < now - _REMEMBERED:
                self._samples.popleft()

    @property
    def worst(self) -> float:
        """The longest delay of the last ten seconds, in seconds."""
        return max((lag for _, lag in self._samples), default=0.0)


class Health:
    """What /healthz says. A loop that hangs does not answer at all, so that the probe's own time limit ends it."""

    def __init__(self, *, queue: KeyQueue, management: Reflector, echo: WatchEcho) -> None:
        """``management``: a watch of our own on the management cluster, with bookmarks."""
        self._queue = queue
        self._management = management
        self._echo = echo

    @property
    def watch_idle(self) -> float:
        """Seconds since the management cluster was last heard of."""
        last = self._management.last_event_at
        return 0.0 if last is None else max(0.0, asyncio.get_running_loop().time() - last)

    def fault(self) -> str:
        """Why a restart may help; empty when all is well."""
        if self.watch_idle > WATCH_LIMIT:
            return f"nothing was heard of the management cluster for {self.watch_idle:.0f} s"
        if self._echo.overdue > WATCH_LIMIT:
            return f"the watch on Jobs has not brought what was written {self._echo.overdue:.0f} s ago"
        stuck = min(self._queue.oldest_age, self._queue.since_last_end)
        if stuck > WORK_LIMIT:
            return f"{self._queue.depth} Jobs wait, and work on none of them has ended for {stuck:.0f} s"
        return ""


def describe(
    *,
    queue: KeyQueue,
    fleet: Fleet,
    tally: JobTally,
    health: Health,
    lag: LoopLag,
    policies: Mapping[str, str],
) -> dict[str, Any]:
    """The queue, the clusters and the policies for the debug page: names and states, no credentials, no content of
    Jobs. ``policies``: the known resourceVersion of each by ``namespace/name``.
    """
    now = asyncio.get_running_loop().time()
    return {
        "health": health.fault() or "ok",
        "eventLoopLagSeconds": round(lag.worst, 3),
        "managementWatchIdleSeconds": round(health.watch_idle, 1),
        "jobs": {phase: count for phase, count in sorted(tally.phases.items()) if count},
        "jobsWaiting": dict(tally.reasons()),
        "queue": {
            "depth": queue.depth,
            "oldestSeconds": round(queue.oldest_age, 3),
            "running": ["/".join(key) for key in queue.running[:_LISTED_KEYS]],
            "waiting": ["/".join(key) for key in queue.waiting[:_LISTED_KEYS]],
            "failing": {"/".join(key): count for key, count in queue.failing[:_LISTED_KEYS]},
            "retries": queue.retries,
        },
        "clusters": {
            name: _describe_cluster(cluster, now) for name, cluster in sorted(fleet.clusters.items())
        },
        "policies": dict(sorted(policies.items())),
    }


def _describe_cluster(cluster: Any, now: float) -> dict[str, Any]:
    ready, reason, message = cluster.health
    found: dict[str, Any] = {
        "resourceVersion": cluster.manifest["metadata"].get("resourceVersion", ""),
        "ready": ready,
        "reason": reason,
        "message": redacted(message),
        "mirrors": len(cluster.mirrors),
    }
    connection = cluster.connection
    if connection is not None:
        watch = connection.reflector
        found |= {
            "uid": connection.cluster_uid,
            "serverVersion": connection.server_version,
            "readySince" if ready else "notReadySince": connection.health.since.isoformat(),
            "watch": {
                "connected": watch.connected,
                "synced": watch.synced.is_set(),
                "reconnects": watch.reconnects,
                "lists": watch.lists,
                "idleSeconds": None if watch.last_event_at is None else round(now - watch.last_event_at, 1),
                "lastError": redacted(f"{watch.last_error.reason}: {watch.last_error.message}")
                if watch.last_error
                else None,
            },
        }
    return found
