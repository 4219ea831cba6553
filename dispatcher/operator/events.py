"""Kubernetes Events on management Jobs: posted apart from the work, never a flood, never a reason to fail."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable
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
PATIENCE: Final = 10.0
"""Seconds that an Event waits at most for a moment in which there is less to do."""
_LOOK_SECONDS: Final = 0.1
_AT_ONCE: Final = 4
"""Requests: one after the other are too few where an answer takes long."""


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
    """Posts Events in the background, when there is little else to do: the API server's time is the Jobs'.

    What is the same as the Job's last one is dropped, and so is what is over the Job's own limit, so that a state that
    flickers is no flood. ``limit`` bounds what may wait: with an API server that does not answer, the oldest go.
    ``busy`` tells whether there is much to do; no Event waits for its end longer than ``PATIENCE``.
    """

    def __init__(
        self, sink: EventSink, *, limit: int = 4000, busy: Callable[[], bool] = lambda: False
    ) -> None:
        self._sink = sink
        self._limit = limit
        self._busy = busy
        self._waiting: deque[tuple[float, dict[str, Any]]] = deque()
        """When each was recorded, by :func:`monotonic`, and the Event."""
        self._news = asyncio.Event()
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
        if len(self._waiting) >= self._limit:
            self._waiting.popleft()
            metrics.EVENT_DROPPED.inc()
        self._waiting.append((monotonic(), body))
        self._news.set()
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
        async with asyncio.TaskGroup() as posters:
            for _ in range(_AT_ONCE):
                posters.create_task(self._post_all())

    async def drain(self) -> None:
        """Post what still waits; for a clean end."""

        async def post() -> None:
            while self._waiting:
                await self._post_first()

        await asyncio.gather(*(post() for _ in range(_AT_ONCE)))

    async def _post_all(self) -> None:
        while True:
            if not self._waiting:
                self._news.clear()
                await self._news.wait()
            elif self._busy() and monotonic() < self._waiting[0][0] + PATIENCE:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await self._post_first()

    async def _post_first(self) -> None:
        _recorded, body = self._waiting.popleft()
        await self._sink(body["metadata"]["namespace"], body)
