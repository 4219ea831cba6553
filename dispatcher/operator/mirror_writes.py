"""Writes to mirrors: each runs as a task of its own, one at a time for each mirror, so that a cluster that hangs holds
up only its own shares. What comes of one is something that the next decision sees.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.clusters import jobs as requests
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.actions import (
    JSON_PATCH,
    CopyDependencies,
    CreateMirror,
    MirrorAction,
    PatchMirror,
)
from dispatcher.operator.mirror_notes import MirrorPlace
from dispatcher.operator.mirror_outcomes import RETRY_FIRST, MirrorOutcomes, MirrorWorker
from dispatcher.operator.propagation import Propagation
from dispatcher.operator.queue import Key
from dispatcher.operator.world import World
from dispatcher.operator.write_gate import WriteGate

logger = logging.getLogger(__name__)

FAULT_PAUSE = 5.0
"""Seconds before a Job is looked at again after an error of our own in a write to a mirror."""


@dataclass(frozen=True, slots=True)
class MirrorIdentity:
    """A mirror that was made once, and the labels by which it is seen."""

    cluster: names.ClusterName
    name: str
    uid: str
    labels: Mapping[str, str]


def _kind(action: MirrorAction) -> str:
    """What a write to a mirror is called in :mod:`dispatcher.operator.faults`."""
    if isinstance(action, PatchMirror):
        return {"": "patch"}.get(
            action.subresource, "seed" if action.content_type == JSON_PATCH else "patch-status"
        )
    return "create" if isinstance(action, CreateMirror) else "delete"


class MirrorWriter:
    """Carries out what decisions ask of mirrors.

    ``workers`` maps names to the connected clusters and may change at any time. ``wake`` is called with the key of a
    Job when a write for a mirror of it has ended.
    """

    def __init__(
        self,
        *,
        world: World,
        gate: WriteGate,
        workers: Callable[[names.ClusterName], MirrorWorker | None],
        wake: Callable[[Key], None],
    ) -> None:
        self._world = world
        self._gate = gate
        self._workers = workers
        self._wake = wake
        self._busy: dict[Key, dict[MirrorPlace, asyncio.Task[None]]] = {}
        self._outcomes = MirrorOutcomes(world)
        world.in_flight = self.in_flight

    def start(self, key: Key, uid: str, action: MirrorAction | CopyDependencies) -> None:
        """Begin to carry out an action for the Job with this UID.

        One for a mirror that a write is under way for is left out: its end wakes the key again.
        """
        worker = self._workers(action.cluster)
        if worker is None or self.writing(key, action.cluster, action.name):
            return
        if isinstance(action, CopyDependencies):
            if self._world.propagation is None:
                return
            work = self._copy(key, uid, action, worker, self._world.propagation)
        else:
            work = self._act(key, uid, action, worker)
        self._spawn(key, (action.cluster, action.name), work)

    def busy(self, key: Key) -> bool:
        """Whether a write for a mirror of this Job is under way."""
        return key in self._busy

    def in_flight(self, key: Key) -> frozenset[MirrorPlace]:
        """The mirrors of this Job that a write is under way for."""
        return frozenset(self._busy.get(key, ()))

    def writing(self, key: Key, cluster: names.ClusterName, mirror: str) -> bool:
        """Whether a write for this mirror is under way, so that a change of it may be ours."""
        return (cluster, mirror) in self._busy.get(key, ())

    def prove(self, key: Key, mirror: MirrorIdentity) -> None:
        """Find out by a live read what became of a mirror that is not seen; its end wakes the key.

        One that is there has lost labels: it gets them back, and is seen again.
        """
        worker = self._workers(mirror.cluster)
        if not self.writing(key, mirror.cluster, mirror.name) and worker is not None:
            self._spawn(key, (mirror.cluster, mirror.name), self._prove(key, mirror, worker))

    async def _prove(self, key: Key, mirror: MirrorIdentity, worker: MirrorWorker) -> None:
        reply = await requests.get_job(worker.api, key[0], mirror.name)
        if reply.ok and reply.body is not None and reply.body["metadata"]["uid"] == mirror.uid:
            patch = {"metadata": {"uid": mirror.uid, "labels": mirror.labels}}
            uid = mirror.labels[names.JOB_UID_LABEL]
            reply = await self._gate.send(
                uid, "patch", lambda: requests.patch_job(worker.api, key[0], mirror.name, patch)
            )
            if reply.ok and reply.body is not None:
                worker.mirrors.put(reply.body)
                self._world.mirror_notes.found(mirror.cluster, reply.body)
                return
        elif reply.ok or reply.outcome is Outcome.NOT_FOUND:
            self._world.mirror_notes.absent(key, mirror.cluster, mirror.uid)
            return
        worker.note_failure(reply)
        await asyncio.sleep(RETRY_FIRST)

    async def stop(self, *, grace: float) -> bool:
        """Let the writes under way end, for at most ``grace`` seconds. Returns whether all of them did."""
        tasks = [task for running in self._busy.values() for task in running.values()]
        if not tasks:
            return True
        _done, pending = await asyncio.wait(tasks, timeout=grace)
        for task in pending:
            task.cancel()
        return not pending

    def _spawn(self, key: Key, place: MirrorPlace, work: Coroutine[Any, Any, None]) -> None:
        """Run this for a mirror; until it ends, nothing else is started for the same mirror."""
        self._busy.setdefault(key, {})[place] = asyncio.create_task(self._whole(key, place, work))

    async def _whole(self, key: Key, place: MirrorPlace, work: Coroutine[Any, Any, None]) -> None:
        """What the work has learned, its end and the one look at both: nothing is awaited between them."""
        try:
            await work
        except Exception:
            # Whatever a worker answered: without a pause the same would be sent again at once, for ever.
            logger.exception("mirror write failed", extra={"key": "/".join(key)})
            asyncio.get_running_loop().call_later(FAULT_PAUSE, self._wake, key)
        else:
            self._wake(key)
        finally:
            self._free(key, place)

    def _free(self, key: Key, place: MirrorPlace) -> None:
        running = self._busy[key]
        del running[place]
        if not running:
            del self._busy[key]

    async def _copy(
        self, key: Key, uid: str, action: CopyDependencies, worker: MirrorWorker, propagation: Propagation
    ) -> None:
        """Bring objects to a mirror; each write of it asks the gate like any other."""

        async def write(send: Callable[[], Awaitable[Reply]]) -> Reply:
            return await self._gate.send(uid, "copy", send)

        await propagation.copy(key[0], uid, action, worker, write=write)

    async def _act(self, key: Key, uid: str, action: MirrorAction, worker: MirrorWorker) -> None:
        reply = await self._send(key[0], uid, action, worker)
        if isinstance(action, CreateMirror) and action.makes_namespace and reply.outcome is Outcome.NOT_FOUND:
            reply = await self._make_namespace(key, uid, action, worker)
        await self._outcomes.learn(key, action, worker, reply)

    async def _make_namespace(self, key: Key, uid: str, action: CreateMirror, worker: MirrorWorker) -> Reply:
        """Make the mirror's namespace, then the mirror; the reply that decides."""
        labels = {names.ORIGIN_LABEL: self._world.rules.origin}
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": key[0], "labels": labels}}
        reply = await self._gate.send(
            uid, "namespace", lambda: requests.create_namespace(worker.api, manifest)
        )
        if reply.ok:
            logger.info("namespace made", extra={"cluster": action.cluster, "namespace": key[0]})
        elif reply.outcome is not Outcome.ALREADY_EXISTS:
            return reply
        return await self._send(key[0], uid, action, worker)

    async def _send(self, namespace: str, uid: str, action: MirrorAction, worker: MirrorWorker) -> Reply:
        async def request() -> Reply:
            if isinstance(action, CreateMirror):
                return await requests.create_job(worker.api, namespace, dict(action.manifest))
            if isinstance(action, PatchMirror):
                return await requests.patch_job(
                    worker.api,
                    namespace,
                    action.name,
                    action.patch,
                    content_type=action.content_type,
                    subresource=action.subresource,
                )
            return await requests.delete_job(worker.api, namespace, action.name, action.uid)

        return await self._gate.send(uid, _kind(action), request)
