"""What the process has seen: management Jobs, mirrors by cluster, namespaces; and how it is put together
for a decision. Only the operator's own tasks write here; everything runs in one event loop.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from dispatcher.clusters.cache import ObjectCache
from dispatcher.core import names
from dispatcher.core.job import has_ended, read_job
from dispatcher.core.mirror import Mirror, job_uid_of, read_mirror
from dispatcher.core.observation import Cluster, Observation, Rules
from dispatcher.core.placement import ShareState
from dispatcher.core.policy import Division
from dispatcher.operator.health_echo import WatchEcho
from dispatcher.operator.job_tally import JobTally
from dispatcher.operator.latency import Latencies
from dispatcher.operator.mirror_notes import MirrorNotes
from dispatcher.operator.policies import Policies
from dispatcher.operator.propagation import NOTHING, Propagation
from dispatcher.operator.queue import Key
from dispatcher.operator.rests import Rests
from dispatcher.operator.room import RoomAccount, pod_priority
from dispatcher.operator.write_pace import WritePace

MOST_MIRRORS = 200
"""Of one Job on one cluster that are looked at; a placement has no more shares. A cluster may make up any number."""

ANSWER_DELAY = 0.2
"""Seconds that a change of a mirror waits at most for the answer to a write for it, to be looked at together."""


class Worker(Protocol):
    """One worker cluster as the world needs it (see :mod:`dispatcher.operator.fleet`)."""

    @property
    def view(self) -> Cluster: ...

    @property
    def mirrors(self) -> ObjectCache: ...


def utc_now() -> datetime:
    """The clock of the process."""
    return datetime.now(UTC)


def _is_left_behind(manifest: dict[str, Any]) -> bool:
    """A share of the Job has left a mirror that is still to be removed; it may be on a cluster that was away."""
    text = (manifest["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION, "")
    return any(
        f'"state":"{state}"' in text for state in (ShareState.LOST, ShareState.DRAINING, ShareState.REMOVING)
    )


def _is_at_rest(job: dict[str, Any]) -> bool:
    """Nothing is left to be done for this Job until it is deleted."""
    return mirror_is_at_rest(job) and not _is_left_behind(job)


def mirror_is_at_rest(mirror: dict[str, Any]) -> bool:
    """It has ended, and nobody has deleted it: nothing of it runs, and nothing of it will change by itself."""
    return has_ended(mirror) and "deletionTimestamp" not in mirror["metadata"]


@dataclass(slots=True)
class _JobWrite:
    """A write of a Job that is under way: whether the Job changed meanwhile, and the answer's resourceVersion."""

    changed: bool = False
    version: str = ""


