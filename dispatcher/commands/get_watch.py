"""``get -w``: in place on a terminal, a line for each change anywhere else, objects with -o json and -o yaml."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import click

from dispatcher.commands import colours
from dispatcher.commands.get import table
from dispatcher.commands.management import JOBS, ManagementCluster
from dispatcher.commands.output import formatted, presentable
from dispatcher.commands.refusals import Manifest
from dispatcher.commands.table import column_widths, format_table
from dispatcher.commands.watching import Change, Followed

_DELETED = "Deleted"
_WIDEST_PHASE = "Terminating"
_TICK_SECONDS = 1.0


def watch_jobs(
    management: ManagementCluster,
    *,
    job: str | None,
    all_namespaces: bool,
    selector: str | None,
    output: str | None,
    with_headers: bool,
    managed_by: str,
) -> None:
    """Show the Jobs and their changes until the user ends it (by Ctrl-C).

    Raises:
        ClusterSaysNo: the server refuses, or there is no such Job.
    """
    if job:
        # Says what is wrong with it, which a list would not.
        management.dispatched_job(job, managed_by)
    parameters = {"labelSelector": selector} if selector else {}
    if job:
        parameters["fieldSelector"] = f"metadata.name={job}"
    followed = Followed(management, management.jobs_path(all_namespaces=all_namespaces), parameters)

    def ours(changes: Sequence[Change]) -> list[Change]:
        return [change for change in changes if change.manifest["spec"].get("managedBy") == managed_by]

    shape = Shape(with_namespace=all_namespaces, wide=output == "wide", with_headers=with_headers)
    if output in ("json", "yaml"):
        _objects(followed, ours, form=output)
    elif sys.stdout.isatty():
        _live(followed, shape, managed_by)
    else:
        _lines(followed, ours, shape)


class Shape:
    """Which columns are shown, and how wide they have been so far."""

    def __init__(self, *, with_namespace: bool, wide: bool, with_headers: bool) -> None:
        self.with_namespace = with_namespace
        self.wide = wide
        self.with_headers = with_headers
        self._widths: list[int] = []
        """Of the columns so far."""
        self._last: dict[str, list[str]] = {}

    def rows(self, changes: Sequence[Change]) -> tuple[list[str], list[list[str]]]:
        """The column names, and the rows of these Jobs; one that went has the phase Deleted."""
        headers, rows = table(
            [change.manifest for change in changes],
            now=datetime.now(UTC),
            with_namespace=self.with_namespace,
            wide=self.wide,
        )
        for change, row in zip(changes, rows, strict=True):
            if change.kind == "DELETED":
                row[headers.index("PHASE")] = _DELETED
        return headers, rows

    def _news(self, changes: Sequence[Change]) -> tuple[list[str], list[list[str]]]:
        """The rows that differ from their Job's last one in more than the age."""
        headers, rows = self.rows(changes)
        age = headers.index("AGE")
        news = []
        for change, row in zip(changes, rows, strict=True):
            uid, cells = change.manifest["metadata"]["uid"], [*row[:age], *row[age + 1 :]]
            if self._last.get(uid) != cells:
                news.append(row)
            self._last[uid] = cells
        return headers, news

    def text(self, changes: Sequence[Change]) -> str:
        """Lines for these Jobs under those that were shown before; empty when nothing of them is new."""
        headers, rows = self._news(changes)
        if not rows:
            return ""
        first = not self._widths and self.with_headers
        if not self._widths:
            # Room for every phase, so that lines stay in line.
            self._widths = [len(_WIDEST_PHASE) if name == "PHASE" else 0 for name in headers]
        self._widths = column_widths([headers, *rows], least=self._widths)
        coloured = colours.are_wanted()
        return format_table(headers, rows, with_headers=first, coloured=coloured, widths=self._widths)


def _lines(followed: Followed, ours: Callable[[Sequence[Change]], list[Change]], shape: Shape) -> None:
    said = ""
    while True:
        if lines := shape.text(ours(followed.changes(_TICK_SECONDS))):
            click.echo(lines)
        if followed.trouble != said:
            said = followed.trouble
            if said:
                click.echo(f"Warning: {said}; trying again", err=True)


def _objects(followed: Followed, ours: Callable[[Sequence[Change]], list[Change]], *, form: str) -> None:
    while True:
        for change in ours(followed.changes(_TICK_SECONDS)):
            text = formatted(presentable(change.manifest, api_version=JOBS, kind="Job"), form)
            click.echo(text if form == "json" else f"---\n{text}")


def _live(followed: Followed, shape: Shape, managed_by: str) -> None:
    from dispatcher.commands.live import LiveTable, show_live

    def present() -> LiveTable:
        jobs: list[Manifest] = [
            manifest
            for _, manifest in sorted(followed.objects.items())
            if manifest["spec"].get("managedBy") == managed_by
        ]
        headers, rows = shape.rows([Change("MODIFIED", job) for job in jobs])
        return LiveTable(headers, rows, with_headers=shape.with_headers, trouble=followed.trouble)

    followed.changes(None)
    show_live(present, followed.take)
