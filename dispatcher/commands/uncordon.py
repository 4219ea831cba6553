"""``kubectl dispatch uncordon``: a cluster takes new work again, after cordon or drain."""

import click

from dispatcher.commands import worker_clusters
from dispatcher.commands.completing import complete_clusters
from dispatcher.commands.management import ManagementCluster, connection_options
from dispatcher.commands.refusals import Manifest
from dispatcher.core.names import DRAIN_TAINT


@click.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_clusters)
@connection_options
def uncordon(names: tuple[str, ...], management: ManagementCluster) -> None:
    """Give a worker cluster new work again, after cordon or drain.

    Takes away spec.unschedulable and the taint that drain has set; other taints stay.

    \b
    Examples:
      kubectl dispatch uncordon worker-1
    """
    for name in names:
        _, changed = worker_clusters.change(management, name, _open)
        click.echo(
            f"workercluster.jobdispatcher.io/{name} {'uncordoned' if changed else 'already uncordoned'}"
        )


def _open(spec: Manifest) -> Manifest:
    fields: Manifest = {"unschedulable": None} if spec.get("unschedulable") else {}
    if any(taint.get("key") == DRAIN_TAINT for taint in spec.get("taints") or ()):
        fields["taints"] = worker_clusters.without_taint(spec, DRAIN_TAINT)
    return fields
