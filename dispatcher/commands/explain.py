"""``kubectl dispatch explain``: why a Job is where it is, or waits."""

from collections.abc import Iterator

import click

from dispatcher.commands.completing import complete_jobs
from dispatcher.commands.dispatched_job import placement_of
from dispatcher.commands.job_name import JOB_NAME
from dispatcher.commands.management import ManagementCluster, connection_options, managed_by_option
from dispatcher.commands.observing import observe
from dispatcher.commands.refusals import Manifest
from dispatcher.commands.table import format_table
from dispatcher.core import names
from dispatcher.core.explanation import Explanation
from dispatcher.core.explanation import explain as explained
from dispatcher.core.placement import Placement

HEADERS = ("CLUSTER", "CONSIDERED", "WEIGHT", "MIN", "MAX", "CAPACITY", "FREE", "PART")


@click.command()
@click.argument(
    "jobs", metavar="JOB...", type=JOB_NAME, nargs=-1, required=True, shell_complete=complete_jobs
)
@managed_by_option
@connection_options
def explain(jobs: tuple[str, ...], managed_by: str, management: ManagementCluster) -> None:
    """Show why a Job is where it is, or why it waits.

    For each worker cluster: whether it may have new work of the Job now, and if not by which rule; its weight and
    bounds, its free capacity, and the part of the Job that it has.

    \b
    Examples:
      kubectl dispatch explain pi
      kubectl dispatch explain render -n team
    """
    for number, name in enumerate(jobs):
        job = management.dispatched_job(name, managed_by)
        placement = placement_of(job)
        found = explained(observe(management, job), placement if isinstance(placement, Placement) else None)
        title = [f"Job {job['metadata']['namespace']}/{name}", *waits(job)]
        click.echo("\n" * bool(number) + "\n".join([*title, *lines(found)]))


def waits(job: Manifest) -> Iterator[str]:
    """What the Job itself says of its dispatch."""
    for entry in (job.get("status") or {}).get("conditions") or ():
        if entry["type"] in (names.DISPATCHED, names.FULLY_PLACED):
            text = " ".join((entry.get("message") or "").split())
            yield f"{entry['type']}={entry['status']} ({entry.get('reason', '')}): {text}"


def lines(found: Explanation) -> Iterator[str]:
    """The rules, then one line a cluster."""
    yield from (f"Rule: {rule}" for rule in found.rules)
    rows = [
        [
            line.cluster,
            f"no: {line.excluded}" if line.excluded else "yes",
            str(line.weight),
            str(line.minimum),
            *("-" if number is None else str(number) for number in (line.maximum, line.capacity, line.free)),
            line.part or "-",
        ]
        for line in found.clusters
    ]
    yield format_table(HEADERS, rows).rstrip("\n") if rows else "There is no WorkerCluster"
