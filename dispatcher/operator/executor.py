"""The hands: carries decisions out, and turns every outcome into something the next decision sees.

Writes to the Job are awaited, for what follows rests on them. Writes to mirrors run as tasks of their
own, one at a time for each mirror, so that a cluster that hangs holds up only its own shares. Every
write passes one gate, which asks whether this process may still act on the key.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Protocol

from dispatcher import metrics
from dispatcher.clusters import jobs as requests
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.fencing import LEASE_LOST, permitted
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.actions import (
    JSON_PATCH,
    CopyDependencies,
    CreateMirror,
    Decision,
    DeleteMirror,
    Event,
    MirrorAction,
    PatchMirror,
    PostEvent,
    WriteJob,
)
from dispatcher.core.decision import decide
from dispatcher.core.manifest import mirror_labels
from dispatcher.core.observation import Attempt, Observation, Refusal
from dispatcher.core.recovery import persisted
from dispatcher.core.sight import unproven
from dispatcher.operator.availability import Availability
from dispatcher.operator.events import Recorder
from dispatcher.operator.faults import CrashPoint
from dispatcher.operator.moves import count_moves
from dispatcher.operator.queue import Key, TryAgain
from dispatcher.operator.world import World, utc_now

logger = logging.getLogger(__name__)

RETRY_FIRST = 0.5
"""Seconds before a refused write is tried again; doubled up to RETRY_CAP."""
RETRY_CAP = 30.0
FAULT_PAUSE = 5.0
"""Seconds before a Job is looked at again after an error of our own in a write to a mirror."""
PASSING_PAUSE = 1.0
"""Seconds before a Job is looked at again that the management API server could not serve; it is waited for first."""
REFUSALS = {
    Outcome.INVALID: Refusal.REFUSED,
    Outcome.FORBIDDEN: Refusal.FORBIDDEN,
    Outcome.NOT_FOUND: Refusal.NAMESPACE_MISSING,
}


class MirrorWorker(Protocol):
    """What the executor needs of one worker cluster."""

    @property
    def api(self) -> ApiServer: ...

    @property
    def mirrors(self) -> ObjectCache: ...

    def note_failure(self, reply: Reply) -> None: ...


@dataclass(frozen=True, slots=True)
class MirrorIdentity:
    """A mirror that was made once, and the labels by which it is seen."""

    cluster: names.ClusterName
    name: str
    uid: str
    labels: Mapping[str, str]


MirrorPlace = tuple[names.ClusterName, str]
"""Cluster and name of a mirror; its namespace is its Job's."""

Gate = Callable[[str], bool]
"""Whether this process may write for the Job with this UID now; always yes without leader election."""


def _kind(action: MirrorAction) -> str:
    """What a write to a mirror is called in :mod:`dispatcher.operator.faults`."""
    if isinstance(action, PatchMirror):
        return {"": "patch"}.get(
            action.subresource, "seed" if action.content_type == JSON_PATCH else "patch-status"
        )
    return "create" if isinstance(action, CreateMirror) else "delete"


