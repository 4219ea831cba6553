"""Whether a Job's end is decided, and how: the rules of the built-in Job controller over all clusters.

The order is the built-in's (``pkg/controller/job/job_controller.go``, syncJob): a verdict that stands
is irrevocable; then failures; then success. Reasons and messages are its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import Condition, Job
from dispatcher.core.mirror import Mirror
from dispatcher.core.placement import Placement
from dispatcher.core.progress import Progress

BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
DEADLINE_EXCEEDED = "DeadlineExceeded"
MAX_FAILED_INDEXES_EXCEEDED = "MaxFailedIndexesExceeded"
FAILED_INDEXES = "FailedIndexes"
POD_FAILURE_POLICY = "PodFailurePolicy"
SUCCESS_POLICY = "SuccessPolicy"
COMPLETIONS_REACHED = "CompletionsReached"

MESSAGES = {
    BACKOFF_LIMIT_EXCEEDED: "Job has reached the specified backoff limit",
    DEADLINE_EXCEEDED: "Job was active longer than specified deadline",
    MAX_FAILED_INDEXES_EXCEEDED: "Job has exceeded the specified maximal number of failed indexes",
    FAILED_INDEXES: "Job has failed indexes",
    COMPLETIONS_REACHED: "Reached expected number of succeeded pods",
}
PRECEDENCE = (POD_FAILURE_POLICY, BACKOFF_LIMIT_EXCEEDED, DEADLINE_EXCEEDED, MAX_FAILED_INDEXES_EXCEEDED)
"""Which failure counts when mirrors failed for several reasons: the order of the built-in's checks."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The Job's end. ``interim`` comes first; ``terminal`` once nothing of it runs any more."""

    succeeded: bool
    reason: str
    message: str

    @property
    def interim(self) -> str:
        """The condition that makes the verdict irrevocable."""
        return "SuccessCriteriaMet" if self.succeeded else "FailureTarget"

    @property
    def terminal(self) -> str:
        """The condition that ends the Job."""
        return "Complete" if self.succeeded else "Failed"


def standing(job: Job) -> Verdict | None:
    """The verdict that the Job's conditions already hold."""
    for condition, succeeded in (("SuccessCriteriaMet", True), ("FailureTarget", False)):
        if job.is_true(condition):
            found = job.conditions[condition]
            return Verdict(succeeded, found.reason, found.message)
    return None


def deadline(job: Job) -> datetime | None:
    """When activeDeadlineSeconds is over; None without one, before the start, and while suspended.

    Before 1.36 a suspended Job keeps its startTime: resumed too late, it fails before it runs again, as by the
    built-in controller of these releases.
    """
    if job.active_deadline is None or job.start_time is None or job.suspend:
        return None
    return job.start_time + timedelta(seconds=job.active_deadline)


def judge(
    job: Job, placement: Placement, progress: Progress, *, mirrors: Mapping[int, Mirror], now: datetime
) -> Verdict | None:
    """The verdict on a Job, or None while its end is open."""
    return (
        standing(job)
        or _mirror_failure(mirrors.values())
        or _failure(job, progress, now)
        or _success(job, placement, progress)
    )


def _named(reason: str, *, succeeded: bool = False) -> Verdict:
    return Verdict(succeeded, reason, MESSAGES[reason])


def _mirror_failure(mirrors: Iterable[Mirror]) -> Verdict | None:
    failures: list[Condition] = []
    for mirror in mirrors:
        found = next((mirror.conditions[c] for c in ("FailureTarget", "Failed") if mirror.is_true(c)), None)
        if found is not None and found.reason != FAILED_INDEXES:
            failures.append(found)
    if not failures:
        return None
    rank = {reason: position for position, reason in enumerate(PRECEDENCE)}
    first = min(failures, key=lambda found: (rank.get(found.reason, len(rank)), found.message))
    return Verdict(False, first.reason, first.message)


def _failure(job: Job, progress: Progress, now: datetime) -> Verdict | None:
    if progress.counts.failed > job.backoff_limit:
        return _named(BACKOFF_LIMIT_EXCEEDED)
    end = deadline(job)
    if end is not None and now >= end:
        return _named(DEADLINE_EXCEEDED)
    failed = progress.failed_indexes
    most = job.spec.get("maxFailedIndexes")
    if most is not None and len(failed) > most:
        return _named(MAX_FAILED_INDEXES_EXCEEDED)
    if len(failed) and len(failed) + len(progress.completed) >= (job.completions or 0):
        return _named(FAILED_INDEXES)
    return None


def _success(job: Job, placement: Placement, progress: Progress) -> Verdict | None:
    policy = job.spec.get("successPolicy")
    if policy and job.indexed:
        rule = matched_rule(policy.get("rules") or (), progress.completed)
        if rule is not None:
            return Verdict(True, SUCCESS_POLICY, f"Matched rules at index {rule}")
    if job.completions is None:
        ended = not placement.held
        reached = progress.counts.succeeded > 0 and ended
    elif job.indexed:
        reached = len(progress.completed) >= job.completions
    else:
        reached = progress.counts.succeeded >= job.completions
    return _named(COMPLETIONS_REACHED, succeeded=True) if reached else None


def matched_rule(rules: Iterable[Mapping[str, Any]], completed: IndexSet) -> int | None:
    """The number of the first success policy rule that these completed indexes meet.

    A rule names indexes (all of them must have succeeded, or ``succeededCount`` of them) or only a
    count (any that many).
    """
    for position, rule in enumerate(rules):
        indexes = rule.get("succeededIndexes")
        count = rule.get("succeededCount")
        if indexes is None:
            if count is not None and len(completed) >= count:
                return position
            continue
        wanted = IndexSet.parse(indexes)
        met = len(completed & wanted)
        if met >= (len(wanted) if count is None else count):
            return position
    return None
