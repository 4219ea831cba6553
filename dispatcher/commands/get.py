"""``kubectl dispatch get``: the Jobs that are dispatched, and where their shares are."""

import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

import click

from dispatcher.commands.management import ClusterSaysNo, ManagementCluster, Manifest, connection_options
from dispatcher.commands.table import format_table, short_duration
from dispatcher.core.job import parse_timestamp, read_conditions
from dispatcher.core.names import DEFAULT_MANAGED_BY, DISPATCHED, PLACEMENT_ANNOTATION
from dispatcher.core.placement import PlacementError, parse_placement

_COLUMNS: Final = ("NAME", "PHASE", "COMPLETIONS", "ACTIVE", "AGE", "SHARES")
_WIDE_COLUMNS: Final = ("FAILED", "MESSAGE")


@click.command()
@click.argument("job", required=False)
@click.option("-n", "--namespace", help="Namespace (default: the context's).")
@click.option("-A", "--all-namespaces", is_flag=True, help="The Jobs of all namespaces.")
@click.option("-l", "--selector", help="Label selector, for example app=render,tier!=test.")
@click.option(
    "--managed-by",
    envvar="JOB_DISPATCHER_MANAGED_BY",
    default=DEFAULT_MANAGED_BY,
    show_default=True,
    help="The spec.managedBy value of the dispatcher.",
)
@connection_options
@click.option("-o", "--output", type=click.Choice(["wide", "json", "yaml"]), help="Another form of output.")
@click.option("--no-headers", is_flag=True, help="No line of column names.")
def get(
    job: str | None,
    namespace: str | None,
    all_namespaces: bool,
    selector: str | None,
    managed_by: str,
    kubeconfig: str | None,
    context: str | None,
    output: str | None,
    no_headers: bool,
) -> None:
    """List the Jobs that are dispatched, and where their shares are.

    SHARES names each cluster with its succeeded pods and, where the Job has completions, its part of them.
    """
    if job and (all_namespaces or selector):
        raise click.UsageError("a Job is named within one namespace: leave out -A and -l, or the name")
    cluster = ManagementCluster(kubeconfig=kubeconfig, context=context)
    namespace = namespace or cluster.namespace
    path = (
        "/apis/batch/v1/jobs" if all_namespaces else f"/apis/batch/v1/namespaces/{quote(namespace, '')}/jobs"
    )
    if job:
        jobs = [cluster.get(f"{path}/{quote(job, '')}")]
        owner = jobs[0]["spec"].get("managedBy")
        if owner != managed_by:
            raise ClusterSaysNo(
                f"Job {namespace}/{job} is not dispatched: its spec.managedBy is "
                f"{owner or 'not set'}, not {managed_by}"
            )
    else:
        parameters = {"labelSelector": selector} if selector else {}
        # No field selector exists for spec.managedBy.
        jobs = [
            item for item in cluster.get_all(path, parameters) if item["spec"].get("managedBy") == managed_by
        ]
    if output in ("json", "yaml"):
        click.echo(_document(jobs, single=bool(job), form=output))
    elif jobs:
        now = datetime.now(UTC)
        headers, rows = table(jobs, now=now, with_namespace=all_namespaces, wide=output == "wide")
        click.echo(format_table(headers, rows, with_headers=not no_headers))
    else:
        where = "" if all_namespaces else f" in {namespace} namespace"
        click.echo(f"No dispatched Jobs found{where}.", err=True)


def table(
    jobs: Sequence[Manifest], *, now: datetime, with_namespace: bool = False, wide: bool = False
) -> tuple[list[str], list[list[str]]]:
    """The column names and one row for each Job."""
    headers = [*(["NAMESPACE"] if with_namespace else []), *_COLUMNS, *(_WIDE_COLUMNS if wide else [])]
    rows: list[list[str]] = []
    for job in jobs:
        status = job.get("status") or {}
        created = parse_timestamp(job["metadata"].get("creationTimestamp"))
        row = [job["metadata"]["namespace"]] if with_namespace else []
        row += [
            job["metadata"]["name"],
            phase(job),
            completions(job),
            str(status.get("active") or 0),
            short_duration(now - created) if created else "<unknown>",
            shares(job),
        ]
        if wide:
            row += [str(status.get("failed") or 0), message(job)]
        rows.append(row)
    return headers, rows


def phase(job: Manifest) -> str:
    """One word for where a Job is.

    ``Pending``: nobody looked at it yet. ``Waiting``: it cannot be dispatched now (``-o wide`` says why).
    """
    conditions = {kind: found.status for kind, found in read_conditions(job.get("status") or {}).items()}
    for terminal in ("Complete", "Failed"):
        if conditions.get(terminal) == "True":
            return terminal
    if job["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if job["spec"].get("suspend") or conditions.get("Suspended") == "True":
        return "Suspended"
    return {"True": "Running", "False": "Waiting"}.get(conditions.get(DISPATCHED, ""), "Pending")


def completions(job: Manifest) -> str:
    """Succeeded pods of the wanted, as ``kubectl get jobs`` shows them; ``0/1 of 3`` for a work queue."""
    spec, succeeded = job["spec"], (job.get("status") or {}).get("succeeded") or 0
    if spec.get("completions") is not None:
        return f"{succeeded}/{spec['completions']}"
    parallelism = spec.get("parallelism") or 0
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def shares(job: Manifest) -> str:
    """Each cluster's part, from the placement: ``worker-1:3/6,worker-2:2/4``; empty while there is none."""
    text = (job["metadata"].get("annotations") or {}).get(PLACEMENT_ANNOTATION)
    if not text:
        return ""
    try:
        placement = parse_placement(text)
    except PlacementError:
        return "<unreadable>"
    if placement.job_uid != job["metadata"].get("uid"):
        # Copied with the manifest of another Job: the dispatcher does not heed it either.
        return ""
    succeeded: Counter[str] = Counter()
    wanted: Counter[str] = Counter()
    for share in placement.shares:
        succeeded[share.cluster] += share.counts.succeeded
        wanted[share.cluster] += share.completions or 0
    for cluster, counts in placement.retired.items():
        succeeded[cluster] += counts.succeeded
        wanted[cluster] += counts.succeeded
    queue = job["spec"].get("completions") is None
    return ",".join(
        f"{cluster}:{succeeded[cluster]}" + ("" if queue else f"/{wanted[cluster]}")
        for cluster in sorted(succeeded)
    )


def message(job: Manifest) -> str:
    """Why the Job failed or waits; else what the Dispatched condition says."""
    conditions = read_conditions(job.get("status") or {})
    for kind in ("Failed", "FailureTarget", DISPATCHED):
        found = conditions.get(kind)
        if found is not None and (kind == DISPATCHED or found.status == "True"):
            return f"{found.reason}: {' '.join(found.message.split())}"
    return ""


def _document(jobs: Sequence[Manifest], *, single: bool, form: str) -> str:
    """The Jobs as kubectl prints objects: a List unless one was named, without managedFields."""
    items: list[Any] = []
    for job in jobs:
        metadata = {key: value for key, value in job["metadata"].items() if key != "managedFields"}
        items.append({"apiVersion": "batch/v1", "kind": "Job"} | job | {"metadata": metadata})
    document = (
        items[0]
        if single
        else {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items}
    )
    if form == "json":
        return json.dumps(document, indent=4)
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")
