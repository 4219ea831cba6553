"""``kubectl dispatch describe``: all about one Job, its shares first."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import click

from dispatcher.commands import colours, job_events
from dispatcher.commands.completing import complete_jobs
from dispatcher.commands.dispatched_job import completions, message, phase, placement_of
from dispatcher.commands.job_name import JOB_NAME
from dispatcher.commands.management import ManagementCluster, connection_options, managed_by_option
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.table import age, format_table, short_duration
from dispatcher.core import names
from dispatcher.core.job import parse_timestamp
from dispatcher.core.placement import Placement, PlacementError, Share, ShareState

_INDENT: Final = "  "
_OWN_ANNOTATIONS: Final = frozenset({names.PLACEMENT_ANNOTATION, *names.GENERATED_ANNOTATIONS})
"""Annotations that are shown in another form, or are no news."""


@click.command()
@click.argument(
    "jobs", metavar="JOB...", type=JOB_NAME, nargs=-1, required=True, shell_complete=complete_jobs
)
@managed_by_option
@connection_options
def describe(jobs: tuple[str, ...], managed_by: str, management: ManagementCluster) -> None:
    """Show a Job's shares, conditions and recent Events.

    Each share is shown with its cluster, its mirror there, its part of the work, its pods, its state, and since
    when it is so. Events of the mirrors are among the Events where the dispatcher's view API is installed.

    \b
    Examples:
      kubectl dispatch describe pi
      kubectl dispatch describe pi render -n team
    """
    coloured = colours.are_wanted()
    for number, name in enumerate(jobs):
        job = management.dispatched_job(name, managed_by)
        events, missing = _events(management, job)
        lines = describe_job(job, events, missing=missing, now=datetime.now(UTC), coloured=coloured)
        click.echo("\n" * (2 if number else 0) + "\n".join(lines), color=coloured)


def _events(management: ManagementCluster, job: Manifest) -> tuple[list[Manifest], list[str]]:
    """What can be seen, and why the rest cannot: a description without Events is still one."""
    found: list[Manifest] = []
    missing: list[str] = []
    for source in (job_events.job_events, job_events.mirror_events):
        try:
            found += source(management, job)
        except ClusterSaysNo as error:
            missing += error.in_kubectls_form().splitlines()
    return found, missing


def describe_job(
    job: Manifest,
    events: Sequence[Manifest],
    *,
    missing: Sequence[str] = (),
    now: datetime,
    coloured: bool = False,
) -> Iterator[str]:
    """The lines. ``missing``: why Events could not be read."""
    yield from _fields(job, now, coloured=coloured)
    yield from _shares(job, now, coloured=coloured)
    conditions = (job.get("status") or {}).get("conditions") or []
    yield from _section(
        "Conditions",
        ("TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"),
        [
            [
                entry.get("type", ""),
                entry.get("status", ""),
                age(entry.get("lastTransitionTime"), now),
                entry.get("reason", ""),
                " ".join(entry.get("message", "").split()),
            ]
            for entry in conditions
        ],
        coloured=coloured,
    )
    yield from _section(
        "Events", job_events.HEADERS, job_events.event_rows(events, now), coloured=coloured, notes=missing
    )


def _fields(job: Manifest, now: datetime, *, coloured: bool) -> Iterator[str]:
    metadata, spec, status = job["metadata"], job["spec"], job.get("status") or {}
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if key not in _OWN_ANNOTATIONS
    }
    labels = {
        key: value
        for key, value in (metadata.get("labels") or {}).items()
        if key not in names.GENERATED_LABELS
    }
    indexed = spec.get("completionMode") == "Indexed"
    pods = {key: status.get(key) or 0 for key in ("active", "ready", "succeeded", "failed", "terminating")}
    fields: list[tuple[str, str | list[str]]] = [
        ("Name", metadata["name"]),
        ("Namespace", metadata["namespace"]),
        ("Labels", _pairs(labels)),
        ("Annotations", _pairs(annotations)),
        ("Managed By", spec.get("managedBy", "")),
        (
            "Created",
            f"{metadata.get('creationTimestamp', '')} ({age(metadata.get('creationTimestamp'), now)} ago)",
        ),
        ("Phase", colours.by_word(phase(job), wanted=coloured)),
        *([("Why", message(job))] if phase(job) in ("Waiting", "Failed") else []),
        ("Completion Mode", spec.get("completionMode") or "NonIndexed"),
        ("Parallelism", str(spec.get("parallelism", 1))),
        ("Completions", completions(job)),
        ("Pods", ", ".join(f"{count} {kind}" for kind, count in pods.items())),
        *([("Completed Indexes", status.get("completedIndexes") or "")] if indexed else []),
        *([("Failed Indexes", status["failedIndexes"])] if status.get("failedIndexes") else []),
        ("Backoff Limit", str(spec.get("backoffLimit", 6))),
        *([("Deadline", f"{spec['activeDeadlineSeconds']}s")] if spec.get("activeDeadlineSeconds") else []),
        ("Started", _moment(status.get("startTime"), now)),
        *([("Completed", _moment(status["completionTime"], now))] if status.get("completionTime") else []),
        *([("Duration", duration)] if (duration := _duration(status)) else []),
    ]
    width = max(len(name) for name, _ in fields) + 3
    for name, value in fields:
        first, *others = value if isinstance(value, list) else [value]
        yield f"{name + ':':<{width}}{first or '<none>'}"
        yield from (" " * width + other for other in others)


def _pairs(values: dict[str, str] | None) -> list[str]:
    return [f"{key}={value}" for key, value in sorted((values or {}).items())] or [""]


def _moment(timestamp: str | None, now: datetime) -> str:
    return f"{timestamp} ({age(timestamp, now)} ago)" if timestamp else ""


def _duration(status: Manifest) -> str:
    start, end = (parse_timestamp(status.get(key)) for key in ("startTime", "completionTime"))
    return short_duration(end - start) if start and end else ""


def _shares(job: Manifest, now: datetime, *, coloured: bool) -> Iterator[str]:
    placement = placement_of(job)
    if isinstance(placement, PlacementError):
        notes = [f"the annotation {names.PLACEMENT_ANNOTATION} cannot be read: {placement}"]
        yield from _section("Shares", (), [], coloured=coloured, notes=notes)
        return
    work = "INDEXES" if job["spec"].get("completionMode") == "Indexed" else "COMPLETIONS"
    headers = ("CLUSTER", "MIRROR", "PARALLELISM", work, "SUCCEEDED", "FAILED", "ACTIVE", "STATE", "SINCE")
    shares = placement.shares if placement else ()
    rows = [share_row(share, job, now) for share in shares]
    yield from _section("Shares", headers, rows, coloured=coloured)
    if placement and placement.retired:
        yield from _section("Counted before", ("CLUSTER", "SUCCEEDED", "FAILED"), _retired(placement))


def share_row(share: Share, job: Manifest, now: datetime) -> list[str]:
    """One share: where it is, what its part is, and how far it has come."""
    if share.interval is not None:
        part = share.indexes.format()
    else:
        part = "-" if share.completions is None else str(share.completions)
    made = bool(share.mirror_uid)
    state = share.state.value if made or share.state is not ShareState.ACTIVE else "Creating"
    return [
        share.cluster,
        share.mirror,
        str(share.parallelism),
        part,
        str(share.counts.succeeded),
        str(share.counts.failed),
        str(share.counts.active),
        state,
        _since(share, job, now),
    ]


def _since(share: Share, job: Manifest, now: datetime) -> str:
    """How long the share has been in its state, as far as the placement and the Job know."""
    if share.since:
        return short_duration(now - datetime.fromtimestamp(share.since, UTC))
    started = (job.get("status") or {}).get("startTime")
    return age(started if share.state is ShareState.ACTIVE else None, now)


def _retired(placement: Placement) -> list[list[str]]:
    return [
        [cluster, str(counts.succeeded), str(counts.failed)]
        for cluster, counts in sorted(placement.retired.items())
    ]


def _section(
    title: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    coloured: bool = False,
    notes: Sequence[str] = (),
) -> Iterator[str]:
    if not rows:
        yield f"{title}:{'' if notes else '  <none>'}"
    else:
        yield f"{title}:"
        for line in format_table(headers, rows, coloured=coloured).splitlines():
            yield _INDENT + line
    for note in notes:
        yield f"{_INDENT}<{note}>"
