"""The screen of ``top``, drawn from the objects as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dispatcher.commands.colours import WORDS
from dispatcher.commands.dispatched_job import completions, phase, placement_of, shares
from dispatcher.commands.refusals import Manifest
from dispatcher.commands.table import age
from dispatcher.commands.worker_clusters import ready_condition, taint_text, unfinished_shares
from dispatcher.core.placement import Placement

_ORDER: Final = ("Running", "Waiting", "Pending", "Terminating", "Suspended", "Failed", "Complete")
_BAR: Final = 20
_FIXED_LINES: Final = 6
"""Lines that are neither a cluster nor a Job."""


@dataclass(frozen=True, slots=True)
class Screen:
    """``clusters`` None: they may not be seen. ``notes``: what is missing or out of order.

    ``complete``: the Jobs are all there are, so that they tell of a cluster's active pods sooner than its own
    status does, which is written every ten seconds.
    """

    clusters: Sequence[Manifest] | None
    jobs: Sequence[Manifest]
    notes: Sequence[str]
    now: datetime
    server: str
    complete: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what fits; without a terminal there is no bound."""
        height = console.size.height if console.is_terminal else None
        yield self.summary()
        for note in self.notes:
            yield Text(note, style="yellow")
        room = None
        if self.clusters is not None:
            lines = None if height is None else max(3, height // 3)
            yield Text()
            yield Group(*_limited(self.cluster_table(lines), self.clusters, lines))
        if height is not None:
            used = len(self.notes) + _FIXED_LINES + min(len(self.clusters or ()), max(3, height // 3))
            room = max(1, height - used)
        yield Text()
        yield Group(*_limited(job_table(in_order(self.jobs), self.now, room), self.jobs, room))

    def summary(self) -> Text:
        """One line of totals."""
        phases = Counter(map(phase, self.jobs))
        parts = [f"{phases[name]} {name.lower()}" for name in _ORDER if phases[name]]
        text = Text.assemble((self.now.strftime("%H:%M:%S"), "bold"), f"  {self.server}  ")
        if self.clusters is not None:
            ready = sum(ready_condition(cluster).get("status") == "True" for cluster in self.clusters)
            text.append(f"clusters {ready}/{len(self.clusters)} ready  ")
        active = sum((job.get("status") or {}).get("active") or 0 for job in self.jobs)
        text.append(f"pods {active} active  jobs {', '.join(parts) or 'none'}")
        return text

    def cluster_table(self, lines: int | None) -> Table:
        """A line for each cluster, with the Jobs that have work there."""
        table = _table("CLUSTER", "READY", "REASON", "ACTIVE", "", "CAPACITY", "JOBS", "TAINTS", "AGE")
        for cluster in sorted(self.clusters or (), key=lambda item: str(item["metadata"]["name"]))[:lines]:
            name, spec, status = cluster["metadata"]["name"], cluster["spec"], cluster.get("status") or {}
            ready = ready_condition(cluster)
            capacity = (spec.get("capacity") or {}).get("parallelism")
            active = self.active_pods(name) if self.complete else status.get("activePods") or 0
            marks = [
                *(["cordoned"] if spec.get("unschedulable") else []),
                *map(taint_text, spec.get("taints") or ()),
            ]
            table.add_row(
                name,
                _word(ready.get("status") or "Unknown"),
                ready.get("reason") or "",
                str(active),
                _bar(active, capacity) if capacity else "",
                "" if capacity is None else str(capacity),
                str(sum(bool(unfinished_shares(job, name)) for job in self.jobs)),
                Text(",".join(marks), style="yellow"),
                age(cluster["metadata"].get("creationTimestamp"), self.now),
            )
        return table

    def active_pods(self, cluster: str) -> int:
        """Of the Jobs that are seen, on one cluster."""
        placements = [placement for job in self.jobs if isinstance(placement := placement_of(job), Placement)]
        shares = (share for placement in placements for share in placement.shares)
        return sum(share.counts.active for share in shares if share.cluster == cluster)


def in_order(jobs: Sequence[Manifest]) -> list[Manifest]:
    """What runs first, then what waits, then the rest; the newest first within each."""
    newest = sorted(jobs, key=lambda job: str(job["metadata"].get("creationTimestamp")), reverse=True)
    return sorted(newest, key=lambda job: _ORDER.index(phase(job)))


def job_table(jobs: Sequence[Manifest], now: datetime, lines: int | None) -> Table:
    """A line for each Job."""
    headers = ("NAMESPACE", "JOB", "PHASE", "COMPLETIONS", "", "ACTIVE", "FAILED", "AGE", "SHARES")
    table = _table(*headers)
    for job in jobs[:lines]:
        status, wanted = job.get("status") or {}, job["spec"].get("completions")
        table.add_row(
            job["metadata"]["namespace"],
            job["metadata"]["name"],
            _word(phase(job)),
            completions(job),
            _bar(status.get("succeeded") or 0, wanted) if wanted else "",
            str(status.get("active") or 0),
            str(status.get("failed") or 0),
            age(job["metadata"].get("creationTimestamp"), now),
            shares(job),
        )
    return table


def _table(*headers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in headers:
        table.add_column(header, header_style="bold", no_wrap=True, overflow="ellipsis")
    return table


def _word(word: str) -> Text:
    return Text(word, style=WORDS.get(word, ""))


def _bar(done: int, of: int) -> ProgressBar:
    return ProgressBar(total=max(1, of), completed=min(done, of), width=_BAR)


def _limited(table: Table, everything: Sequence[Manifest], lines: int | None) -> Iterator[RenderableType]:
    yield table
    if lines is not None and len(everything) > lines:
        yield Text(f"… and {len(everything) - lines} more", style="dim")
