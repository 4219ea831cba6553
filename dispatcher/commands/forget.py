"""``kubectl dispatch forget``: a dead cluster is given up."""

import sys
import time

import click

from dispatcher.commands import worker_clusters
from dispatcher.commands.completing import complete_clusters
from dispatcher.commands.drain import describe_shares, unfinished
from dispatcher.commands.durations import DURATION
from dispatcher.commands.management import ManagementCluster, connection_options
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.core.names import FORGET_ANNOTATION

_LOOK_SECONDS = 0.2


@click.command()
@click.argument("name", shell_complete=complete_clusters)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait until the WorkerCluster is gone."
)
@click.option(
    "--timeout",
    type=DURATION,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="Longest wait; 0 for any.",
)
@connection_options
def forget(name: str, yes: bool, wait: bool, timeout: float, management: ManagementCluster) -> None:
    """Give up a dead worker cluster; its work counts as lost.

    Its WorkerCluster is deleted without waiting for the mirrors there; unfinished work runs again on other
    clusters. Should the cluster come back, its pods go on until somebody stops them. For a cluster that still
    answers, drain and unjoin.

    \b
    Examples:
      kubectl dispatch forget worker-1
      kubectl dispatch forget worker-1 --yes      in a script
    """
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("nobody can be asked here: give --yes")
    path = management.clusters_path(name)
    cluster = management.get(path)
    for line in _consequences(management, cluster):
        click.echo(line, err=True)
    if not yes:
        click.confirm(f"Forget {name}?", abort=True, err=True)
    metadata = cluster["metadata"]
    annotated = {"uid": metadata["uid"], "annotations": {FORGET_ANNOTATION: "true"}}
    management.patch(path, {"metadata": annotated})
    management.delete(path, options={"preconditions": {"uid": metadata["uid"]}})
    if wait:
        _wait_gone(management, cluster, timeout=timeout)
        click.echo(f"workercluster.jobdispatcher.io/{name} forgotten")
    else:
        click.echo(f"workercluster.jobdispatcher.io/{name} is being forgotten")


def _consequences(management: ManagementCluster, cluster: Manifest) -> list[str]:
    """What a person should know before."""
    name = cluster["metadata"]["name"]
    lines = []
    if worker_clusters.ready_condition(cluster).get("status") == "True":
        lines.append(f"Warning: {name} is Ready: work that runs there will run a second time elsewhere")
    try:
        left = unfinished(management.get_all(management.jobs_path(all_namespaces=True)), name)
    except ClusterSaysNo as error:
        return [*lines, f"Which Jobs have work there cannot be seen: {error.message}"]
    if left:
        jobs = ", ".join(describe_shares(job, shares) for job, shares in left.items())
        lines.append(f"Unfinished work there counts as lost: {jobs}")
    return lines


def _wait_gone(management: ManagementCluster, cluster: Manifest, *, timeout: float) -> None:
    metadata = cluster["metadata"]
    end = time.monotonic() + timeout if timeout else float("inf")
    while True:
        found = management.find(management.clusters_path(metadata["name"]))
        if found is None or found["metadata"]["uid"] != metadata["uid"]:
            return
        if time.monotonic() > end:
            held = ", ".join(found["metadata"].get("finalizers") or ())
            raise ClusterSaysNo(
                f"the WorkerCluster {metadata['name']} is marked, but not gone after {timeout:g}s "
                f"(finalizers: {held or 'none'}); is the dispatcher running?"
            )
        time.sleep(_LOOK_SECONDS)
