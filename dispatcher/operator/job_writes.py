"""Writes to Jobs on the management cluster: each is awaited, for what follows rests on it."""

import logging
from collections.abc import Callable
from typing import Any

from dispatcher import metrics
from dispatcher.clusters import jobs as requests
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.fencing import LEASE_LOST
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.actions import Event, WriteJob
from dispatcher.operator.availability import Availability
from dispatcher.operator.events import Recorder
from dispatcher.operator.moves import count_moves
from dispatcher.operator.queue import Key, TryAgain
from dispatcher.operator.world import World
from dispatcher.operator.write_gate import WriteGate

logger = logging.getLogger(__name__)

RETRY_CAP = 30.0
"""Seconds that the API server's wish for a pause is heeded for."""
PASSING_PAUSE = 1.0
"""Seconds before a Job is looked at again that the management API server could not serve; it is waited for first."""


class WriteFailed(Exception):
    """The Job's own write or read failed; the queue brings the key back after a pause."""


class JobWriter:
    """Brings Jobs to the status and placement that were decided, and puts what came of it into the world."""

    def __init__(
        self,
        management: ApiServer,
        *,
        world: World,
        gate: WriteGate,
        recorder: Recorder,
        wake: Callable[[Key], None],
        availability: Availability | None = None,
    ) -> None:
        self._management = management
        self._world = world
        self._gate = gate
        self._recorder = recorder
        self._wake = wake
        self.availability = availability or Availability()

    async def write(self, key: Key, before: dict[str, Any], action: WriteJob) -> bool:
        """Send one PUT. Returns whether the Job is as it was to be. ``before`` is the Job that was decided on.

        :raises TryAgain: the API server could not serve it now.
        :raises WriteFailed: it was refused.
        """
        metadata = action.manifest["metadata"]
        kind = "status" if names.FINALIZER in metadata.get("finalizers", ()) else "finalizer"
        with self._world.writing_job(key):
            with self._world.write_pace.write():
                reply = await self._gate.send(
                    metadata["uid"],
                    kind,
                    lambda: requests.replace_job_status(self._management, *key, dict(action.manifest)),
                )
            body = reply.body or {}
            if reply.ok and body.get("kind") == "Job":
                count_moves(before, body)
                self._world.job_written(key, body)
        if reply.reason == LEASE_LOST:
            return False
        if reply.outcome is Outcome.FORBIDDEN and not await self.availability.knows_rights():
            raise TryAgain(f"the management API server is not ready: {reply}", pause=PASSING_PAUSE)
        metrics.status_write(reply.code)
        match reply.outcome:
            case Outcome.OK:
                for event in action.events:
                    self.record(key, dict(action.manifest), event)
                return True
            case Outcome.CONFLICT | Outcome.NOT_FOUND:
                await self.refresh(key)
                return False
            case Outcome.INVALID | Outcome.FORBIDDEN:
                logger.error(
                    "status write rejected",
                    extra={"key": "/".join(key), "code": reply.code, "answer": reply.message},
                )
        _raise_if_passing(reply)
        raise WriteFailed(f"the Job could not be written: {reply}")

    def record(self, key: Key, job: dict[str, Any], event: Event) -> None:
        """Post an Event on the Job."""
        if self._recorder.record(job, event):
            logger.info("Job changed", extra={"key": "/".join(key), "reason": event.reason})

    async def refresh(self, key: Key) -> None:
        """Read the Job live: what is cached is not what the API server has."""
        known = self._world.jobs.get(*key)
        reply = await requests.get_job(self._management, *key)
        if reply.ok and reply.body is not None:
            self._world.jobs.put(reply.body)
            self._wake(key)
        elif reply.outcome is Outcome.NOT_FOUND and known is not None:
            self._world.jobs.gone(key[0], key[1], known["metadata"]["uid"])
        else:
            _raise_if_passing(reply)
            raise WriteFailed(f"the Job could not be read: {reply}")


def _raise_if_passing(reply: Reply) -> None:
    """Trouble of the management API server is no Job's fault: no Job waits longer because of it, once it is over."""
    if reply.outcome in (Outcome.UNREACHABLE, Outcome.SERVER_ERROR, Outcome.THROTTLED):
        raise TryAgain(str(reply), pause=max(PASSING_PAUSE, min(reply.retry_after or 0.0, RETRY_CAP)))
