"""How long Jobs wait for their mirrors, and changes of mirrors for the Job's status."""

from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import orjson

from dispatcher import metrics
from dispatcher.core import names
from dispatcher.core.job import parse_timestamp
from dispatcher.core.placement import ShareState
from dispatcher.operator.queue import Key

WATCH_DELAY = 2.0
"""Seconds; creationTimestamp has whole ones. What is seen later than this was created while nobody watched."""
HELD = 5.0
"""A status that is due within so many seconds was put off on purpose; what it will say has waited since then."""

MirrorSeen = Callable[[names.ClusterName, str, str], bool]
"""Whether a mirror is known, by cluster, namespace and name."""


class Latencies:
    """Clocks of Jobs that are new, and of Jobs whose mirrors changed."""

    def __init__(self) -> None:
        self._new: dict[str, float] = {}
        self._changed: dict[Key, float] = {}

    def job_seen(self, manifest: dict[str, Any]) -> None:
        """A Job is seen for the first time; one that was dispatched before, or is suspended, has no clock."""
        metadata = manifest["metadata"]
        # An earlier one of its name may have gone while its last write was under way.
        self._changed.pop((metadata["namespace"], metadata["name"]), None)
        placed = names.PLACEMENT_ANNOTATION in (metadata.get("annotations") or {})
        if placed or manifest["spec"].get("suspend") or "deletionTimestamp" in metadata:
            return
        created = parse_timestamp(metadata.get("creationTimestamp"))
        age = (datetime.now(UTC) - created).total_seconds() if created else 0.0
        self._new[metadata["uid"]] = monotonic() - (age if age > WATCH_DELAY else 0.0)

    def job_gone(self, key: Key, uid: str) -> None:
        """A Job is gone; its clocks are, too."""
        self._new.pop(uid, None)
        self._changed.pop(key, None)

    def mirror_made(self, job: dict[str, Any] | None, seen: MirrorSeen) -> None:
        """A mirror of this Job was made; was it the last one that its first placement asks for?"""
        if job is None or job["metadata"]["uid"] not in self._new:
            return
        metadata = job["metadata"]
        try:
            text = metadata["annotations"][names.PLACEMENT_ANNOTATION]
            complete = all(
                seen(share["cluster"], metadata["namespace"], share["mirror"])
                for share in orjson.loads(text)["shares"]
                if share.get("state", ShareState.ACTIVE) == ShareState.ACTIVE
            )
        except (KeyError, TypeError, ValueError):
            return
        if complete:
            metrics.DISPATCH_SECONDS.observe(monotonic() - self._new.pop(metadata["uid"]))

    def mirror_changed(self, key: Key) -> None:
        """Something about a mirror of this Job is not on the Job yet, perhaps."""
        self._changed.setdefault(key, monotonic())

    def take(self, key: Key) -> float | None:
        """Since when a change waits that the decision to come will look at."""
        return self._changed.pop(key, None)

    def decided(
        self, key: Key, since: float | None, *, written: bool, acts: bool, look_again: float | None
    ) -> None:
        """That decision ended: its status was written, put off, or there was nothing to write."""
        if since is None:
            return
        if written:
            metrics.WRITEBACK_SECONDS.observe(monotonic() - since)
        elif acts or (look_again is not None and look_again <= HELD):
            self._changed[key] = min(since, self._changed.get(key, since))
