"""Sums over all Jobs, kept for ``/metrics``: phases, shares by cluster, completions and failures.

A change of a Job only marks it; it is counted when somebody asks, and once for all changes since. One that has ended
is counted at once: a mark holds the whole Job, of which the cache keeps no more than text then. Nothing of a user's
annotation becomes a label without a check: clusters that are not registered are one, as are states and reasons
that are not in the form of ours.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import orjson

from dispatcher import metrics
from dispatcher.core import names
from dispatcher.core.job import has_ended, parse_timestamp
from dispatcher.core.placement import ShareState

PHASES: Final = ("Pending", "Waiting", "Running", "Suspended", "Complete", "Failed", "Terminating")
UNREGISTERED: Final = "unregistered"
"""The cluster label of shares on clusters that are not registered (any more)."""
OTHER: Final = "Other"
_REASON: Final = re.compile(r"[A-Z][A-Za-z]{0,39}")
_MOST_REASONS: Final = 30
_AT_ONCE: Final = 500
"""Jobs that are counted before other work gets its turn."""
_STATES: Final = frozenset(ShareState)

Ended = Mapping[str, tuple[int, int]]
"""By cluster: completions and failed pods."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What one Job adds. ``shares``: (cluster, state, parallelism if live, active pods)."""

    phase: str
    waits_for: str = ""
    waits_since: datetime | None = None
    shares: tuple[tuple[str, str, int, int], ...] = ()
    ended: Ended = field(default_factory=dict)


def summarize(manifest: Mapping[str, Any]) -> Summary:
    """Read a management Job, whatever its annotation holds."""
    metadata = manifest["metadata"]
    status = manifest.get("status") or {}
    conditions = {entry.get("type"): entry for entry in status.get("conditions") or ()}
    shares, ended = _read_placement((metadata.get("annotations") or {}).get(names.PLACEMENT_ANNOTATION))
    phase, waiting = _phase(manifest, conditions, placed=bool(shares))
    if waiting is None:
        return Summary(phase, shares=shares, ended=ended)
    reason = str(waiting.get("reason", ""))
    since = parse_timestamp(waiting.get("lastTransitionTime"))
    return Summary(phase, reason if _REASON.fullmatch(reason) else OTHER, since, shares, ended)


def _phase(
    manifest: Mapping[str, Any], conditions: Mapping[Any, Mapping[str, Any]], *, placed: bool
) -> tuple[str, Mapping[str, Any] | None]:
    """The phase, and the condition that says why all or a part waits."""

    def stands_at(kind: str, value: str) -> bool:
        return bool(conditions.get(kind, {}).get("status") == value)

    if "deletionTimestamp" in manifest["metadata"]:
        return "Terminating", None
    for end in ("Complete", "Failed"):
        if stands_at(end, "True"):
            return end, None
    if manifest["spec"].get("suspend"):
        return "Suspended", None
    if stands_at(names.DISPATCHED, "False"):
        return "Waiting", conditions[names.DISPATCHED]
    waiting = conditions[names.FULLY_PLACED] if stands_at(names.FULLY_PLACED, "False") else None
    return "Running" if placed else "Pending", waiting


def _read_placement(text: Any) -> tuple[tuple[tuple[str, str, int, int], ...], Ended]:
    """Shares and ended pods. A placement that cannot be read counts as none; it is rebuilt anyway."""
    if not text:
        return (), {}
    shares: list[tuple[str, str, int, int]] = []
    ended: dict[str, tuple[int, int]] = {}
    try:
        document = orjson.loads(text)
        for cluster, counts in document.get("retired", {}).items():
            ended[cluster] = int(counts[0]), int(counts[1])
        for share in document["shares"]:
            cluster, state = str(share["cluster"]), share.get("state", ShareState.ACTIVE)
            succeeded, failed, active, *_ = share.get("counts") or (0, 0, 0)
            before = ended.get(cluster, (0, 0))
            ended[cluster] = before[0] + int(succeeded), before[1] + int(failed)
            live = state == ShareState.ACTIVE
            label = "Pending" if live and not share.get("mirrorUID") else state
            shares.append(
                (
                    cluster,
                    label if label == "Pending" or label in _STATES else OTHER,
                    int(share["parallelism"]) if live else 0,
                    int(active),
                )
            )
    except (ValueError, KeyError, TypeError, AttributeError):
        return (), {}
    return tuple(shares), ended