class Executor:
    """Carries out decisions for one management cluster.

    ``workers`` maps names to the connected clusters and may change at any time.
    """

    def __init__(
        self,
        *,
        management: ApiServer,
        world: World,
        workers: Callable[[names.ClusterName], MirrorWorker | None],
        recorder: Recorder,
        wake: Callable[[Key], None],
        gate: Gate = lambda _uid: True,
        crash_point: CrashPoint | None = None,
        availability: Availability | None = None,
    ) -> None:
        self._management = management
        self.availability = availability or Availability()
        self._world = world
        self._workers = workers
        self._recorder = recorder
        self._wake = wake
        self._gate = gate
        self._crash = crash_point or CrashPoint(None)
        self._sending: Counter[str] = Counter()
        self._sent = asyncio.Event()
        self._busy: dict[Key, dict[MirrorPlace, asyncio.Task[None]]] = {}
        world.in_flight = self.in_flight
        self._refused: dict[tuple[Key, names.ClusterName, str], int] = {}

    async def carry_out(self, key: Key, job: dict[str, Any], decision: Decision) -> bool:
        """Start all actions in order. Returns whether the Job itself changed, so that it is decided anew;
        what a decision lists after a write of the Job is left to that.

        An action for a mirror that a write is under way for is left out: its end wakes the key again.
        """
        uid = job["metadata"]["uid"]
        for action in decision.actions:
            if not self._gate(uid):
                return False
            match action:
                case WriteJob():
                    return await self._write_job(key, job, action)
                case PostEvent(event=event):
                    self._record(key, job, event)
                case CreateMirror() | PatchMirror() | DeleteMirror():
                    self._start(key, uid, action)
                case CopyDependencies():
                    self._copy(key, uid, action)
        return False

    def owns(self, uid: str) -> bool:
        """Whether this process may write for the Job with this UID now."""
        return self._gate(uid)

    async def quiet(self, concerned: Callable[[str], bool]) -> None:
        """Wait until no write is under way for the Jobs, by UID, that are concerned."""
        while any(map(concerned, self._sending)):
            self._sent.clear()
            await self._sent.wait()

    @contextlib.contextmanager
    def _sends(self, uid: str, kind: str) -> Iterator[int]:
        """Around one write for a Job: it asks the gate again at the last moment."""
        number, permit = self._crash.before(kind, lambda: self._gate(uid))
        self._sending[uid] += 1
        try:
            with permitted(permit):
                yield number
        finally:
            self._sending[uid] -= 1
            if not self._sending[uid]:
                del self._sending[uid]
                self._sent.set()

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
            with self._sends(mirror.labels[names.JOB_UID_LABEL], "patch"):
                reply = await requests.patch_job(worker.api, key[0], mirror.name, patch)
            if reply.ok and reply.body is not None:
                worker.mirrors.put(reply.body)
                self._world.mirror_found(mirror.cluster, reply.body)
                return
        elif reply.ok or reply.outcome is Outcome.NOT_FOUND:
            self._world.mirror_absent(key, mirror.cluster, mirror.uid)
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

    async def _write_job(self, key: Key, before: dict[str, Any], action: WriteJob) -> bool:
        metadata = action.manifest["metadata"]
        held = names.FINALIZER in metadata.get("finalizers", ())
        with self._sends(metadata["uid"], "status" if held else "finalizer") as number:
            reply = await requests.replace_job_status(self._management, key[0], key[1], dict(action.manifest))
        self._crash.after(number)
        if reply.reason == LEASE_LOST:
            return False
        if reply.outcome is Outcome.FORBIDDEN and not await self.availability.knows_rights():
            raise TryAgain(f"the management API server is not ready: {reply}", pause=PASSING_PAUSE)
        metrics.status_write(reply.code)
        match reply.outcome:
            case Outcome.OK:
                body = reply.body or {}
                if body.get("kind") == "Job":
                    count_moves(before, body)
                    self._world.job_written(body)
                for event in action.events:
                    self._record(key, dict(action.manifest), event)
                return True
            case Outcome.CONFLICT | Outcome.NOT_FOUND:
                await self.refresh_job(key)
                return False
            case Outcome.INVALID | Outcome.FORBIDDEN:
                logger.error(
                    "status write rejected",
                    extra={"key": "/".join(key), "code": reply.code, "answer": reply.message},
                )
        _raise_if_passing(reply)
        raise WriteFailed(f"the Job could not be written: {reply}")

    def _record(self, key: Key, job: dict[str, Any], event: Event) -> None:
        if self._recorder.record(job, event):
            logger.info("Job changed", extra={"key": "/".join(key), "reason": event.reason})

    async def refresh_job(self, key: Key) -> None:
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

    def _start(self, key: Key, uid: str, action: MirrorAction) -> None:
        worker = self._workers(action.cluster)
        if worker is None or self.writing(key, action.cluster, action.name):
            return
        self._spawn(key, (action.cluster, action.name), self._act(key, uid, action, worker))

    def _copy(self, key: Key, uid: str, action: CopyDependencies) -> None:
        """Bring objects to a mirror; each write of it asks the gate like any other."""
        worker, propagation = self._workers(action.cluster), self._world.propagation
        if worker is None or propagation is None or self.writing(key, action.cluster, action.name):
            return

        async def write(send: Callable[[], Awaitable[Reply]]) -> Reply:
            with self._sends(uid, "copy") as number:
                reply = await send()
            self._crash.after(number)
            return reply

        place = (action.cluster, action.name)
        self._spawn(key, place, propagation.copy(key[0], uid, action, worker, write=write))

    def _spawn(self, key: Key, place: MirrorPlace, work: Coroutine[Any, Any, None]) -> None:
        """Run this for a mirror; until it ends, nothing else is started for the same mirror."""
        task = asyncio.create_task(work)
        self._busy.setdefault(key, {})[place] = task
        task.add_done_callback(lambda task: self._ended(key, place, task))

    def _ended(self, key: Key, place: MirrorPlace, task: asyncio.Task[None]) -> None:
        self._free(key, place)
        if not task.cancelled() and task.exception() is not None:
            # Whatever a worker answered: without a pause the same would be sent again at once, for ever.
            logger.error("mirror write failed", exc_info=task.exception(), extra={"key": "/".join(key)})
            asyncio.get_running_loop().call_later(FAULT_PAUSE, self._wake, key)
        else:
            self._wake(key)

    def _free(self, key: Key, place: MirrorPlace) -> None:
        running = self._busy[key]
        del running[place]
        if not running:
            del self._busy[key]

    async def _act(self, key: Key, uid: str, action: MirrorAction, worker: MirrorWorker) -> None:
        with self._sends(uid, _kind(action)) as number:
            reply = await self._send(key[0], action, worker)
        self._crash.after(number)
        if isinstance(action, CreateMirror) and action.makes_namespace and reply.outcome is Outcome.NOT_FOUND:
            reply = await self._make_namespace(key, uid, action, worker)
        await self._learn(key, action, worker, reply)

    async def _make_namespace(self, key: Key, uid: str, action: CreateMirror, worker: MirrorWorker) -> Reply:
        """Make the mirror's namespace, then the mirror; the reply that decides."""
        labels = {names.ORIGIN_LABEL: self._world.rules.origin}
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": key[0], "labels": labels}}
        with self._sends(uid, "namespace") as number:
            reply = await requests.create_namespace(worker.api, manifest)
        self._crash.after(number)
        if reply.ok:
            logger.info("namespace made", extra={"cluster": action.cluster, "namespace": key[0]})
        elif reply.outcome is not Outcome.ALREADY_EXISTS:
            return reply
        with self._sends(uid, _kind(action)) as number:
            reply = await self._send(key[0], action, worker)
        self._crash.after(number)
        return reply

    @staticmethod
    async def _send(namespace: str, action: MirrorAction, worker: MirrorWorker) -> Reply:
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

    async def _learn(self, key: Key, action: MirrorAction, worker: MirrorWorker, reply: Reply) -> None:
        """Make an outcome visible to the next decision."""
        slot = (key, action.cluster, action.name)
        if reply.reason == LEASE_LOST:
            return  # never sent; another process looks after the Job now
        if reply.ok:
            self._refused.pop(slot, None)
            self._world.attempt(key, action.cluster, action.name, None)
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
        slot = (key, action.cluster, action.name)
        failures = self._refused[slot] = self._refused.get(slot, 0) + 1
        pause = min(RETRY_CAP, RETRY_FIRST * 2 ** min(failures - 1, 10))
        pause = max(pause, reply.retry_after or 0.0)
        message = reply.message or reply.reason or refusal.value
        now = utc_now()
        earlier = self._world.attempts(key).get((action.cluster, action.name))
        since = earlier.since if earlier is not None else now
        attempt = Attempt(refusal, message, now + timedelta(seconds=pause), since)
        self._world.attempt(key, action.cluster, action.name, attempt)
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
                self._world.attempt(key, action.cluster, action.name, None)
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


