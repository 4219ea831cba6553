"""``kubectl dispatch join``: a worker cluster gets the dispatcher's account, and is registered."""

from typing import Any

import click

from dispatcher.commands import joining, worker_account
from dispatcher.commands.account_ownership import is_ours
from dispatcher.commands.job_events import VIEW
from dispatcher.commands.joining import WorkerAdministrator
from dispatcher.commands.management import WORKER_CLUSTERS, ManagementCluster
from dispatcher.commands.output import formatted
from dispatcher.commands.refusals import ClusterSaysNo, Manifest


def _labels(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        found[key] = text
    return found


@click.command()
@click.argument("name")
@joining.joining_options
@click.option(
    "--worker-server",
    metavar="URL",
    help="Address of the worker's API server as the dispatcher reaches it (default: the context's).",
)
@click.option(
    "--existing-account", is_flag=True, help="The account is there (by chart or manifest): make none."
)
@click.option(
    "--view/--no-view",
    default=None,
    help="Let the dispatcher read pods, their logs and Events there, for `pods` and `logs`.  [default: if the "
    "management cluster serves view.jobdispatcher.io]",
)
@click.option(
    "--label", "labels", multiple=True, callback=_labels, metavar="KEY=VALUE", help="Label of the cluster."
)
@click.option(
    "--weight", type=click.IntRange(0, 1_000_000), help="Its share of the work, compared with others."
)
@joining.token_duration_option
@joining.timeout_option
@click.option(
    "--dry-run",
    is_flag=False,
    flag_value="client",
    type=click.Choice(["client"]),
    help="Only show what would be made; asks no cluster.",
)
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), help="With --dry-run: the objects.")
@click.option(
    "--only",
    type=click.Choice(["worker", "management"]),
    help="With --dry-run: the objects of one side.",
)
def join(
    name: str,
    management: ManagementCluster,
    worker: WorkerAdministrator | None,
    existing_account: bool,
    view: bool | None,
    labels: dict[str, str],
    weight: int | None,
    token_duration: float,
    timeout: float,
    dry_run: str | None,
    output: str | None,
    only: str | None,
) -> None:
    """Register a worker cluster.

    Makes the dispatcher's account on the worker with the few rights it needs, puts a kubeconfig with a token of it into
    a Secret, makes the WorkerCluster, and waits until it is Ready. May be run again at any time. An account that a
    chart or somebody else keeps is used as it is, with the rights that it has there.

    For GitOps, keep what `--dry-run -o yaml` shows; the Secret in it has no data, which `kubectl dispatch rotate` puts
    in and the dispatcher renews.

    \b
    Examples:
      kubectl dispatch join worker-1 --worker-context berlin
      kubectl dispatch join worker-1 --worker-context berlin --label region=eu --weight 3
      kubectl dispatch join worker-1 --worker-context berlin --dry-run -o yaml
    """
    if worker is None:
        raise click.UsageError("which cluster? give --worker-context NAME")
    if (output or only) and not dry_run:
        raise click.UsageError("-o and --only go with --dry-run")
    if existing_account and view is not None:
        raise click.UsageError("--view is about the account that --existing-account leaves as it is")
    registration = registration_manifest(name, labels=labels, weight=weight)
    if dry_run:
        worker_objects = [] if existing_account else worker.account_objects(_features(view))
        secret = joining.secret_manifest(name, management.namespace, None)
        _show(worker_objects, [secret, registration], output=output, only=only)
        return
    _check(management, worker, name)
    worker.kubeconfig(name, "")  # refusals before anything is made
    worker.warn_of_loopback()
    if not existing_account:
        asked_for = view is not None
        if view is None:
            view = _serves_view(management)
        if manager := worker.make_account(_features(view)):
            if asked_for:
                raise ClusterSaysNo(
                    f"account {worker.namespace}/{worker.account} on the worker is kept by {manager}: its rights are "
                    "set there (view.enabled of the chart job-dispatcher-worker), not by --view or --no-view"
                )
            click.echo(
                f"account {worker.namespace}/{worker.account} on the worker cluster is kept by {manager}: used as it is"
            )
        else:
            reads = ", and may read pods, logs and Events there" if view else ""
            click.echo(f"account {worker.namespace}/{worker.account} is on the worker cluster{reads}")
    kubeconfig = worker.kubeconfig(name, worker.new_token(token_duration))
    secret = joining.secret_manifest(name, management.namespace, kubeconfig)
    management.apply(joining.object_path(secret), secret)
    click.echo(f"secret/{name} in namespace {management.namespace} holds its kubeconfig")
    management.apply(joining.object_path(registration), registration)
    click.echo(f"workercluster.jobdispatcher.io/{name} joined")
    if timeout:
        cluster = joining.wait_until_ready(management, name, timeout)
        version = (cluster.get("status") or {}).get("serverVersion", "")
        click.echo(f"workercluster.jobdispatcher.io/{name} is ready ({version})")


