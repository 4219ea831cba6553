"""Kubernetes Events on management Jobs: posted apart from the work, never a flood, never a reason to fail."""

import asyncio
import logging
from collections import OrderedDict
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, Protocol

from dispatcher import metrics
from dispatcher.core.actions import Event
from dispatcher.core.job import timestamp

logger = logging.getLogger(__name__)

COMPONENT = "job-dispatcher"
MAX_MESSAGE = 1024
BURST: Final = 25
REFILL_SECONDS: Final = 300.0
"""So many Events a Job may have at once, and one more each time so many seconds passed: client-go's own limits."""
_REMEMBERED: Final = 10_000


class EventSink(Protocol):
    """Takes a core/v1 Event manifest for a namespace; its failure is nobody's concern."""

    async def __call__(self, namespace: str, body: dict[str, Any]) -> None: ...


def make_event(job: dict[str, Any], event: Event, *, serial: int, now: datetime) -> dict[str, Any]:
    """A ``v1`` Event on a Job."""
    metadata = job["metadata"]
    moment = timestamp(now)
    name = metadata["name"][:200]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{name}.{int(now.timestamp() * 1e6):x}{serial % 4096:03x}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:MAX_MESSAGE],
        "firstTimestamp": moment,
        "lastTimestamp": moment,
        "count": 1,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": COMPONENT,
    }


class Recorder:
    """Posts Events in the background, in order.

    What is the same as the Job's last one is dropped, and so is what is over the Job's own limit, so that a state that
    flickers is no flood. ``limit`` bounds what may wait: with an API server that does not answer, the oldest go.
    """

    def __init__(self, sink: EventSink, *, limit: int = 2000) -> None:
        self._sink = sink
        self._waiting: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue(limit)
        self._last: OrderedDict[str, Event] = OrderedDict()
        self._allowed: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By Job: how many it may still have, and when that was so."""
        self._serial = 0

    def record(self, job: dict[str, Any], event: Event) -> bool:
        """Post this Event on the Job, unless it would repeat the Job's last one. Returns whether it is news."""
        uid = job["metadata"]["uid"]
        if self._last.get(uid) == event:
            metrics.EVENT_AGGREGATED.inc()
            return False
        self._last[uid] = event
        self._last.move_to_end(uid)
        if len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
        if not self._allow(uid):
            metrics.EVENT_AGGREGATED.inc()
            return False
        self._serial += 1
        body = make_event(job, event, serial=self._serial, now=datetime.now(UTC))
        if self._waiting.full():
            self._waiting.get_nowait()
            metrics.EVENT_DROPPED.inc()
        self._waiting.put_nowait((body["metadata"]["namespace"], body))
        return True

    def _allow(self, uid: str) -> bool:
        now = monotonic()
        left, since = self._allowed.get(uid, (float(BURST), now))
        left = min(float(BURST), left + (now - since) / REFILL_SECONDS)
        self._allowed[uid] = (max(0.0, left - 1) if left >= 1 else left), now
        self._allowed.move_to_end(uid)
        if len(self._allowed) > _REMEMBERED:
            self._allowed.popitem(last=False)
        return left >= 1

    async def run(self) -> None:
        """Post what is recorded, for as long as the process runs."""
        while True:
            namespace, body = await self._waiting.get()
            await self._sink(namespace, body)

    async def drain(self) -> None:
        """Post what still waits; for a clean end."""
        while not self._waiting.empty():
            namespace, body = self._waiting.get_nowait()
            await self._sink(namespace, body)
