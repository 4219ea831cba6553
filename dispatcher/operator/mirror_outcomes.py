"""What comes of a write to a mirror, made visible to the next decision: the mirror itself, or why it is as it was."""

import logging
from datetime import timedelta
from typing import Protocol

from dispatcher.clusters import jobs as requests
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.fencing import LEASE_LOST
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.actions import CreateMirror, DeleteMirror, MirrorAction, PatchMirror
from dispatcher.core.observation import Attempt, Refusal
from dispatcher.operator.queue import Key
from dispatcher.operator.world import World, utc_now

logger = logging.getLogger(__name__)

RETRY_FIRST = 0.5
"""Seconds before a refused write is tried again; doubled up to RETRY_CAP."""
RETRY_CAP = 30.0
REFUSALS = {
    Outcome.INVALID: Refusal.REFUSED,
    Outcome.FORBIDDEN: Refusal.FORBIDDEN,
    Outcome.NOT_FOUND: Refusal.NAMESPACE_MISSING,
}


class MirrorWorker(Protocol):
    """What writes to mirrors need of one worker cluster."""

    @property
    def api(self) -> ApiServer: ...

    @property
    def mirrors(self) -> ObjectCache: ...

    def note_failure(self, reply: Reply) -> None: ...


class MirrorOutcomes:
    """Puts replies into the world; a reply that leaves open what is there is followed by a live read."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def learn(self, key: Key, action: MirrorAction, worker: MirrorWorker, reply: Reply) -> None:
        """Make an outcome visible to the next decision."""
        if reply.reason == LEASE_LOST:
            return  # never sent; another process looks after the Job now
        if reply.ok:
            self._world.mirror_notes.attempt(key, action.cluster, action.name, None)
            body = reply.body or {}
            if body.get("kind") == "Job":
                worker.mirrors.put(body)
                if isinstance(action, CreateMirror):
                    self._world.note_mirror_made(key)
            elif isinstance(action, DeleteMirror):
                # A Status in place of the object: nothing held it, so that it is gone already.
                worker.mirrors.gone(key[0], action.name, action.uid)
            return
        if isinstance(action, CreateMirror):
            if reply.outcome in (Outcome.ALREADY_EXISTS, Outcome.UNREACHABLE, Outcome.SERVER_ERROR):
                if reply.outcome is not Outcome.ALREADY_EXISTS:
                    worker.note_failure(reply)
                await self._meet(key, action, worker, reply)
                return
        elif reply.outcome is Outcome.NOT_FOUND:
            worker.mirrors.gone(key[0], action.name, action.uid)
            return
        elif reply.outcome in (Outcome.CONFLICT, Outcome.INVALID):
            # Our view was stale, or the object changed under a guard: look again before anything else.
            await self._reread(key, action, worker)
            if reply.outcome is Outcome.CONFLICT:
                return
        if reply.outcome in (Outcome.UNREACHABLE, Outcome.SERVER_ERROR, Outcome.UNAUTHORIZED):
            worker.note_failure(reply)
        self._refuse(key, action, REFUSALS.get(reply.outcome, Refusal.UNREACHABLE), reply)

    def _refuse(self, key: Key, action: MirrorAction, refusal: Refusal, reply: Reply) -> None:
        earlier = self._world.mirror_notes.attempts(key).get((action.cluster, action.name))
        failures = earlier.failures + 1 if earlier is not None else 1
        pause = min(RETRY_CAP, RETRY_FIRST * 2 ** min(failures - 1, 10))
        pause = max(pause, reply.retry_after or 0.0)
        message = reply.message or reply.reason or refusal.value
        now = utc_now()
        since = earlier.since if earlier is not None else now
        attempt = Attempt(refusal, message, now + timedelta(seconds=pause), since, failures)
        self._world.mirror_notes.attempt(key, action.cluster, action.name, attempt)
        news = earlier is None or earlier.refusal is not refusal
        logger.log(
            logging.INFO if news else logging.DEBUG,
            "mirror write refused",
            extra={
                "key": "/".join(key),
                "cluster": action.cluster,
                "reason": refusal.value,
                "answer": message,
                "retry_in": round(pause, 2),
            },
        )

    async def _meet(self, key: Key, action: CreateMirror, worker: MirrorWorker, answer: Reply) -> None:
        """After this ``answer`` to a POST see what has the name: our own mirror (an earlier POST, or one whose answer
        was lost; adopted), somebody else's Job, or nothing.
        """
        reply = await requests.get_job(worker.api, key[0], action.name)
        if reply.ok and reply.body is not None:
            wanted = action.manifest["metadata"]["labels"]
            labels = reply.body["metadata"].get("labels") or {}
            ours = all(
                labels.get(label) == wanted[label]
                for label in (names.ORIGIN_LABEL, names.JOB_UID_LABEL, names.SHARE_LABEL)
            )
            if ours:
                worker.mirrors.put(reply.body)
                self._world.note_mirror_made(key)
                self._world.mirror_notes.attempt(key, action.cluster, action.name, None)
                return
            self._refuse(key, action, Refusal.NAME_TAKEN, reply)
        else:
            if reply.outcome is not Outcome.NOT_FOUND:
                worker.note_failure(reply)
            self._refuse(
                key, action, Refusal.UNREACHABLE, answer if reply.outcome is Outcome.NOT_FOUND else reply
            )

    async def _reread(self, key: Key, action: PatchMirror | DeleteMirror, worker: MirrorWorker) -> None:
        reply = await requests.get_job(worker.api, key[0], action.name)
        if reply.ok and reply.body is not None and reply.body["metadata"]["uid"] == action.uid:
            worker.mirrors.put(reply.body)
        elif reply.ok or reply.outcome is Outcome.NOT_FOUND:
            worker.mirrors.gone(key[0], action.name, action.uid)
