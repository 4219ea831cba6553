"""What is remembered of mirrors beside their caches: deletions that are not counted yet, what others changed, writes
that failed, and since when their pods are as they are.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeAlias

from dispatcher.clusters.cache import ObjectCache
from dispatcher.core import names
from dispatcher.core.mirror import Mirror, job_uid_of, read_mirror
from dispatcher.core.observation import Attempt, Refusal
from dispatcher.operator.queue import Key

MOST_GHOSTS = 1000
"""Deleted mirrors of one Job that are remembered until they are counted."""

MirrorPlace: TypeAlias = tuple[names.ClusterName, str]
"""A mirror by its cluster and its name, which another one may have had before."""
MirrorUid: TypeAlias = tuple[names.ClusterName, str]
"""A mirror by its cluster and its UID."""
FindMirror: TypeAlias = Callable[[names.ClusterName, str, str], dict[str, Any] | None]
"""The mirror that is seen, by cluster, namespace and name."""


def _pods(mirror: dict[str, Any]) -> tuple[Any, ...]:
    spec, status = mirror["spec"], mirror.get("status") or {}
    counters = (status.get(field) for field in ("active", "ready", "succeeded", "failed"))
    return (spec.get("parallelism"), spec.get("suspend"), *counters)


class MirrorNotes:
    """Notes on the mirrors of Jobs that are known, for as long as they are: by the Job's UID or its key.

    ``jobs``: the known Jobs; ``key_of``: a Job's key by its UID.
    """

    def __init__(
        self,
        *,
        jobs: ObjectCache,
        key_of: Callable[[str], Key | None],
        find_mirror: FindMirror,
        now: Callable[[], datetime],
    ) -> None:
        self._jobs = jobs
        self._key_of = key_of
        self._find_mirror = find_mirror
        self._now = now
        self._ghosts: dict[str, dict[MirrorUid, Mirror]] = defaultdict(dict)
        self._proven_gone: dict[str, set[MirrorUid]] = defaultdict(set)
        self._edited: dict[Key, set[MirrorPlace]] = defaultdict(set)
        self._idle_since: dict[str, dict[MirrorPlace, datetime]] = defaultdict(dict)
        self._attempts: dict[Key, dict[MirrorPlace, Attempt]] = defaultdict(dict)

    def forget(self, key: Key, job_uid: str) -> None:
        """The Job is gone."""
        for by_uid in (self._ghosts, self._proven_gone, self._idle_since):
            by_uid.pop(job_uid, None)
        for by_key in (self._edited, self._attempts):
            by_key.pop(key, None)

    def pods_changed(
        self, cluster: names.ClusterName, old: dict[str, Any] | None, new: dict[str, Any] | None
    ) -> None:
        """A mirror was made, changed or went: remember when its counters of pods did, or what they are to reach."""
        seen = new or old
        uid = job_uid_of(seen) if seen is not None else None
        if seen is None or uid is None or self._key_of(uid) is None:
            return
        place = (cluster, seen["metadata"]["name"])
        if new is None:
            self._idle_since[uid].pop(place, None)
        elif old is None or _pods(old) != _pods(new):
            self._idle_since[uid][place] = self._now()

    def idle_since(self, job_uid: str) -> Mapping[MirrorPlace, datetime]:
        """When the counters of pods of each of a Job's mirrors changed last."""
        return self._idle_since.get(job_uid, {})

    def deleted(self, cluster: names.ClusterName, last: dict[str, Any]) -> None:
        """Keep a deleted mirror's last state until it is counted.

        A watch by labels also reports a deletion when somebody took the labels away. So one that had not ended
        counts as there until a live read says otherwise (:meth:`doubted`).
        """
        uid = job_uid_of(last) or ""
        key = self._key_of(uid)
        job = self._jobs.get(*key) if key is not None else None
        if job is not None and len(self._ghosts[uid]) < MOST_GHOSTS:
            mirror = read_mirror(last, cluster)
            certain = mirror.finished or "deletionTimestamp" in job["metadata"]
            self._ghosts[uid][(cluster, mirror.uid)] = replace(mirror, gone=certain)

    def ghosts(self, job_uid: str) -> tuple[Mirror, ...]:
        """Mirrors of a Job that were deleted and are not counted yet."""
        return tuple(self._ghosts.get(job_uid, {}).values())

    def doubted(self, job_uid: str) -> list[Mirror]:
        """Mirrors of a Job that left our watch and may still be there."""
        return [ghost for ghost in self.ghosts(job_uid) if not ghost.gone]

    def found(self, cluster: names.ClusterName, manifest: dict[str, Any]) -> None:
        """A live read has found a mirror that was not seen; it is in the cluster's cache again, unless the watch has
        told of its end before the read was answered.
        """
        metadata = manifest["metadata"]
        seen = self._find_mirror(cluster, metadata["namespace"], metadata["name"])
        if seen is not None and seen["metadata"]["uid"] == metadata["uid"]:
            job_uid = metadata["labels"][names.JOB_UID_LABEL]
            self._ghosts.get(job_uid, {}).pop((cluster, metadata["uid"]), None)

    def absent(self, key: Key, cluster: names.ClusterName, uid: str) -> None:
        """A live read has not found a mirror of this Job."""
        job = self._jobs.get(*key)
        if job is None:
            return
        ghosts = self._ghosts.get(job["metadata"]["uid"], {})
        if (cluster, uid) in ghosts:
            ghosts[(cluster, uid)] = replace(ghosts[(cluster, uid)], gone=True)
        else:
            self._proven_gone[job["metadata"]["uid"]].add((cluster, uid))

    def proven_gone(self, job_uid: str) -> frozenset[MirrorUid]:
        """Mirrors of a Job that a live read has not found, and of which no last state is known."""
        return frozenset(self._proven_gone.get(job_uid, ()))

    def forget_ghosts(self, job_uid: str) -> None:
        """What was deleted is counted and persisted; what is still in doubt stays."""
        kept = {uid: ghost for uid, ghost in self._ghosts.pop(job_uid, {}).items() if not ghost.gone}
        if kept:
            self._ghosts[job_uid] = kept

    def edited_by_others(self, cluster: names.ClusterName, manifest: dict[str, Any]) -> None:
        """Somebody else has changed what we set on a mirror."""
        key = self._key_of(job_uid_of(manifest) or "")
        if key is not None:
            self._edited[key].add((cluster, manifest["metadata"]["name"]))

    def edited(self, key: Key) -> frozenset[MirrorPlace]:
        """The mirrors of a Job on which somebody else has changed what we set."""
        return frozenset(self._edited.get(key, ()))

    def forget_edits(self, key: Key) -> None:
        """What others changed is put back, or was no change of ours."""
        self._edited.pop(key, None)

    def forget_all_edits(self) -> None:
        """Another process has acted until now: the changes that were seen were its own."""
        self._edited.clear()

    def attempt(self, key: Key, cluster: names.ClusterName, mirror: str, attempt: Attempt | None) -> None:
        """Remember how the last write for a mirror ended; None: it worked."""
        if attempt is None:
            self._attempts.get(key, {}).pop((cluster, mirror), None)
        elif key in self._jobs:
            # Else the Job went before the answer came, and a later one of its name starts afresh.
            self._attempts[key][(cluster, mirror)] = attempt

    def attempts(self, key: Key) -> Mapping[MirrorPlace, Attempt]:
        """The failed attempts for a Job's mirrors."""
        return self._attempts.get(key, {})

    def forget_attempts(self, cluster: names.ClusterName) -> None:
        """A cluster is back: what failed while it was away, or was not yet itself, is tried at once."""
        for attempts in self._attempts.values():
            for place in [place for place in attempts if place[0] == cluster]:
                if attempts[place].refusal in (Refusal.UNREACHABLE, Refusal.FORBIDDEN):
                    del attempts[place]
