"""``kubectl dispatch version``: this command's release, the API server's and the dispatcher's."""

import click

from dispatcher import __version__
from dispatcher.commands.management import ManagementCluster, connection_options
from dispatcher.commands.output import formatted
from dispatcher.commands.refusals import ClusterSaysNo, Manifest

_DEPLOYMENT_LABEL = "app.kubernetes.io/name=job-dispatcher"
_VERSION_LABEL = "app.kubernetes.io/version"


@click.command()
@click.option("--client", is_flag=True, help="Only this command's version; no cluster is asked.")
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), help="Another form of output.")
@connection_options
def version(client: bool, output: str | None, management: ManagementCluster) -> None:
    """Print the versions of command, server and dispatcher.

    The dispatcher's is that of its Deployment, where there is one and it may be read.

    \b
    Examples:
      kubectl dispatch version
      kubectl dispatch version --client
    """
    found: dict[str, str] = {"clientVersion": __version__}
    failure: ClusterSaysNo | None = None
    unknown = ""
    if not client:
        try:
            found["serverVersion"] = str(management.get("/version").get("gitVersion") or "")
            found["dispatcherVersion"], unknown = _dispatcher(management)
        except ClusterSaysNo as error:
            failure = error
    if output:
        click.echo(formatted({key: value for key, value in found.items() if value}, output))
    else:
        click.echo(f"Client Version: {__version__}")
        if "serverVersion" in found:
            click.echo(f"Server Version: {found['serverVersion']}")
        if "dispatcherVersion" in found:
            click.echo(f"Dispatcher Version: {found['dispatcherVersion'] or f'unknown ({unknown})'}")
    if failure is not None:
        raise failure


def _dispatcher(management: ManagementCluster) -> tuple[str, str]:
    """The dispatcher's version, or why it is not known."""
    try:
        found = management.get_all("/apis/apps/v1/deployments", {"labelSelector": _DEPLOYMENT_LABEL})
    except ClusterSaysNo as error:
        return "", f"its Deployment cannot be read: {error.reason or error.message}"
    versions = sorted({text for deployment in found if (text := _version(deployment))})
    return ", ".join(versions), "" if versions else "it has no Deployment here"


def _version(deployment: Manifest) -> str:
    label = (deployment["metadata"].get("labels") or {}).get(_VERSION_LABEL)
    if label:
        return str(label)
    [container, *_] = deployment["spec"]["template"]["spec"]["containers"]
    return str(container.get("image") or "").rpartition(":")[2]
