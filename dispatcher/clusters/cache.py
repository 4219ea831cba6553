"""What is known of a cluster's objects: fed by a watch, by lists and by the replies to our own writes.

The three arrive in any order. Resource versions decide which is newer; they are compared as integers across all
objects of one resource (they come from one counter of the store; a formal promise since Kubernetes 1.35).
"""

import collections
import dataclasses
import logging
import math
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

import orjson

from dispatcher.clusters.reply import Manifest

logger = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str]
"""Namespace and name."""

OnChange: TypeAlias = Callable[[Manifest | None, Manifest | None], None]
"""``(old, new)``: new is None when the object went, old when it was not known before."""

OnDelete: TypeAlias = Callable[[Manifest, bool], None]
"""``(last, final)``: the last state; ``final`` when a DELETED event brought it, so nothing came after it."""

_NEVER_BACK: Final = math.inf


class _Tombstone(NamedTuple):
    """A UID that went. News of it up to ``version`` is old; ``final``: a DELETED event was passed on."""

    version: float
    final: bool


@dataclasses.dataclass(slots=True)
class _Entry:
    uid: str
    version: int
    kept: Manifest | bytes
    """Bytes: as JSON text."""
    group: str | None = None
    weight: int = 0

    @property
    def manifest(self) -> Manifest:
        kept = self.kept
        if isinstance(kept, bytes):
            manifest: Manifest = orjson.loads(kept)
            return manifest
        return kept


