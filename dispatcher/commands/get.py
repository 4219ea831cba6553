"""``kubectl dispatch get``: the Jobs that are dispatched, and where their shares are."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import click

from dispatcher.commands import colours
from dispatcher.commands.completing import complete_jobs
from dispatcher.commands.dispatched_job import completions, message, phase, shares
from dispatcher.commands.job_name import JOB_NAME
from dispatcher.commands.management import (
    JOBS,
    ManagementCluster,
    all_namespaces_option,
    connection_options,
    managed_by_option,
    no_headers_option,
    selector_option,
)
from dispatcher.commands.output import document
from dispatcher.commands.refusals import Manifest
from dispatcher.commands.table import age, format_table

_COLUMNS: Final = ("NAME", "PHASE", "COMPLETIONS", "ACTIVE", "AGE", "SHARES")
_WIDE_COLUMNS: Final = ("FAILED", "MESSAGE")


@click.command()
@click.argument("job", type=JOB_NAME, required=False, shell_complete=complete_jobs)
@all_namespaces_option
@selector_option
@click.option("-w", "--watch", is_flag=True, help="Go on showing changes, live on a terminal.")
@click.option("-o", "--output", type=click.Choice(["wide", "json", "yaml"]), help="Another form of output.")
@no_headers_option
@managed_by_option
@connection_options
def get(
    job: str | None,
    all_namespaces: bool,
    selector: str | None,
    watch: bool,
    output: str | None,
    no_headers: bool,
    managed_by: str,
    management: ManagementCluster,
) -> None:
    """List the Jobs that are dispatched, and where their shares are.

    SHARES names each cluster with its succeeded pods and, where the Job has completions, its part of them.

    \b
    Examples:
      kubectl dispatch get                      the Jobs of the context's namespace
      kubectl dispatch get -A -l app=render     Jobs of all namespaces, by label
      kubectl dispatch get pi -w                one Job, live
      kubectl dispatch get -o wide              with failed pods, and why a Job waits
    """
    if job and (all_namespaces or selector):
        raise click.UsageError("a Job is named within one namespace: leave out -A and -l, or the name")
    if watch:
        from dispatcher.commands.get_watch import watch_jobs

        watch_jobs(
            management,
            job=job,
            all_namespaces=all_namespaces,
            selector=selector,
            output=output,
            with_headers=not no_headers,
            managed_by=managed_by,
        )
        return
    if job:
        jobs = [management.dispatched_job(job, managed_by)]
    else:
        jobs = management.dispatched_jobs(managed_by, all_namespaces=all_namespaces, selector=selector)
    if output in ("json", "yaml"):
        click.echo(document(jobs, api_version=JOBS, kind="Job", single=bool(job), form=output))
    elif jobs:
        now = datetime.now(UTC)
        headers, rows = table(jobs, now=now, with_namespace=all_namespaces, wide=output == "wide")
        coloured = colours.are_wanted()
        click.echo(
            format_table(headers, rows, with_headers=not no_headers, coloured=coloured), color=coloured
        )
    else:
        where = "" if all_namespaces else f" in {management.namespace} namespace"
        click.echo(f"No dispatched Jobs found{where}.", err=True)


def table(
    jobs: Sequence[Manifest], *, now: datetime, with_namespace: bool = False, wide: bool = False
) -> tuple[list[str], list[list[str]]]:
    """The column names and one row for each Job."""
    headers = [*(["NAMESPACE"] if with_namespace else []), *_COLUMNS, *(_WIDE_COLUMNS if wide else [])]
    rows: list[list[str]] = []
    for job in jobs:
        status = job.get("status") or {}
        row = [job["metadata"]["namespace"]] if with_namespace else []
        row += [
            job["metadata"]["name"],
            phase(job),
            completions(job),
            str(status.get("active") or 0),
            age(job["metadata"].get("creationTimestamp"), now),
            shares(job),
        ]
        if wide:
            row += [str(status.get("failed") or 0), message(job)]
        rows.append(row)
    return headers, rows
