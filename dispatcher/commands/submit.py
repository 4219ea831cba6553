"""``kubectl dispatch submit``: the Jobs of a file, dispatched and followed to their end."""

import time
from collections.abc import Sequence
from typing import Final

import click

from dispatcher.commands.completing import complete_cluster_lists
from dispatcher.commands.dispatched_job import phase
from dispatcher.commands.durations import DURATION
from dispatcher.commands.management import ManagementCluster, connection_options, managed_by_option
from dispatcher.commands.manifests import files_option, read_manifests
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.submitting import Creator, check_clusters, is_batch, prepare

_REFUSED: Final = frozenset({403, 404})


@click.command()
@files_option
@click.option(
    "--clusters",
    metavar="NAME,NAME",
    shell_complete=complete_cluster_lists,
    help="Only on these worker clusters, evenly.",
)
@click.option("--wait", is_flag=True, help="Follow the Jobs to their end; the exit code is their result.")
@click.option(
    "--timeout",
    type=DURATION,
    default="0",
    show_default=True,
    metavar="DURATION",
    help="With --wait: longest wait, such as 2h; 0 for any.",
)
@managed_by_option
@connection_options
def submit(
    files: tuple[str, ...],
    clusters: str | None,
    wait: bool,
    timeout: float,
    managed_by: str,
    management: ManagementCluster,
) -> None:
    """Create what a file holds, with its Jobs dispatched.

    Sets spec.managedBy on every Job and CronJob. With --wait the exit code is 0 when all Jobs are complete, and 1
    when one has failed or was deleted; CronJobs have no end and are not waited for.

    \b
    Examples:
      kubectl dispatch submit -f pi.yaml
      kubectl dispatch submit -f pi.yaml --clusters worker-1,worker-2 --wait
      helm template charts/nightly | kubectl dispatch submit -f - --wait --timeout 2h
    """
    if timeout and not wait:
        raise click.UsageError("--timeout needs --wait")
    chosen = [name.strip() for name in clusters.split(",") if name.strip()] if clusters is not None else []
    if clusters is not None and not chosen:
        raise click.UsageError("--clusters names none")
    manifests = read_manifests(files)
    prepare(manifests, managed_by=managed_by, clusters=chosen)
    if chosen:
        _check(management, chosen)
    creator = Creator(management, namespace=management.namespace, only_namespace=management.named_namespace)
    for manifest in manifests:
        # Nothing is created when one of them cannot be.
        creator.locate(manifest)
    jobs: list[Manifest] = []
    for manifest in manifests:
        created, name = creator.create(manifest)
        click.echo(f"{name} created")
        if is_batch(manifest, "Job"):
            _check_kept(created, managed_by)
            jobs.append(created)
    if wait and jobs:
        from dispatcher.commands.following import follow_to_the_end

        _exit_with_the_result(follow_to_the_end(management, jobs, timeout=timeout, began=time.monotonic()))


def _check(management: ManagementCluster, clusters: Sequence[str]) -> None:
    try:
        known = [item["metadata"]["name"] for item in management.get_all(management.clusters_path())]
    except ClusterSaysNo as error:
        # Who may create Jobs need not be allowed to see the fleet; the Job itself says what is wrong then.
        if error.status not in _REFUSED:
            raise
        return
    check_clusters(clusters, known)


def _check_kept(created: Manifest, managed_by: str) -> None:
    if created["spec"].get("managedBy") != managed_by:
        raise ClusterSaysNo(
            f"the API server has dropped spec.managedBy of Job {created['metadata']['name']}: it runs on the "
            "management cluster; Kubernetes 1.32 or newer is needed, with the feature JobManagedBy on"
        )


def _exit_with_the_result(ended: Sequence[tuple[Manifest, str]]) -> None:
    bad = False
    for job, why in ended:
        metadata = job["metadata"]
        result = phase(job)
        if result == "Complete":
            click.echo(f"job.batch/{metadata['name']} complete")
            continue
        bad = True
        end = "failed" if result == "Failed" else "has no result"
        click.echo(f"job.batch/{metadata['name']} {end}{f': {why}' if why else ''}", err=True)
    if bad:
        raise SystemExit(1)
