"""What follows Jobs to the workers: watches on the sources' metadata, and copies that are made when they are due.

Nothing of a ConfigMap or Secret but its UID and resourceVersion is kept. Its data is read when a copy is written,
and dropped after that. A Job whose policy lets nothing follow costs no request, and no watch.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, TypeAlias

from dispatcher.clusters import objects
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.fencing import LEASE_LOST
from dispatcher.clusters.reflector import Reflector
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import dependencies, names
from dispatcher.core.actions import CopyDependencies, ObjectRef
from dispatcher.core.dependencies import Fault, Provision, Source, Step
from dispatcher.core.job import Job
from dispatcher.core.policy import Policy
from dispatcher.operator.queue import Key

logger = logging.getLogger(__name__)

LINGER: Final = 60.0
"""Seconds that a watch outlives the last Job that needs it: the next run of a CronJob finds it there."""
RETRY_FIRST: Final = 0.5
RETRY_CAP: Final = 15.0
"""Seconds before a copy that failed is tried again, first and at most."""

Mirror: TypeAlias = tuple[names.ClusterName, str]
"""Cluster and the mirror's UID."""
Write: TypeAlias = Callable[[Callable[[], Awaitable[Reply]]], Awaitable[Reply]]
"""Sends one write, unless this process may not write for the Job any more."""


