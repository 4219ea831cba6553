"""``kubectl dispatch cordon``: no new work for a cluster."""

import click

from dispatcher.commands import worker_clusters
from dispatcher.commands.completing import complete_clusters
from dispatcher.commands.management import ManagementCluster, connection_options


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_clusters)
@connection_options
def cordon(names: tuple[str, ...], management: ManagementCluster) -> None:
    """Give a worker cluster no new work; what is there goes on.

    \b
    Examples:
      kubectl dispatch cordon worker-1
      kubectl dispatch cordon worker-1 worker-2
    """
    for name in names:
        _, changed = worker_clusters.change(management, name, lambda spec: {"unschedulable": True})
        click.echo(f"workercluster.jobdispatcher.io/{name} {'cordoned' if changed else 'already cordoned'}")
