"""The life of one scripted pod, played as a kubelet would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from hack.lab.scripter import statuses
from hack.lab.scripter.attempts import Attempts
from hack.lab.scripter.script import RUN, InvalidScript, Script, parse
from hack.lab.scripter.statuses import Run

JSON = dict[str, Any]

RESTART_SECONDS = 1.0  # a kubelet begins with 10 s and doubles it


class PodGone(Exception):
    """The pod does not exist any more."""


class Writer(Protocol):
    """How a pod's life reaches the API server. Both raise PodGone, and try for as long as the server is away."""

    async def patch(self, pod: JSON, *, status: JSON, annotations: dict[str, str]) -> None:
        """Writes a status, and annotations with it."""

    async def remove(self, pod: JSON) -> None:
        """Deletes without grace, as a kubelet does once the containers are gone."""


class PodLife:
    """Plays `pod` from the moment it is bound to a node to its removal."""

    def __init__(
        self,
        pod: JSON,
        *,
        attempts: Attempts,
        writer: Writer,
        record: Callable[[JSON], None] = lambda _: None,
    ) -> None:
        """``record`` is told of each run's start and end once the API server has it."""
        self._pod = pod
        self._attempts = attempts
        self._writer = writer
        self._record = record
        self._place = attempts.place(pod["metadata"])
        self._bound = asyncio.Event()
        self._deleted = asyncio.Event()
        self._run = Run(began=datetime.now(UTC))
        # Known here, as the watch may still bring states from before our own writes.
        self._ended = pod["status"].get("phase") in ("Succeeded", "Failed")
        self.observe(pod)
        self.task = asyncio.create_task(self._live())

    def observe(self, pod: JSON) -> None:
        """Takes in the newest state from the API server."""
        self._pod = pod
        if pod["spec"].get("nodeName"):
            self._bound.set()
        if pod["metadata"].get("deletionTimestamp"):
            self._deleted.set()

    def forget(self) -> None:
        """The pod is gone."""
        self.task.cancel()

    async def _live(self) -> None:
        try:
            await self._bound.wait()  # one that is never bound is removed by the API server itself
            if not self._ended and not self._deleted.is_set():
                try:
                    await self._play(parse(self._pod["metadata"]["annotations"]))
                except InvalidScript as error:
                    await self._end(statuses.refused(message=str(error)))
            await self._deleted.wait()
            await self._terminate()
        except PodGone:
            pass

    async def _play(self, script: Script) -> None:
        """Runs the containers until they ended for good or the pod is deleted."""
        earlier: JSON | None = None
        if self._pod["status"].get("phase") == "Running":
            self._resume()
        else:
            self._run = Run(began=datetime.now(UTC))
            await self._write(statuses.running(self._pod, self._run))
            self._tell("started")
        while True:
            place = self._place
            outcome = script.outcome(index=place.index, attempt=place.attempt, nth=place.nth)
            spent = (datetime.now(UTC) - self._run.began).total_seconds()
            left = None if outcome.exit is None else max(outcome.after - spent, 0.0)
            if await self._is_deleted_within(left):
                return
            assert outcome.exit is not None
            now = datetime.now(UTC)
            if not self._restarts(outcome.exit):
                await self._end(statuses.finished(self._pod, self._run, code=outcome.exit, now=now))
                self._tell("ended", exit=outcome.exit)
                return
            earlier = statuses.terminated(code=outcome.exit, began=self._run.began, ended=now)
            await self._write(statuses.restarting(self._pod, self._run, code=outcome.exit, now=now))
            if await self._is_deleted_within(RESTART_SECONDS):
                return
            self._place = self._attempts.again(self._place)
            self._run = Run(began=datetime.now(UTC), restarts=self._run.restarts + 1)
            await self._write(statuses.running(self._pod, self._run, earlier=earlier))

    async def _terminate(self) -> None:
        if not self._ended:
            try:
                outcome = parse(self._pod["metadata"]["annotations"]).termination
            except InvalidScript:
                outcome = Script().termination
            if outcome.exit is None:
                return  # a container that cannot be ended, as on a dead node
            await asyncio.sleep(outcome.after)
            now = datetime.now(UTC)
            await self._end(statuses.finished(self._pod, self._run, code=outcome.exit, now=now))
            self._tell("stopped", exit=outcome.exit)
        await self._writer.remove(self._pod)

    async def _write(self, status: JSON) -> None:
        await self._writer.patch(self._pod, status=status, annotations={RUN: self._place.annotation()})

    async def _end(self, status: JSON) -> None:
        await self._write(status)
        self._ended = True

    def _tell(self, what: str, **more: Any) -> None:
        metadata, place = self._pod["metadata"], self._place
        self._record(
            {
                "what": what,
                "time": datetime.now(UTC).isoformat(),
                "namespace": metadata["namespace"],
                "pod": metadata["name"],
                "uid": metadata["uid"],
                "labels": metadata.get("labels", {}),
                "job": place.job,
                "index": place.index,
                "nth": place.nth,
                "try": place.attempt,
                **more,
            }
        )

    def _resume(self) -> None:
        """Goes on where an earlier process of ours stopped."""
        status = self._pod["status"]["containerStatuses"][0]
        state = status["state"].get("running")
        began = datetime.fromisoformat(state["startedAt"]) if state else datetime.now(UTC)
        self._run = Run(began=began, restarts=status["restartCount"])

    def _restarts(self, code: int) -> bool:
        policy = self._pod["spec"]["restartPolicy"]
        return policy == "Always" or (policy == "OnFailure" and code != 0)

    async def _is_deleted_within(self, seconds: float | None) -> bool:
        """Waits for the pod's deletion; False once `seconds` are over (None: for ever)."""
        try:
            async with asyncio.timeout(seconds):
                await self._deleted.wait()
        except TimeoutError:
            return False
        return True