class ObjectCache:
    """Objects of one resource by (namespace, name), each at the newest state that anyone has seen.

    ``trim``: what is kept of an object (must not change its argument); what it raises, ``put`` and ``delete`` raise
    before anything is changed. ``index``: the group an object belongs to (a label's value, say), for ``in_group``.
    ``accepts``: objects it says no to are passed over; it must always say the same of an object.
    ``packs``: objects it says yes to are kept as JSON text, for those that are hardly looked at any more: it takes a
    third of the memory, and each look parses it.
    ``weigh``: about how many bytes of memory an object takes; with more than ``max_weight`` the cache ``is_full``, of
    which those who fill it take notice. ``on_change`` and ``on_delete`` are called
    synchronously for each effective change, ``on_delete`` first; what they raise is logged. They must not call back
    into the cache's writing methods.

    A DELETED event of a watch with a label selector also comes when an object's labels stopped matching: it is
    no proof that the object is gone. Only a live GET is.
    """

    def __init__(
        self,
        *,
        trim: Callable[[Manifest], Manifest] | None = None,
        index: Callable[[Manifest], str | None] | None = None,
        accepts: Callable[[Manifest], bool] | None = None,
        packs: Callable[[Manifest], bool] | None = None,
        on_change: OnChange | None = None,
        on_delete: OnDelete | None = None,
        tombstones: int = 10_000,
        weigh: Callable[[Manifest], int] | None = None,
        max_weight: int | None = None,
    ) -> None:
        self._trim = trim or without_managed_fields
        self._index = index
        self._packs = packs
        self._weigh = weigh
        self.max_weight = max_weight
        self.weight = 0
        """The sum of what ``weigh`` gives for the objects."""
        self.accepts = accepts
        self.on_change = on_change
        self.on_delete = on_delete
        self._entries: dict[Key, _Entry] = {}
        self._groups: dict[str, dict[Key, None]] = {}
        self._tombstones: collections.OrderedDict[str, _Tombstone] = collections.OrderedDict()
        self._tombstone_limit = tombstones
        self.highest_version = 0
        """The highest resourceVersion seen on any object or list."""

    @property
    def is_full(self) -> bool:
        """There is more in it than there may be."""
        return self.max_weight is not None and self.weight > self.max_weight

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Manifest]:
        """The objects, as a snapshot: the cache may change while the caller goes through them."""
        return iter([entry.manifest for entry in self._entries.values()])

    def unpacked(self) -> list[Manifest]:
        """The objects of which ``packs`` says no, as a snapshot."""
        kept = [entry.kept for entry in self._entries.values()]
        return [manifest for manifest in kept if not isinstance(manifest, bytes)]

    def get(self, namespace: str, name: str) -> Manifest | None:
        """The object as stored (trimmed); not to be changed by the caller."""
        entry = self._entries.get((namespace, name))
        return entry.manifest if entry else None

    def in_group(self, group: str) -> list[Manifest]:
        """The objects for which ``index`` gave this value."""
        return [self._entries[key].manifest for key in self._groups.get(group, ())]

    def groups(self) -> list[str]:
        """All values of ``index`` that objects have now."""
        return list(self._groups)

    def put(self, manifest: Manifest) -> bool:
        """Take a state from a watch (ADDED, MODIFIED) or from the reply to a write. Returns whether it was news."""
        key, uid, version = _identify(manifest)
        self.highest_version = max(self.highest_version, version)
        if self.accepts is not None and not self.accepts(manifest):
            return False
        tombstone = self._tombstones.get(uid)
        if tombstone is not None:
            if version <= tombstone.version:
                return False
            del self._tombstones[uid]  # it left the selector and came back
        entry = self._entries.get(key)
        if entry is not None and version <= entry.version:
            return False
        kept = self._trim(manifest)
        if entry is not None and entry.uid != uid:
            # The name was used again: the earlier object went without our hearing of it.
            self._remove(key, entry, last=None)
            self._bury(entry.uid, _NEVER_BACK, final=False)
            entry = None
        self._store(key, entry, _Entry(uid, version, self._packed(kept)), kept)
        return True

    def delete(self, manifest: Manifest) -> bool:
        """Take a DELETED event, whose object is the last state with the deletion's own resourceVersion."""
        key, uid, version = _identify(manifest)
        self.highest_version = max(self.highest_version, version)
        if self.accepts is not None and not self.accepts(manifest):
            return False
        entry = self._entries.get(key)
        if entry is not None and entry.uid == uid:
            if version < entry.version:
                return False
            last = self._trim(manifest)
            self._bury(uid, version, final=True)
            self._remove(key, entry, last=last)
            return True
        tombstone = self._tombstones.get(uid)
        if tombstone is not None and tombstone.final and version <= tombstone.version:
            return False
        # Not cached, or buried with a state that was perhaps not the last one.
        last = self._trim(manifest)
        self._bury(uid, max(version, tombstone.version) if tombstone else version, final=True)
        self._deleted(last, final=True)
        return True

    def gone(self, namespace: str, name: str, uid: str) -> None:
        """Take it as proven that this UID does not exist any more (a live GET or DELETE said so).

        Later news of it is ignored, except that a DELETED event still goes to ``on_delete``: it may bring a
        later state than the one known here.
        """
        buried = self._tombstones.get(uid)
        self._bury(uid, _NEVER_BACK, final=buried is not None and buried.final)
        entry = self._entries.get((namespace, name))
        if entry is not None and entry.uid == uid:
            self._remove((namespace, name), entry, last=None)

    def replace_all(self, items: Iterable[Manifest], list_version: int) -> None:
        """Take a complete list as of ``list_version``.

        An object that is not in it went, unless what is known of it is newer than the list.
        """
        listed: set[Key] = set()
        for item in items:
            listed.add(key_of(item))
            self.put(item)
        self.sweep(listed, list_version)

    def sweep(self, listed: Container[Key], list_version: int) -> None:
        """The end of a list taken in by ``put`` page by page: what is not in ``listed`` went."""
        self.highest_version = max(self.highest_version, list_version)
        for key in [key for key in self._entries if key not in listed]:
            entry = self._entries[key]
            if entry.version <= list_version:
                self._bury(entry.uid, list_version, final=False)
                self._remove(key, entry, last=None)

    def rewind(self, list_version: int) -> None:
        """The store went back in time (restored from a backup): its resourceVersions are lower than those known.

        From here on any state of an object counts as newer than the one known. To be called before the list that
        showed it is taken in.
        """
        self._tombstones.clear()
        self.highest_version = list_version
        for entry in self._entries.values():
            entry.version = -1

    def clear(self) -> None:
        """Forget everything without calling anyone: the cluster is not ours to watch any more."""
        self._entries.clear()
        self.weight = 0
        self._groups.clear()
        self._tombstones.clear()
        self.highest_version = 0

    def _packed(self, manifest: Manifest) -> Manifest | bytes:
        if self._packs is None or not self._packs(manifest):
            return manifest
        # A copy: orjson's own bytes keep the buffer that they were written to, a multiple of their length.
        return memoryview(orjson.dumps(manifest)).tobytes()

    def _store(self, key: Key, old: _Entry | None, new: _Entry, manifest: Manifest) -> None:
        if self._index is not None:
            new.group = self._index(manifest)
        if self._weigh is not None:
            new.weight = self._weigh(manifest)
            self.weight += new.weight - (old.weight if old is not None else 0)
        if old is not None and old.group != new.group:
            self._leave_group(key, old.group)
        if new.group is not None:
            self._groups.setdefault(new.group, {})[key] = None
        self._entries[key] = new
        self._changed(old.manifest if old else None, manifest)

    def _remove(self, key: Key, entry: _Entry, *, last: Manifest | None) -> None:
        del self._entries[key]
        self.weight -= entry.weight
        self._leave_group(key, entry.group)
        self._deleted(last or entry.manifest, final=last is not None)
        self._changed(entry.manifest, None)

    def _leave_group(self, key: Key, group: str | None) -> None:
        members = self._groups.get(group) if group is not None else None
        if members is not None and group is not None:
            members.pop(key, None)
            if not members:
                del self._groups[group]

    def _bury(self, uid: str, version: float, *, final: bool) -> None:
        self._tombstones[uid] = _Tombstone(version, final)
        self._tombstones.move_to_end(uid)
        while len(self._tombstones) > self._tombstone_limit:
            self._tombstones.popitem(last=False)

    def _changed(self, old: Manifest | None, new: Manifest | None) -> None:
        if self.on_change is not None:
            try:
                self.on_change(old, new)
            except Exception:
                logger.exception("a listener to changes failed")

    def _deleted(self, last: Manifest, *, final: bool) -> None:
        if self.on_delete is not None:
            try:
                self.on_delete(last, final)
            except Exception:
                logger.exception("a listener to deletions failed")


def without_managed_fields(manifest: Manifest) -> Manifest:
    """The object without ``metadata.managedFields``, often half of its size."""
    metadata = manifest["metadata"]
    if "managedFields" not in metadata:
        return manifest
    return manifest | {"metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def resource_version(manifest: Manifest) -> int:
    """An object's or a list's resourceVersion; 0 where it has none.

    :raises ValueError: it is no integer, which no Kubernetes since 1.35 may send.
    """
    return int(manifest.get("metadata", {}).get("resourceVersion") or 0)


def key_of(manifest: Manifest) -> Key:
    """Namespace ("" for cluster-scoped objects) and name."""
    metadata = manifest["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def _identify(manifest: Manifest) -> tuple[Key, str, int]:
    return key_of(manifest), manifest["metadata"]["uid"], resource_version(manifest)