class WriteFailed(Exception):
    """The Job's own write or read failed; the queue brings the key back after a pause."""


def _raise_if_passing(reply: Reply) -> None:
    """Trouble of the management API server is no Job's fault: no Job waits longer because of it, once it is over."""
    if reply.outcome in (Outcome.UNREACHABLE, Outcome.SERVER_ERROR, Outcome.THROTTLED):
        raise TryAgain(str(reply), pause=max(PASSING_PAUSE, min(reply.retry_after or 0.0, RETRY_CAP)))


class Reconciler:
    """Decides and acts for one key until nothing is left to do at once."""

    MAX_ROUNDS = 20

    def __init__(self, world: World, executor: Executor) -> None:
        self._world = world
        self._executor = executor

    async def __call__(self, key: Key) -> float | None:
        """Reconcile one Job. Returns the seconds after which to look again, if any."""
        started = monotonic()
        latencies = self._world.latencies
        acted = False
        for _round in range(self.MAX_ROUNDS):
            await self._executor.availability.wait()
            manifest = self._world.jobs.get(*key)
            if manifest is None or not self._executor.owns(manifest["metadata"]["uid"]):
                metrics.reconcile_found_nothing()
                return None
            if "deletionTimestamp" in manifest["metadata"] and self._executor.busy(key):
                return None  # a POST under way could land after the last look; its end wakes the key
            rest = None if acted else self._world.rest(manifest)
            if rest is not None:
                return rest
            since = latencies.take(key)
            observation = self._world.observe(manifest)
            self._prove_absent(key, observation)
            decision = decide(observation)
            if not decision.actions:
                self._world.forget_ghosts(manifest["metadata"]["uid"])
                self._world.forget_edits(key)
            self._world.room.book(key, manifest, decision)
            changed = await self._executor.carry_out(key, manifest, decision)
            self._world.room.written(key)
            acted = acted or bool(decision.actions)
            latencies.decided(
                key, since, written=changed, acts=bool(decision.actions), look_again=decision.look_again
            )
            if not changed:
                metrics.reconciled(monotonic() - started, changed=acted)
                return decision.look_again
        return 0.2

    def _prove_absent(self, key: Key, observation: Observation) -> None:
        """Have the mirrors looked for that should be seen and are not."""
        job = observation.job
        for ghost in self._world.doubted(job.uid):
            labels = ghost.manifest["metadata"]["labels"]
            self._executor.prove(key, MirrorIdentity(ghost.cluster, ghost.name, ghost.uid, labels))
        placement = persisted(job)
        if placement is None or job.deleted_at is not None or job.finished:
            return
        for share in unproven(observation, placement):
            labels = mirror_labels(job, share, origin=observation.rules.origin)
            self._executor.prove(key, MirrorIdentity(share.cluster, share.mirror, share.mirror_uid, labels))