class JobTally:
    """The sums. ``started``: what Jobs created before that had reached by then is not counted as new."""

    def __init__(self, *, started: datetime) -> None:
        # A creationTimestamp has no fractions of a second.
        self._started = started.replace(microsecond=0)
        self._marked: dict[str, Mapping[str, Any]] = {}
        self._known: dict[str, Summary] = {}
        self.phases: Counter[str] = Counter()
        self.waiting: dict[str, Summary] = {}
        self.shares: Counter[tuple[str, str]] = Counter()
        self.assigned: Counter[str] = Counter()
        self.active: Counter[str] = Counter()
        self.completions: Counter[str] = Counter()
        """Completions by cluster that came since they were last taken from here."""
        self.failures: Counter[str] = Counter()

    def job_changed(self, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> None:
        """Listen to the cache of Jobs."""
        if old is not None and (new is None or old["metadata"]["uid"] != new["metadata"]["uid"]):
            self._forget(old)
        if new is None:
            return
        uid = new["metadata"]["uid"]
        if has_ended(new):
            self._marked.pop(uid, None)
            self._count(uid, new)
        else:
            self._marked[uid] = new

    async def count_changes(self) -> None:
        """Count what is marked, with breaks for other work."""
        for number in range(1, len(self._marked) + 1):
            if not self._marked:
                return  # what went in a break was counted then
            uid = next(iter(self._marked))
            self._count(uid, self._marked.pop(uid))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def reasons(self) -> Counter[str]:
        """Waiting Jobs by reason; rare ones together where there are too many."""
        found = Counter(summary.waits_for for summary in self.waiting.values())
        kept = Counter(dict(found.most_common(_MOST_REASONS)))
        if len(found) > len(kept):
            kept[OTHER] += found.total() - kept.total()
        return kept

    def longest_wait(self, now: datetime) -> float:
        """Seconds that the Job that waits longest has waited; 0 where none does."""
        since = min((s.waits_since for s in self.waiting.values() if s.waits_since), default=now)
        return max(0.0, (now - since).total_seconds())

    def _count(self, uid: str, manifest: Mapping[str, Any]) -> None:
        before, after = self._known.get(uid), summarize(manifest)
        if before is not None:
            self._add(before, -1)
            ended = before.ended
        else:
            created = parse_timestamp(manifest["metadata"].get("creationTimestamp"))
            ended = after.ended if created is None or created < self._started else {}
        self._add_ended(ended, after.ended)
        self._add(after, 1)
        self._known[uid] = after
        if after.waits_for:
            self.waiting[uid] = after
        else:
            self.waiting.pop(uid, None)

    def _forget(self, last: Mapping[str, Any]) -> None:
        uid = last["metadata"]["uid"]
        if self._marked.pop(uid, None) is not None:
            self._count(uid, last)
        known = self._known.pop(uid, None)
        self.waiting.pop(uid, None)
        if known is not None:
            self._add(known, -1)

    def _add(self, summary: Summary, sign: int) -> None:
        self.phases[summary.phase] += sign
        for cluster, state, parallelism, active in summary.shares:
            self.shares[(cluster, state)] += sign
            self.assigned[cluster] += sign * parallelism
            self.active[cluster] += sign * active

    def _add_ended(self, before: Ended, after: Ended) -> None:
        for cluster, (succeeded, failed) in after.items():
            was = before.get(cluster, (0, 0))
            self.completions[cluster] += max(0, succeeded - was[0])
            self.failures[cluster] += max(0, failed - was[1])


def publish(tally: JobTally, registered: frozenset[str], now: datetime) -> None:
    """Set the metrics of Jobs and shares from the sums."""

    def label(cluster: str) -> str:
        return cluster if cluster in registered else UNREGISTERED

    for phase in PHASES:
        metrics.JOBS.labels(phase).set(tally.phases[phase])
    metrics.JOBS_WAITING.clear()
    for reason, count in tally.reasons().items():
        metrics.JOBS_WAITING.labels(reason).set(count)
    metrics.LONGEST_WAIT.set(tally.longest_wait(now))
    shares: Counter[tuple[str, str]] = Counter()
    for (cluster, state), count in tally.shares.items():
        shares[(label(cluster), state)] += count
    for cluster in registered:
        for state in ("Pending", *_STATES):
            shares.setdefault((cluster, state), 0)
    metrics.SHARES.clear()
    for (cluster, state), count in shares.items():
        metrics.SHARES.labels(cluster, state).set(count)
    for gauge, sums in ((metrics.ACTIVE_PODS, tally.active), (metrics.ASSIGNED_PODS, tally.assigned)):
        by_label: Counter[str] = Counter(dict.fromkeys(registered, 0))
        for cluster, count in sums.items():
            by_label[label(cluster)] += count
        gauge.clear()
        for cluster, count in by_label.items():
            gauge.labels(cluster).set(count)
    for counter, new in (
        (metrics.COMPLETIONS, tally.completions),
        (metrics.POD_FAILURES, tally.failures),
    ):
        for cluster, count in new.items():
            if count:
                counter.labels(label(cluster)).inc(count)
        new.clear()
    for zero in [key for key, count in tally.shares.items() if not count]:
        del tally.shares[zero]
    for sums in (tally.active, tally.assigned):
        for gone in [cluster for cluster, count in sums.items() if not count]:
            del sums[gone]