def _serves_view(management: ManagementCluster) -> bool:
    try:
        return management.find(f"/apis/{VIEW}") is not None
    except ClusterSaysNo as error:
        return error.status == 503  # registered, and its server is away


def _features(view: bool | None) -> tuple[str, ...]:
    return (*worker_account.FEATURES, *([worker_account.VIEW] if view else []))


def registration_manifest(name: str, *, labels: dict[str, str], weight: int | None) -> Manifest:
    """The WorkerCluster."""
    metadata: Manifest = {"name": name, **({"labels": labels} if labels else {})}
    spec: Manifest = {"kubeconfigSecretRef": {"name": name}, **({} if weight is None else {"weight": weight})}
    return {"apiVersion": WORKER_CLUSTERS, "kind": "WorkerCluster", "metadata": metadata, "spec": spec}


def _check(management: ManagementCluster, worker: WorkerAdministrator, name: str) -> None:
    """Refuse what the dispatcher would refuse, before anything is made."""
    joining.require_crds(management)
    uid = worker.uid()
    if uid == joining.cluster_uid(management):
        raise ClusterSaysNo(
            "the worker's context leads to the management cluster itself: give another, or make a WorkerCluster with "
            "spec.local: true (chart value localCluster.enabled)"
        )
    for cluster in management.get_all(management.clusters_path()):
        known, other = (cluster.get("status") or {}).get("clusterUID"), cluster["metadata"]["name"]
        if other == name and known and known != uid:
            raise ClusterSaysNo(
                f"WorkerCluster {name} is another cluster (UID {known}, not {uid}): choose another name, or "
                f"`kubectl dispatch unjoin {name}` first"
            )
        if other != name and known == uid:
            raise ClusterSaysNo(f"this cluster is joined already, as WorkerCluster {other}")
    secret = joining.read_secret(management, name)
    if secret is not None and not is_ours(secret):
        raise ClusterSaysNo(
            f"Secret {management.namespace}/{name} was not made by `kubectl dispatch join`: choose another name, or "
            "delete it"
        )


def _show(
    worker: list[Manifest], management: list[Manifest], *, output: str | None, only: str | None
) -> None:
    sides = {"worker": worker, "management": management}
    chosen: dict[str, Any] = {
        side: objects for side, objects in sides.items() if only in (None, side) and objects
    }
    if output == "json":
        items = [it for objects in chosen.values() for it in objects]
        click.echo(formatted({"apiVersion": "v1", "kind": "List", "items": items}, "json"))
        return
    for side, objects in chosen.items():
        for manifest in objects:
            if output == "yaml":
                click.echo(f"---\n# {side} cluster\n{formatted(manifest, 'yaml')}")
            else:
                metadata = manifest["metadata"]
                where = f" in namespace {metadata['namespace']}" if "namespace" in metadata else ""
                click.echo(f"{side} cluster: {manifest['kind']} {metadata['name']}{where} (dry run)")
