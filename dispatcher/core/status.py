"""The Job's published status, as the API server's validation of ``batch/v1`` accepts it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from dispatcher.core.job import Job, parse_timestamp, timestamp
from dispatcher.core.mirror import Mirror
from dispatcher.core.progress import Progress
from dispatcher.core.verdict import Verdict

MAX_MESSAGE = 1024
MAX_COUNT = 2**31 - 1
"""Counters are int32; a worker that lies about its own must not make the Job's status one that is refused."""


class StatusDraft:
    """The next status of a Job, grown from the published one by one decision.

    Unknown fields and conditions of others stay. A condition's lastTransitionTime moves only when its
    status does.
    """

    def __init__(self, job: Job, now: datetime) -> None:
        self._job = job
        self._moment = now
        self.fields: dict[str, Any] = dict(job.status)
        self._conditions: list[dict[str, Any]] = [dict(entry) for entry in job.status.get("conditions") or ()]

    @property
    def _now(self) -> str:
        return timestamp(self._moment)

    def set_condition(self, kind: str, value: bool, *, reason: str, message: str) -> bool:
        """Set a condition. Returns True if its status turned (or it is new)."""
        status = "True" if value else "False"
        entry = next((c for c in self._conditions if c.get("type") == kind), None)
        turned = entry is None or entry.get("status") != status
        if entry is None:
            entry = {"type": kind}
            self._conditions.append(entry)
        if turned:
            now = self._now
            entry |= {"status": status, "lastProbeTime": now, "lastTransitionTime": now}
        entry |= {"reason": reason, "message": message[:MAX_MESSAGE]}
        return turned

    def has_condition(self, kind: str) -> bool:
        """Whether the condition is there at all, True or False."""
        return any(entry.get("type") == kind for entry in self._conditions)

    def start(self) -> None:
        """Set startTime to now."""
        self.fields["startTime"] = self._now

    def clear_start(self) -> None:
        """Take startTime away, as 1.36 does when a Job is suspended."""
        self.fields.pop("startTime", None)

    def count(self, progress: Progress) -> None:
        """Take over the counters. Zero is left out where the API server leaves it out."""
        counts = progress.counts
        for field, value in (
            ("active", counts.active),
            ("succeeded", counts.succeeded),
            ("failed", counts.failed),
        ):
            if value:
                self.fields[field] = min(value, MAX_COUNT)
            else:
                self.fields.pop(field, None)
        self.fields["ready"] = min(counts.ready, counts.active, MAX_COUNT)
        self.fields["terminating"] = min(counts.terminating, MAX_COUNT)
        self.fields["uncountedTerminatedPods"] = {}
        if self._job.indexed:
            completed = progress.completed.format()
            if completed:
                self.fields["completedIndexes"] = completed
            else:
                self.fields.pop("completedIndexes", None)
            if self._job.spec.get("backoffLimitPerIndex") is not None:
                self.fields["failedIndexes"] = progress.failed_indexes.format()

    def decide(self, verdict: Verdict) -> bool:
        """Write the interim condition. Returns True if it is new."""
        return self.set_condition(verdict.interim, True, reason=verdict.reason, message=verdict.message)

    def finish(self, verdict: Verdict, mirrors: Mapping[int, Mirror], now: datetime) -> None:
        """Write the terminal condition, and completionTime with Complete."""
        self.fields.pop("active", None)
        self.fields["ready"] = 0
        self.fields["terminating"] = 0
        never_started = self._job.suspend and self._job.completions == 0
        if "startTime" not in self.fields and not never_started:
            self.start()
        self.set_condition(verdict.terminal, True, reason=verdict.reason, message=verdict.message)
        if verdict.succeeded:
            moment = completion_time(self.fields.get("startTime"), mirrors, now)
            self.fields["completionTime"] = timestamp(moment)
            for entry in self._conditions:
                if entry.get("type") == verdict.terminal:
                    entry["lastTransitionTime"] = timestamp(moment)

    def build(self) -> dict[str, Any]:
        """The status to send."""
        if self._conditions:
            return self.fields | {"conditions": self._conditions}
        return dict(self.fields)


def completion_time(start: str | None, mirrors: Mapping[int, Mirror], now: datetime) -> datetime:
    """When the last mirror completed, held between startTime and now: worker clocks may be off."""
    times = [parse_timestamp(mirror.status.get("completionTime")) for mirror in mirrors.values()]
    last = max((moment for moment in times if moment is not None), default=now)
    first = parse_timestamp(start)
    last = min(last, now)
    return max(last, first) if first is not None else last


def seconds_until(moment: datetime, now: datetime) -> float:
    """Seconds from now until then, never below a twentieth: a timer must not spin."""
    return max((moment - now) / timedelta(seconds=1), 0.05)
