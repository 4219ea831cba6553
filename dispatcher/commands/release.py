"""``kubectl dispatch release``: the way out for Jobs whose dispatcher is gone."""

import click

from dispatcher.commands import held_jobs
from dispatcher.commands.connection import resource_path
from dispatcher.commands.job_name import JOB_NAME
from dispatcher.commands.management import (
    WORKER_CLUSTERS,
    ManagementCluster,
    all_namespaces_option,
    connection_options,
    managed_by_option,
)
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.core.names import DRAIN_FINALIZER, FINALIZER

_CONFLICTS = 5
_DEPLOYMENTS = "app.kubernetes.io/name=job-dispatcher"


@click.command()
@click.argument("names", metavar="[JOB]...", type=JOB_NAME, nargs=-1)
@click.option(
    "--all", "all_jobs", is_flag=True, help="All dispatched Jobs of the namespace; with -A, of the cluster."
)
@all_namespaces_option
@managed_by_option
@click.option("--force", is_flag=True, help="Also while a dispatcher is installed.")
@connection_options
def release(
    names: tuple[str, ...],
    all_jobs: bool,
    all_namespaces: bool,
    managed_by: str,
    force: bool,
    management: ManagementCluster,
) -> None:
    """Let go of Jobs whose dispatcher is gone for good.

    Takes off the finalizer that only the dispatcher takes off otherwise, so that the Jobs can be deleted; with --all -A
    also that of WorkerClusters. Mirrors are not touched: they go on running on the worker clusters until they are
    deleted there.

    \b
    Examples:
      kubectl dispatch release --all -A
      kubectl --context berlin delete jobs -A -l jobdispatcher.io/origin    the mirrors, on each worker
    """
    if bool(names) == all_jobs or (names and all_namespaces):
        raise click.UsageError("give names of Jobs, or --all (with -A for all namespaces)")
    if not force and (running := _running_dispatcher(management)):
        raise ClusterSaysNo(
            f"Deployment {running} is a dispatcher that still runs: delete the Jobs and it cleans up after them; "
            "or --force, if it is not theirs"
        )
    if names:
        jobs = [management.dispatched_job(name, managed_by) for name in names]
    else:
        jobs = management.dispatched_jobs(managed_by, all_namespaces=all_namespaces)
    found = held_jobs.held(jobs)
    for job in found:
        metadata = job["metadata"]
        path = resource_path("batch/v1", "jobs", namespace=metadata["namespace"], name=metadata["name"])
        _take_off(management, path, job, FINALIZER)
        click.echo(f"job.batch/{metadata['name']} in namespace {metadata['namespace']} released")
    clusters = _held_clusters(management) if all_jobs and all_namespaces else []
    for cluster in clusters:
        name = cluster["metadata"]["name"]
        _take_off(management, management.clusters_path(name), cluster, DRAIN_FINALIZER)
        click.echo(f"workercluster.jobdispatcher.io/{name} released")
    if not found and not clusters:
        click.echo("Nothing is held by a dispatcher's finalizer.", err=True)


def _held_clusters(management: ManagementCluster) -> list[Manifest]:
    """WorkerClusters with our finalizer; none where the CRD is gone already."""
    if management.find(f"/apis/{WORKER_CLUSTERS}") is None:
        return []
    found = management.get_all(management.clusters_path())
    return [it for it in found if DRAIN_FINALIZER in (it["metadata"].get("finalizers") or ())]


def _take_off(management: ManagementCluster, path: str, held: Manifest, finalizer: str) -> None:
    """Take one finalizer off, and nothing else, whoever writes to the object meanwhile."""
    metadata = held["metadata"]
    for attempt in range(_CONFLICTS):
        keep = [it for it in metadata.get("finalizers") or () if it != finalizer]
        version = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            management.patch(path, {"metadata": {**version, "finalizers": keep or None}})
            return
        except ClusterSaysNo as error:
            if error.status == 404:
                return
            if error.status != 409 or attempt + 1 == _CONFLICTS:
                raise
        again = management.find(path)
        if again is None or again["metadata"]["uid"] != metadata["uid"]:
            return
        metadata = again["metadata"]


def _running_dispatcher(management: ManagementCluster) -> str:
    """A Deployment of the chart that has pods; empty where there is none, or where that may not be asked."""
    path = resource_path("apps/v1", "deployments")
    try:
        deployments = management.get_all(path, {"labelSelector": _DEPLOYMENTS})
    except ClusterSaysNo as error:
        if error.status != 403:
            raise
        return ""
    for deployment in deployments:
        if (deployment.get("status") or {}).get("replicas"):
            return f"{deployment['metadata']['namespace']}/{deployment['metadata']['name']}"
    return ""
