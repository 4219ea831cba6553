"""What must hold after a run, whatever was injected. Pure."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dispatcher.core import names
from dispatcher.core.indexes import IndexSet
from hack.chaos.faults import HARMLESS, Injected
from hack.chaos.records import Run
from hack.chaos.workload import JobPlan

JSON = dict[str, Any]

NOTICED = 15.0
"""Seconds within which the return of a cluster is noticed, also on a busy machine."""
COUNTED = 5.0
"""Seconds within which a pod's end is counted by its cluster and seen by the dispatcher, likewise."""


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not be. ``rule`` names the promise."""

    rule: str
    job: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.job}: {self.text}"


def end_of(job: Mapping[str, Any] | None) -> tuple[str, str]:
    """Complete, Failed or nothing, and the reason; Gone for a Job that is not there."""
    if job is None:
        return "Gone", ""
    for entry in (job.get("status") or {}).get("conditions") or ():
        if entry["type"] in ("Complete", "Failed") and entry["status"] == "True":
            return entry["type"], entry.get("reason", "")
    return "", ""


@dataclass(frozen=True, slots=True)
class Absence:
    """A time in which a cluster may have been given up on."""

    cluster: str
    begin: datetime
    end: datetime

    def hides(self, run: Run) -> bool:
        """Whether a run, or its end, was out of the dispatcher's sight."""
        return (
            run.cluster == self.cluster
            and run.began < self.end
            and (run.ended is None or run.ended > self.begin)
        )


def absences(injected: Iterable[Injected], *, start: datetime, after: float | None) -> list[Absence]:
    """Where faults kept a worker out of reach for ``after`` seconds and more; None: no cluster is ever given up on.

    Faults with less than NOTICED seconds between them count as one.
    """
    if after is None:
        return []
    spans: defaultdict[str, list[list[float]]] = defaultdict(list)
    for entry in sorted(injected, key=lambda entry: entry.begin):
        if entry.fault.kind in HARMLESS:
            continue
        known = spans[entry.fault.target]
        if known and entry.begin - known[-1][1] < NOTICED:
            known[-1][1] = max(known[-1][1], entry.end)
        else:
            known.append([entry.begin, entry.end])
    return [
        Absence(cluster, start + timedelta(seconds=begin - COUNTED), start + timedelta(seconds=end + NOTICED))
        for cluster, found in spans.items()
        for begin, end in found
        if end - begin + NOTICED >= after
    ]


def check_end(plan: JobPlan, job: JSON | None, *, lossy: bool = False) -> list[Violation]:
    """The final status is the one that the script says. ``lossy``: a cluster with a share of it may have been lost."""

    def wrong(text: str) -> Violation:
        return Violation("final status", plan.name, f"{plan.kind}: {text}")

    end, reason = end_of(job)
    if (end, reason) != (plan.end, plan.reason):
        return [wrong(f"ends {end or 'never'} {reason}, not {plan.end} {plan.reason}")]
    if job is None:
        return []
    status = job["status"]
    found = []
    for field, wanted in (("succeeded", plan.succeeded), ("failed", plan.failed)):
        if lossy and field == "failed":
            continue  # what failed there may have failed again elsewhere
        if wanted is not None and status.get(field, 0) != wanted:
            found.append(wrong(f"{field} is {status.get(field, 0)}, not {wanted}"))
    for field in ("active", "ready", "terminating"):
        if status.get(field, 0):
            found.append(wrong(f"{field} is {status[field]} at the end"))
    if plan.indexes is not None:
        completed = IndexSet.parse(status.get("completedIndexes", ""))
        wanted_indexes = IndexSet.of(plan.indexes)
        if completed != wanted_indexes:
            found.append(wrong(f"completedIndexes {completed}, not {wanted_indexes}"))
    if status.get("failedIndexes", "") != plan.failed_indexes:
        found.append(wrong(f"failedIndexes {status.get('failedIndexes')!r}, not {plan.failed_indexes!r}"))
    return found


def check_runs(
    plan: JobPlan, job: JSON | None, runs: Sequence[Run], *, away: Sequence[Absence] = ()
) -> list[Violation]:
    """Nothing that succeeded in sight ran again on another mirror, and what is published is what happened.

    A cluster's own Job controller may run an index twice in its own mirror; that is no matter of the dispatcher.
    """
    if job is None:
        return []
    found = []
    hidden = {run.pod for run in runs if any(absence.hides(run) for absence in away)}
    good = [run for run in runs if run.succeeded and run.pod not in hidden]
    if plan.indexes is not None:
        mirrors: defaultdict[int | None, set[str]] = defaultdict(set)
        for run in good:
            mirrors[run.index].add(run.mirror)
        for index, where in sorted(mirrors.items(), key=lambda entry: entry[0] or 0):
            if len(where) > 1:
                clusters = sorted({run.cluster for run in good if run.index == index})
                text = f"index {index} succeeded in {len(where)} mirrors, on {', '.join(clusters)}"
                found.append(Violation("exactly once", plan.name, text))
        done = len(mirrors)
    else:
        done = len(good)
        completions = job["spec"].get("completions")
        if completions is not None and done > completions:
            by_mirror = Counter((run.cluster, run.mirror) for run in good)
            text = f"{done} pods succeeded of {completions}: {dict(by_mirror)}"
            found.append(Violation("exactly once", plan.name, text))
    published = (job.get("status") or {}).get("succeeded", 0)
    if published != done and not hidden:
        text = f"succeeded is {published}, but {done} ran to success"
        found.append(Violation("counted once", plan.name, text))
    return found


