"""Pauses between two looks at a Job that takes long to look at.

A look at many shares, or at long lists of indexes, costs milliseconds, and something of such a Job changes all the
time. What it costs must not grow with how quick its pods are.
"""

from datetime import datetime, timedelta
from typing import Any

from dispatcher.core import names

LONG_TEXTS = 2000
"""Characters of a Job's placement and lists of indexes from which on it rests: nine shares or so."""
REST_PER_CHARACTER = timedelta(microseconds=10)
"""About thirty times what a look costs."""
LONGEST_REST = timedelta(seconds=1)


class Rests:
    """Until when each Job rests, by UID. Jobs with little to look at never do."""

    def __init__(self) -> None:
        self._until: dict[str, datetime] = {}

    def look(self, manifest: dict[str, Any], now: datetime) -> float | None:
        """In how many seconds to come back for a look at a Job; None: look now, and a rest begins."""
        length = _length(manifest)
        if length < LONG_TEXTS or "deletionTimestamp" in manifest["metadata"]:
            return None
        uid = manifest["metadata"]["uid"]
        until = self._until.get(uid, now)
        if timedelta() < until - now <= LONGEST_REST:  # the clock may have been set back
            return (until - now).total_seconds()
        self._until[uid] = now + min(LONGEST_REST, length * REST_PER_CHARACTER)
        return None

    def forget(self, uid: str) -> None:
        """The Job is gone."""
        self._until.pop(uid, None)


def _length(manifest: dict[str, Any]) -> int:
    annotations, status = manifest["metadata"].get("annotations") or {}, manifest.get("status") or {}
    texts = (
        annotations.get(names.PLACEMENT_ANNOTATION),
        status.get("completedIndexes"),
        status.get("failedIndexes"),
    )
    return sum(len(text) for text in texts if text)
