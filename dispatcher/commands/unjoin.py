"""``kubectl dispatch unjoin``: a worker cluster's registration and account are removed."""

import time

import click

from dispatcher.commands import joining
from dispatcher.commands.account_ownership import is_ours
from dispatcher.commands.completing import complete_clusters
from dispatcher.commands.connection import resource_path
from dispatcher.commands.joining import WorkerAdministrator
from dispatcher.commands.management import ManagementCluster, managed_by_option
from dispatcher.commands.refusals import ClusterSaysNo
from dispatcher.commands.worker_clusters import unfinished_shares

_SHOWN = 5
"""Jobs that a refusal names."""


@click.command()
@click.argument("name", shell_complete=complete_clusters)
@joining.joining_options
@managed_by_option
@click.option("--force", is_flag=True, help="Also while Jobs have unfinished work there.")
@joining.timeout_option
def unjoin(
    name: str,
    management: ManagementCluster,
    worker: WorkerAdministrator | None,
    managed_by: str,
    force: bool,
    timeout: float,
) -> None:
    """Take a worker cluster out.

    Removes its WorkerCluster, its Secret and, with --worker-context, the dispatcher's account on the worker. The
    dispatcher removes its mirrors there first, with their pods and logs. Refused while dispatched Jobs have unfinished
    work there, unless --force lets it begin again elsewhere. For a cluster that is dead, see forget.

    \b
    Examples:
      kubectl dispatch drain worker-1
      kubectl dispatch unjoin worker-1 --worker-context berlin
    """
    cluster = joining.find_cluster(management, name)
    known = (cluster.get("status") or {}).get("clusterUID")
    if worker is not None and known and (uid := worker.uid()) != known:
        raise ClusterSaysNo(
            f"the worker's context leads to another cluster (UID {uid}) than {name} (UID {known})"
        )
    busy = [
        f"{job['metadata']['namespace']}/{job['metadata']['name']}"
        for job in management.dispatched_jobs(managed_by, all_namespaces=True)
        if unfinished_shares(job, name)
    ]
    if busy and not force:
        more = f" and {len(busy) - _SHOWN} more" if len(busy) > _SHOWN else ""
        raise ClusterSaysNo(
            f"{len(busy)} Jobs have unfinished work on {name} ({', '.join(busy[:_SHOWN])}{more}): "
            f"`kubectl dispatch drain {name}` first, or --force"
        )
    management.delete(management.clusters_path(name))
    _wait_until_gone(management, name, timeout)
    click.echo(f"workercluster.jobdispatcher.io/{name} unjoined")
    secret_name = joining.secret_name(cluster)
    secret = joining.read_secret(management, secret_name) if secret_name else None
    if secret is not None and is_ours(secret):
        path = resource_path("v1", "secrets", namespace=management.namespace, name=secret_name)
        management.delete(path)
        click.echo(f"secret/{secret_name} deleted")
    if worker is None:
        click.echo(
            "its account is still on the worker cluster; --worker-context NAME removes it too", err=True
        )
        return
    if manager := worker.remove_account():
        click.echo(
            f"account {worker.namespace}/{worker.account} on the worker cluster is kept by {manager}, not by these "
            "commands: take it away there",
            err=True,
        )
    else:
        click.echo(f"account {worker.namespace}/{worker.account} deleted on the worker cluster")


def _wait_until_gone(management: ManagementCluster, name: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    while (left := management.find(management.clusters_path(name))) is not None:
        if time.monotonic() >= end:
            holding = ", ".join(left["metadata"].get("finalizers") or ())
            raise ClusterSaysNo(
                f"WorkerCluster {name} is being deleted and waits for the dispatcher (finalizers: {holding}); "
                "when it is gone, run unjoin again for the rest, or `kubectl dispatch forget` if it is dead"
            )
        time.sleep(0.2)