def check_mirrors(
    jobs: Mapping[str, JSON], mirrors: Iterable[tuple[str, JSON]], *, leaving: frozenset[str] = frozenset()
) -> list[Violation]:
    """Every mirror is a share of a living Job's placement. ``jobs`` by UID; ``mirrors`` with their cluster.

    A share need not know the UID of a mirror that never began: a POST without an answer may land after the Job's end.
    """
    found = []
    for cluster, mirror in mirrors:
        metadata = mirror["metadata"]
        where = f"{cluster}/{metadata['name']}"
        labels = metadata.get("labels") or {}
        job = jobs.get(labels.get(names.JOB_UID_LABEL, ""))
        if job is None:
            if metadata["name"] not in leaving and not metadata.get("deletionTimestamp"):
                found.append(Violation("no orphan", where, "its Job is gone"))
            continue
        text = (job["metadata"].get("annotations") or {}).get(names.PLACEMENT_ANNOTATION, "{}")
        shares = json.loads(text).get("shares", [])
        share = next((s for s in shares if str(s["id"]) == labels.get(names.SHARE_LABEL)), None)
        if share is None:
            found.append(Violation("no share outside a placement", where, f"share {labels} not in {text}"))
        elif (share["cluster"], share["mirror"]) != (cluster, metadata["name"]) or share.get(
            "mirrorUID"
        ) not in (metadata["uid"], *([""] if mirror["spec"].get("suspend") else [])):
            found.append(Violation("no share outside a placement", where, f"the placement says {share}"))
    return found


def check_progress(before: JSON | None, after: JSON | None) -> str:
    """What a change of a Job's status took back; empty where nothing."""
    if before is None or after is None or before["metadata"]["uid"] != after["metadata"]["uid"]:
        return ""
    old, new = before.get("status") or {}, after.get("status") or {}
    for field in ("succeeded", "failed"):
        if new.get(field, 0) < old.get(field, 0):
            return f"{field} falls from {old.get(field, 0)} to {new.get(field, 0)}"
    lost = IndexSet.parse(old.get("completedIndexes")) - IndexSet.parse(new.get("completedIndexes"))
    if len(lost):
        return f"completedIndexes loses {lost}"
    if end_of(before) != ("", "") and end_of(after) != end_of(before):
        return f"the end changes from {end_of(before)} to {end_of(after)}"
    return ""


def causes_of_reruns(
    plans: Mapping[str, JobPlan], runs: Sequence[Run], *, away: Sequence[Absence] = ()
) -> Counter[str]:
    """Why pods were started beyond the first of each index, or beyond the completions."""
    causes: Counter[str] = Counter()
    groups: defaultdict[tuple[str, int | None], list[Run]] = defaultdict(list)
    for run in runs:
        groups[(run.job, run.index)].append(run)
    for (name, index), tries in groups.items():
        plan = plans[name]
        if index is None:
            again = max(0, len(tries) - (plan.spec.get("completions") or len(tries)))
            ended = Counter(
                cause for run in tries if (cause := _cause(run, None, away)) != SUCCEEDED_ELSEWHERE
            )
            for cause, count in ended.most_common():
                if taken := min(count, again):
                    causes[cause] += taken
                    again -= taken
            if again:
                causes["succeeded more often than asked for"] += again
            continue
        for before, after in itertools.pairwise(tries):
            causes[_cause(before, after, away)] += 1
    return causes


SUCCEEDED_ELSEWHERE = "succeeded and run again elsewhere"


def _cause(run: Run, following: Run | None, away: Sequence[Absence]) -> str:
    if (following is None or following.mirror != run.mirror) and any(entry.hides(run) for entry in away):
        return "its cluster was given up on"
    if run.stopped or run.dropped or run.exit is None:
        return "stopped by suspension, scaling or the Job's end"
    if run.exit:
        return "failed, as its script says"
    if following is not None and following.mirror == run.mirror:
        return "run again by its cluster's own Job controller"
    return SUCCEEDED_ELSEWHERE


def longest_stall(
    moments: Mapping[str, Sequence[datetime]], runs: Sequence[Run]
) -> tuple[float, str, datetime | None]:
    """The longest time in seconds in which nothing happened to a Job and no pod of it ran; which Job, and since when.

    ``moments`` of each Job: its creation, changes of its status, its end.
    """
    longest: tuple[float, str, datetime | None] = (0.0, "", None)
    by_job: defaultdict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_job[run.job].append(run)
    for name, times in moments.items():
        if not times:
            continue
        first, last = min(times), max(times)
        of_runs = [moment for run in by_job[name] for moment in (run.began, run.ended) if moment is not None]
        ordered = sorted([*times, *(moment for moment in of_runs if first <= moment <= last)])
        for before, after in itertools.pairwise(ordered):
            seconds = (after - before).total_seconds()
            if seconds <= longest[0]:
                continue
            ran = any(
                run.began <= before and (run.ended is None or run.ended >= after) for run in by_job[name]
            )
            if not ran:
                longest = (seconds, name, before)
    return longest
