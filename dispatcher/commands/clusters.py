"""``kubectl dispatch clusters``: the fleet."""

from datetime import UTC, datetime

import click

from dispatcher.commands import colours, worker_clusters
from dispatcher.commands.completing import complete_clusters
from dispatcher.commands.management import (
    WORKER_CLUSTERS,
    ManagementCluster,
    connection_options,
    no_headers_option,
    selector_option,
)
from dispatcher.commands.output import document
from dispatcher.commands.table import format_table


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_clusters)
@selector_option
@click.option("-o", "--output", type=click.Choice(["wide", "json", "yaml"]), help="Another form of output.")
@no_headers_option
@connection_options
def clusters(
    names: tuple[str, ...],
    selector: str | None,
    output: str | None,
    no_headers: bool,
    management: ManagementCluster,
) -> None:
    """List the worker clusters and how they are.

    ACTIVE is the pods of dispatched Jobs that run there now, CAPACITY the most that may. A cluster that is
    UNSCHEDULABLE (cordoned) gets no new work.

    \b
    Examples:
      kubectl dispatch clusters
      kubectl dispatch clusters -o wide        with weights, mirrors, and what is wrong
      kubectl dispatch clusters -l region=eu
    """
    if names and selector:
        raise click.UsageError("give names or -l, not both")
    if names:
        found = [management.get(management.clusters_path(name)) for name in names]
    else:
        parameters = {"labelSelector": selector} if selector else {}
        found = management.get_all(management.clusters_path(), parameters)
    if output in ("json", "yaml"):
        single = len(names) == 1
        click.echo(
            document(found, api_version=WORKER_CLUSTERS, kind="WorkerCluster", single=single, form=output)
        )
        return
    if not found:
        click.echo("No worker clusters found.", err=True)
        return
    wide = output == "wide"
    now = datetime.now(UTC)
    rows = [worker_clusters.row(cluster, now, wide=wide) for cluster in found]
    headers = (*worker_clusters.HEADERS, *(worker_clusters.WIDE_HEADERS if wide else ()))
    coloured = colours.are_wanted()
    # A word that is good news in one column is none in another.
    click.echo(format_table(headers, rows, with_headers=not no_headers, coloured=coloured), color=coloured)
