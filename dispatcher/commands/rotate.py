"""``kubectl dispatch rotate``: a worker cluster's registration gets a new token."""

import click

from dispatcher.commands import joining
from dispatcher.commands.account_ownership import is_ours
from dispatcher.commands.completing import complete_clusters
from dispatcher.commands.connection import Connection, resource_path
from dispatcher.commands.joining import WorkerAdministrator
from dispatcher.commands.management import ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo, Manifest


@click.command()
@click.argument("name", shell_complete=complete_clusters)
@joining.joining_options
@click.option(
    "--worker-server",
    metavar="URL",
    help="Address of the worker's API server as the dispatcher reaches it (default: what is registered).",
)
@click.option(
    "--revoke", is_flag=True, help="Make all tokens of the account that were given out before invalid."
)
@joining.token_duration_option
@joining.timeout_option
def rotate(
    name: str,
    management: ManagementCluster,
    worker: WorkerAdministrator | None,
    revoke: bool,
    token_duration: float,
    timeout: float,
) -> None:
    """Give a worker cluster's registration a new token.

    Puts it into the Secret, and waits until the cluster is Ready. The dispatcher renews tokens by itself; this is for a
    token that was lost, has expired while no dispatcher ran, or is the first after GitOps made the objects. With
    --revoke the account is made anew, so that every older token ends.

    \b
    Examples:
      kubectl dispatch rotate worker-1 --worker-context berlin
      kubectl dispatch rotate worker-1 --worker-context berlin --revoke
    """
    if worker is None:
        raise click.UsageError("which cluster? give --worker-context NAME")
    cluster = joining.find_cluster(management, name)
    secret_name = joining.secret_name(cluster)
    if not secret_name:
        raise ClusterSaysNo(f"WorkerCluster {name} is local: it uses the dispatcher's own account")
    known, uid = (cluster.get("status") or {}).get("clusterUID"), worker.uid()
    if known and known != uid:
        raise ClusterSaysNo(
            f"the worker's context leads to another cluster (UID {uid}) than {name} (UID {known})"
        )
    secret = joining.read_secret(management, secret_name)
    if secret is not None and not is_ours(secret):
        raise ClusterSaysNo(
            f"Secret {management.namespace}/{secret_name} was not made by `kubectl dispatch join`: "
            "whoever made it has to renew it"
        )
    worker.use_server_of(secret)
    worker.kubeconfig(name, "")  # refusals before anything is made
    if revoke:
        _make_account_anew(worker)
    token = worker.new_token(token_duration)
    manifest = joining.secret_manifest(secret_name, management.namespace, worker.kubeconfig(name, token))
    management.apply(joining.object_path(manifest), manifest)
    revoked = ", and the older tokens are revoked" if revoke else ""
    click.echo(f"workercluster.jobdispatcher.io/{name} has a new token{revoked}")
    if timeout:
        joining.wait_until_ready(management, name, timeout)
        click.echo(f"workercluster.jobdispatcher.io/{name} is ready")


def _make_account_anew(worker: WorkerAdministrator) -> None:
    """Tokens are bound to the account's UID: with another account of the same name they are worth nothing."""
    path = resource_path("v1", "serviceaccounts", namespace=worker.namespace, name=worker.account)
    found = _existing(worker, path)
    worker.delete(path)
    keep = ("name", "namespace", "labels", "annotations")
    metadata = {key: value for key, value in found["metadata"].items() if key in keep}
    fields = ("automountServiceAccountToken", "imagePullSecrets")
    rest: Manifest = {key: found[key] for key in fields if key in found}
    again = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata, **rest}
    worker.create(resource_path("v1", "serviceaccounts", namespace=worker.namespace), again)


def _existing(worker: Connection, path: str) -> Manifest:
    found = worker.find(path)
    if found is None:
        raise ClusterSaysNo("the worker has no such account: `kubectl dispatch join` makes it")
    return found
