"""``kubectl dispatch pods``: the pods of a Job's mirrors on all clusters."""

from datetime import UTC, datetime
from typing import Final

import click

from dispatcher.commands import colours
from dispatcher.commands.completing import complete_jobs
from dispatcher.commands.job_name import JOB_NAME
from dispatcher.commands.management import ManagementCluster, connection_options, no_headers_option
from dispatcher.commands.output import document
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.table import age, format_table
from dispatcher.commands.view_api import explained, view_path
from dispatcher.core.names import PREFIX

HEADERS: Final = ("CLUSTER", "NAME", "INDEX", "PHASE", "REASON", "NODE", "RESTARTS", "AGE")


@click.command()
@click.argument("job", type=JOB_NAME, shell_complete=complete_jobs)
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="The pods as objects.")
@no_headers_option
@connection_options
def pods(job: str, output: str | None, no_headers: bool, management: ManagementCluster) -> None:
    """List the pods of a Job on all clusters.

    They are read through the management API server, with your own rights: list on pods in the namespace, and get on
    jobs/pods of view.jobdispatcher.io. A cluster that is away is named as a warning.

    \b
    Examples:
      kubectl dispatch pods render
      kubectl dispatch pods render -n team --no-headers
      kubectl dispatch pods render -o json
    """
    try:
        found = management.get(view_path(management, job, "pods")).get("items") or []
    except ClusterSaysNo as error:
        raise explained(management, error) from None
    if output:
        click.echo(document(found, api_version="v1", kind="Pod", single=False, form=output))
        return
    if not found:
        click.echo(f"Job {management.namespace}/{job} has no pods.", err=True)
        return
    now = datetime.now(UTC)
    rows = [pod_row(pod, now) for pod in found]
    coloured = colours.are_wanted()
    click.echo(format_table(HEADERS, rows, with_headers=not no_headers, coloured=coloured), color=coloured)


def pod_row(pod: Manifest, now: datetime) -> list[str]:
    """One pod as a row."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    phase = "Terminating" if metadata.get("deletionTimestamp") else status.get("phase") or "Unknown"
    containers = status.get("containerStatuses") or []
    return [
        annotations.get(f"{PREFIX}cluster", ""),
        metadata["name"],
        annotations.get("batch.kubernetes.io/job-completion-index", "-"),
        phase,
        _reason(status) or "-",
        (pod.get("spec") or {}).get("nodeName") or "-",
        str(sum(entry.get("restartCount") or 0 for entry in containers)),
        age(metadata.get("creationTimestamp"), now),
    ]


def _reason(status: Manifest) -> str:
    """Why the pod is as it is: its own reason, else that of the first container which waits or has failed."""
    if status.get("reason"):
        return str(status["reason"])
    for kind in ("initContainerStatuses", "containerStatuses"):
        for entry in status.get(kind) or ():
            state = entry.get("state") or {}
            if "waiting" in state:
                return str(state["waiting"].get("reason") or "Waiting")
            ended = state.get("terminated") or {}
            if ended.get("exitCode"):
                return str(ended.get("reason") or f"ExitCode:{ended['exitCode']}")
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("reason") or "")
    return ""