class CopyWorker(Protocol):
    """What is needed of one worker cluster."""

    @property
    def api(self) -> ApiServer: ...

    def note_failure(self, reply: Reply) -> None: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What a decision sees: the sources that a Job names, and the copies beside its mirrors."""

    sources: Mapping[ObjectRef, Source] = field(default_factory=dict)
    provided: Mapping[Mirror, Mapping[ObjectRef, Provision]] = field(default_factory=dict)


NOTHING: Final = Seen()


@dataclass(slots=True)
class _Watch:
    """The objects of one kind in one namespace, while Jobs there need them."""

    reflector: Reflector
    task: asyncio.Task[None]
    users: dict[Key, frozenset[str]] = field(default_factory=dict)
    """By Job: the names it needs."""
    ending: asyncio.TimerHandle | None = None


class Propagation:
    """Knows the sources of those Jobs whose policy lets objects follow, and carries copies out.

    ``wake`` is called with the key of a Job whose source was made, changed or went.
    """

    def __init__(self, management: ApiServer, *, origin: str, wake: Callable[[Key], None]) -> None:
        self._management = management
        self._origin = origin
        self._wake = wake
        self._watches: dict[tuple[str, str], _Watch] = {}
        self._watched: dict[Key, set[tuple[str, str]]] = {}
        self._provided: dict[str, dict[Mirror, dict[ObjectRef, Provision]]] = defaultdict(dict)

    def look(self, job: Job, policy: Policy) -> Seen:
        """What is known now; a watch is opened for what is not watched yet."""
        key = (job.namespace, job.name)
        over = job.finished or job.deleted_at is not None
        refs = {} if over else dependencies.of_job(job, policy.propagate)
        if not refs:
            if key in self._watched:
                self.forget(key, job.uid)
            return NOTHING
        by_kind: dict[str, set[str]] = defaultdict(set)
        for ref in refs:
            by_kind[ref.kind].add(ref.name)
        before = self._watched.get(key, set())
        self._watched[key] = {(job.namespace, kind) for kind in by_kind}
        for place in before - self._watched[key]:
            self._leave(place, key)
        for kind, wanted in by_kind.items():
            watch = self._watch(job.namespace, kind)
            watch.users[key] = frozenset(wanted)
            if watch.ending is not None:
                watch.ending.cancel()
                watch.ending = None
        sources = {ref: source for ref in refs if (source := self._source(job.namespace, ref)) is not None}
        provided = {mirror: dict(seen) for mirror, seen in self._provided.get(job.uid, {}).items()}
        return Seen(sources, provided)

    def forget(self, key: Key, uid: str) -> None:
        """The Job needs nothing any more."""
        self._provided.pop(uid, None)
        for place in self._watched.pop(key, set()):
            self._leave(place, key)

    async def stop(self) -> None:
        """End all watches."""
        tasks = [watch.task for watch in self._watches.values()]
        for watch in self._watches.values():
            if watch.ending is not None:
                watch.ending.cancel()
            watch.task.cancel()
        self._watches.clear()
        if tasks:
            await asyncio.wait(tasks)

    def _watch(self, namespace: str, kind: str) -> _Watch:
        place = (namespace, kind)
        watch = self._watches.get(place)
        if watch is None:
            cache = ObjectCache(trim=_identity, on_change=lambda old, new: self._changed(place, new or old))
            reflector = Reflector(
                self._management,
                objects.path(kind, namespace),
                cache,
                metadata_only=True,
                on_state=lambda: self._turned(place),
            )
            task = asyncio.create_task(reflector.run(), name=f"{kind}s of {namespace}")
            watch = self._watches[place] = _Watch(reflector, task)
        return watch

    def _leave(self, place: tuple[str, str], key: Key) -> None:
        watch = self._watches.get(place)
        if watch is None:
            return
        watch.users.pop(key, None)
        if not watch.users and watch.ending is None:
            watch.ending = asyncio.get_running_loop().call_later(LINGER, self._end, place)

    def _end(self, place: tuple[str, str]) -> None:
        watch = self._watches.get(place)
        if watch is not None and not watch.users:
            del self._watches[place]
            watch.task.cancel()

    def _source(self, namespace: str, ref: ObjectRef) -> Source | None:
        reflector = self._watches[namespace, ref.kind].reflector
        found = reflector.cache.get(namespace, ref.name)
        if found is not None:
            return Source(dependencies.version_of(found["metadata"]))
        error = reflector.last_error
        if error is not None and error.reason == "Forbidden":
            return Source(fault=_remedy(namespace, ref.kind))
        return Source() if reflector.synced.is_set() else None

    def _changed(self, place: tuple[str, str], manifest: dict[str, Any] | None) -> None:
        watch = self._watches.get(place)
        if watch is None or manifest is None:
            return
        name = manifest["metadata"]["name"]
        for key, wanted in list(watch.users.items()):
            if name in wanted:
                self._wake(key)

    def _turned(self, place: tuple[str, str]) -> None:
        """The first list is in, or it was refused."""
        watch = self._watches.get(place)
        for key in list(watch.users) if watch is not None else ():
            self._wake(key)

    async def copy(
        self, namespace: str, uid: str, action: CopyDependencies, worker: CopyWorker, *, write: Write
    ) -> None:
        """Bring each object in line; every outcome is remembered for the next decision."""
        # Once: the Job may go meanwhile, and what is noted of it then is forgotten.
        known = self._provided[uid].setdefault((action.cluster, action.uid), {})
        for ref in action.objects:
            before = known.get(ref, Provision())
            try:
                known[ref] = await self._bring(namespace, ref, action, worker, write=write)
            except _Failed as failed:
                if failed.reply is not None and failed.reply.reason == LEASE_LOST:
                    return
                failures = before.failures + 1
                pause = min(RETRY_CAP, RETRY_FIRST * 2 ** min(failures - 1, 10))
                retry_at = datetime.now(UTC) + timedelta(seconds=pause)
                known[ref] = Provision(before.version, failed.fault, failed.message, retry_at, failures)
                logger.info(
                    "object not copied",
                    extra={
                        "cluster": action.cluster,
                        "object": f"{ref.kind} {namespace}/{ref.name}",
                        "reason": failed.fault.value if failed.fault else "again",
                        "retry_in": pause,
                    },
                )
                if failed.reply is not None:
                    worker.note_failure(failed.reply)

    async def _bring(
        self, namespace: str, ref: ObjectRef, action: CopyDependencies, worker: CopyWorker, *, write: Write
    ) -> Provision:
        where = f"on cluster {action.cluster}"
        reply = await objects.get_metadata(worker.api, ref.kind, namespace, ref.name)
        existing: dict[str, Any] | None = None
        if reply.ok and reply.body is not None:
            existing = reply.body["metadata"]
        elif reply.outcome is not Outcome.NOT_FOUND:
            raise _refused(reply, ref, where)
        source = self._source(namespace, ref) or Source()
        todo = dependencies.step(existing, origin=self._origin, version=source.version, owner_uid=action.uid)
        if todo is Step.KEEP:
            return Provision(source.version)
        if todo is Step.FOREIGN:
            text = f"There is a {ref} of somebody else's {where} in namespace {namespace}, which is not overwritten"
            raise _Failed(Fault.NAME_TAKEN, f"{text}; remove it there, or use another name")
        if todo is Step.WAIT:
            raise _Failed(None, "")
        body = await self._read(namespace, ref)
        manifest = dependencies.make_copy(
            body,
            kind=ref.kind,
            origin=self._origin,
            mirror=action.name,
            mirror_uid=action.uid,
            existing=existing,
        )
        version = dependencies.version_of(body["metadata"])
        send = objects.create if todo is Step.CREATE else objects.replace
        reply = await write(lambda: send(worker.api, ref.kind, namespace, manifest))
        if not reply.ok:
            raise _refused(reply, ref, where)
        logger.info(
            "object copied",
            extra={
                "cluster": action.cluster,
                "object": f"{ref.kind} {namespace}/{ref.name}",
                "step": todo.value,
            },
        )
        return Provision(version)

    async def _read(self, namespace: str, ref: ObjectRef) -> dict[str, Any]:
        """The source with its data, read now."""
        cache = self._watch(namespace, ref.kind).reflector.cache
        known = cache.get(namespace, ref.name)
        reply = await objects.get(self._management, ref.kind, namespace, ref.name)
        if reply.outcome is Outcome.NOT_FOUND:
            if known is not None:  # what the watch has brought meanwhile is another one, and stays
                cache.gone(namespace, ref.name, known["metadata"]["uid"])
            raise _Failed(None, "")
        if reply.outcome is Outcome.FORBIDDEN:
            raise _Failed(Fault.UNREADABLE, f"{ref} cannot be read: {_remedy(namespace, ref.kind)}")
        if not reply.ok or reply.body is None:
            raise _Failed(None, "")
        if reply.body.get("type") == dependencies.ACCOUNT_TOKEN:
            text = f"{ref} is the token of a ServiceAccount of the management cluster, which is never copied"
            raise _Failed(Fault.REFUSED, f"{text}; take it out of the pod template")
        cache.put(reply.body)
        return reply.body


class _Failed(Exception):
    """A copy was not brought in line. ``fault`` None: it will be, nobody has to do anything."""

    def __init__(self, fault: Fault | None, message: str, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.message = message
        self.reply = reply


def _refused(reply: Reply, ref: ObjectRef, where: str) -> _Failed:
    match reply.outcome:
        case Outcome.FORBIDDEN:
            text = f"{ref} may not be copied {where}: {reply.message}"
            remedy = "propagation.namespaces of the chart job-dispatcher-worker gives the rights"
            return _Failed(Fault.FORBIDDEN, f"{text}; {remedy}")
        case Outcome.INVALID:
            # The server's message may quote the object.
            return _Failed(Fault.REFUSED, f"{ref} was refused {where} (code {reply.code})")
        case _:
            return _Failed(None, "", reply)


def _remedy(namespace: str, kind: str) -> str:
    return (
        f"the dispatcher may not read {kind}s of namespace {namespace}; add it to propagation.namespaces of the "
        "chart job-dispatcher"
    )


def _identity(manifest: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a source: no labels, and no annotations, of which one may quote all data."""
    metadata = manifest["metadata"]
    kept = {field: metadata[field] for field in ("namespace", "name", "uid", "resourceVersion")}
    return {"metadata": kept}