class World:
    """Caches and memories. ``wake`` is called with the key of a Job about which something changed,
    ``wake_within`` with a number of seconds too, where the look at it may wait so long.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        wake: Callable[[Key], None],
        wake_within: Callable[[Key, float], None] | None = None,
    ) -> None:
        self.rules = rules
        self._wake = wake
        self._wake_within = wake_within or (lambda key, _seconds: wake(key))
        self.jobs = ObjectCache(on_change=self._job_changed, packs=_is_at_rest)
        self.workers: dict[names.ClusterName, Worker] = {}
        self.namespace_labels: dict[str, Mapping[str, str]] = {}
        self.policies = Policies()
        self.propagation: Propagation | None = None
        """What follows Jobs to the workers (set by the process)."""
        self.tally = JobTally(started=utc_now())
        self.latencies = Latencies()
        self.echo = WatchEcho()
        self.write_pace = WritePace()
        self.settled = False
        self.in_flight: Callable[[Key], frozenset[tuple[names.ClusterName, str]]] = lambda _key: frozenset()
        """The mirrors of a Job that a write is under way for (set by the executor)."""
        self.on_unknown_mirror: Callable[[str], None] = lambda _uid: None
        """Called with the UID of a Job that is not known when one of its mirrors was made, changed or went."""
        self.owns: Callable[[str], bool] = lambda _uid: True
        """Whether this process acts on the Job with this UID; when that begins, all are woken (set by the process)."""
        self._writes: dict[Key, _JobWrite] = {}
        self._keys: dict[str, Key] = {}
        self._written: dict[str, datetime] = {}
        self._rests = Rests()
        self.mirror_notes = MirrorNotes(
            jobs=self.jobs, key_of=self.key_of, find_mirror=self._find_mirror, now=utc_now
        )
        self.fits: Callable[[dict[str, Any]], Mapping[names.ClusterName, int]] = lambda _manifest: {}
        """How many pods of a Job fit on clusters' nodes (set by the process)."""
        self.priority_classes: dict[str, int] = {}
        self.room = RoomAccount(
            jobs=self.jobs.unpacked,
            find_job=lambda key: self.jobs.get(*key),
            find_mirrors=lambda uid, namespace: tuple(self._seen_mirrors(uid, namespace)),
            clusters=self.clusters,
            priority=lambda manifest: pod_priority(manifest, self.priority_classes),
            wake=wake,
            owns=lambda uid: self.owns(uid),
            now=utc_now,
        )

    def _job_changed(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        manifest = new or old
        if manifest is None:
            return
        self.tally.job_changed(old, new)
        metadata = manifest["metadata"]
        key = (metadata["namespace"], metadata["name"])
        if new is None:
            self.latencies.job_gone(key, metadata["uid"])
            self._keys.pop(metadata["uid"], None)
            self._written.pop(metadata["uid"], None)
            self._rests.forget(metadata["uid"])
            self.mirror_notes.forget(key, metadata["uid"])
            if self.propagation is not None:
                self.propagation.forget(key, metadata["uid"])
        else:
            if old is None:
                self.latencies.job_seen(new)
            self._keys[metadata["uid"]] = key
            write = self._writes.get(key)
            if write is not None:
                write.changed = True
            elif self.owns(metadata["uid"]):
                self._wake(key)
        self.room.changed(key)

    @contextlib.contextmanager
    def writing_job(self, key: Key) -> Iterator[None]:
        """Around a write of a Job and the taking in of its answer: what the write itself made of the Job is no news,
        whether the watch or the answer brings it first.
        """
        write = self._writes[key] = _JobWrite()
        try:
            yield
        finally:
            del self._writes[key]
            job = self.jobs.get(*key)
            if write.changed and (job is None or job["metadata"].get("resourceVersion") != write.version):
                self._wake(key)

    def job_written(self, key: Key, body: dict[str, Any]) -> None:
        """Take in the answer to the write of a Job, inside :meth:`writing_job`."""
        metadata = body["metadata"]
        version = metadata.get("resourceVersion", "")
        self.echo.wrote(version)
        if "deletionTimestamp" in metadata and not metadata.get("finalizers"):
            self.jobs.gone(*key, metadata["uid"])
        else:
            self._writes[key].version = version
            self.jobs.put(body)
            if metadata["uid"] in self._keys:
                self._written[metadata["uid"]] = utc_now()

    def rest(self, manifest: dict[str, Any]) -> float | None:
        """In how many seconds to come back for a look at a Job; None: look now."""
        return self._rests.look(manifest, utc_now())

    def is_new(self, key: Key) -> bool:
        """Whether nothing was done for this Job so far, not even to say why not."""
        job = self.jobs.get(*key)
        if job is None or "deletionTimestamp" in job["metadata"]:
            return False
        placed = names.PLACEMENT_ANNOTATION in (job["metadata"].get("annotations") or {})
        return not placed and not (job.get("status") or {}).get("conditions")

    def key_of(self, job_uid: str) -> Key | None:
        """The key of the Job with this UID, if it is known."""
        return self._keys.get(job_uid)

    def mirror_changed(self, manifest: dict[str, Any], cluster: names.ClusterName) -> None:
        """A mirror was made, changed or went."""
        uid = job_uid_of(manifest) or ""
        key = self._keys.get(uid)
        if key is not None:
            self.room.changed(key)
            if not self.owns(uid):
                return
            self.latencies.mirror_changed(key)
            if (cluster, manifest["metadata"]["name"]) in self.in_flight(key):
                # Most likely the write itself, whose answer wakes the Job; one look at both is enough.
                self._wake_within(key, ANSWER_DELAY)
            else:
                self._wake(key)
        elif uid:
            self.on_unknown_mirror(uid)

    def note_mirror_made(self, key: Key) -> None:
        """A mirror of this Job was just made, or found to be there."""

        def seen(cluster: names.ClusterName, namespace: str, name: str) -> bool:
            worker = self.workers.get(cluster)
            return worker is not None and (namespace, name) in worker.mirrors

        self.latencies.mirror_made(self.jobs.get(*key), seen)

    def _find_mirror(self, cluster: names.ClusterName, namespace: str, name: str) -> dict[str, Any] | None:
        worker = self.workers.get(cluster)
        return worker.mirrors.get(namespace, name) if worker is not None else None

    def wake_all(self) -> None:
        """Look at every Job that a change of the clusters may concern: not at those at rest."""
        self.room.clusters_changed()
        for manifest in self.jobs.unpacked():
            self._wake((manifest["metadata"]["namespace"], manifest["metadata"]["name"]))
        # A mirror may have come late, or live on, where nobody saw it.
        for name, worker in self.workers.items():
            for mirror in worker.mirrors.unpacked():
                if not has_ended(mirror):
                    self.mirror_changed(mirror, name)

    def policy_changed(self, manifest: dict[str, Any], *, gone: bool = False) -> None:
        """A DispatchPolicy was made, changed or went: look at the unfinished Jobs of its namespace."""
        namespace = manifest["metadata"]["namespace"]
        if gone:
            self.policies.remove(namespace, manifest["metadata"]["name"])
        else:
            self.policies.put(manifest)
        self._wake_unfinished(namespace)

    def namespace_labelled(self, namespace: str, labels: Mapping[str, str]) -> None:
        """A namespace was made, or its labels changed: another cluster may have its Jobs now."""
        if self.namespace_labels.get(namespace) != labels:
            self.namespace_labels[namespace] = labels
            self._wake_unfinished(namespace)

    def _wake_unfinished(self, namespace: str) -> None:
        for job in self.jobs.unpacked():
            metadata = job["metadata"]
            if metadata["namespace"] == namespace and not has_ended(job):
                self._wake((namespace, metadata["name"]))

    def wake_users_of(self, cluster: names.ClusterName) -> None:
        """Look at every Job that has a mirror on this cluster."""
        worker = self.workers.get(cluster)
        for uid in worker.mirrors.groups() if worker is not None else ():
            key = self._keys.get(uid)
            if key is not None:
                self._wake(key)

    def holds_share(self, cluster: names.ClusterName) -> bool:
        """Whether the placement of a Job that has not ended names this cluster."""
        name = f'"cluster":"{cluster}"'
        for manifest in self.jobs.unpacked():
            text = (manifest["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION, "")
            if name in text and not has_ended(manifest):
                return True
        return False

    def clusters(self) -> dict[names.ClusterName, Cluster]:
        """All registered clusters."""
        return {name: worker.view for name, worker in self.workers.items()}

    def observe(self, manifest: dict[str, Any]) -> Observation:
        """Everything a decision on this Job looks at, now."""
        job = read_job(manifest)
        key = (job.namespace, job.name)
        policy, policy_fault = self.policies.of(job.namespace, job.annotations)
        seen = self.propagation.look(job, policy) if self.propagation is not None else NOTHING
        return Observation(
            job=job,
            now=utc_now(),
            rules=self.rules,
            mirrors=tuple(self._mirrors(job.uid, job.namespace)),
            clusters=self.clusters(),
            attempts=self.mirror_notes.attempts(key),
            edited=self.mirror_notes.edited(key),
            proven_gone=self.mirror_notes.proven_gone(job.uid),
            idle_since=self.mirror_notes.idle_since(job.uid),
            in_flight=self.in_flight(key),
            namespace_labels=self.namespace_labels.get(job.namespace, {}),
            policy=policy,
            policy_fault=policy_fault,
            room=self.room.room(key, manifest),
            fits=self.fits(manifest) if policy.division is Division.AVAILABLE else {},
            settled=self.settled,
            written_at=self._written.get(job.uid),
            report_interval=self.write_pace.report_interval,
            sources=seen.sources,
            provided=seen.provided,
        )

    def _mirrors(self, job_uid: str, namespace: str) -> Iterable[Mirror]:
        yield from self._seen_mirrors(job_uid, namespace)
        yield from self.mirror_notes.ghosts(job_uid)

    def _seen_mirrors(self, job_uid: str, namespace: str) -> Iterable[Mirror]:
        for name, worker in self.workers.items():
            for manifest in worker.mirrors.in_group(job_uid)[:MOST_MIRRORS]:
                if manifest["metadata"]["namespace"] == namespace:
                    yield read_mirror(manifest, name)
