"""What join, unjoin and rotate share: the worker as its administrator reaches it, its account and its registration."""

import base64
import functools
import ipaddress
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click

from dispatcher.commands.account_ownership import MANAGER, MANAGER_LABEL, lessened, look
from dispatcher.commands.completing import complete_contexts
from dispatcher.commands.connection import Connection, resource_path
from dispatcher.commands.durations import DURATION
from dispatcher.commands.management import CONNECTION_OPTIONS, WORKER_CLUSTERS, ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.worker_account import FEATURES, account_manifests
from dispatcher.commands.worker_clusters import ready_condition
from dispatcher.core.names import TOKEN_RENEWAL_ENABLED, TOKEN_RENEWAL_LABEL

NAMESPACE: Final = "job-dispatcher"
"""Of the dispatcher, and of its account on a worker, unless told otherwise."""
KEY: Final = "kubeconfig"
SHORTEST_TOKEN: Final = 600.0
"""Seconds; the API server refuses less."""
DEFAULT_TOKEN: Final = "168h"
_POLL_SECONDS: Final = 0.3

_PLURALS: Final = {
    "Namespace": "namespaces",
    "ServiceAccount": "serviceaccounts",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "Secret": "secrets",
    "WorkerCluster": "workerclusters",
}


def object_path(manifest: Manifest) -> str:
    """The path of one of the objects that these commands make."""
    metadata = manifest["metadata"]
    resource = _PLURALS[manifest["kind"]]
    return resource_path(
        manifest["apiVersion"], resource, namespace=metadata.get("namespace"), name=metadata["name"]
    )


class WorkerAdministrator(Connection):
    """A worker cluster with the rights of a person who may make accounts there."""

    def __init__(self, *, namespace: str, account: str, server: str | None = None, **connection: Any) -> None:
        """``server``: its address as the dispatcher reaches it, if that is another than the context's."""
        super().__init__(**connection)
        self.namespace = namespace
        self.account = account
        self._server_for_dispatcher = server

    @property
    def dispatcher_server(self) -> str:
        """Its address as the dispatcher will use it."""
        return (self._server_for_dispatcher or self.server).rstrip("/")

    def uid(self) -> str:
        """Which cluster it is: the UID of its kube-system namespace."""
        return cluster_uid(self)

    def make_account(self, features: Sequence[str] = FEATURES) -> str:
        """Namespace, ServiceAccount, roles and bindings: made, or brought in line if these commands made them.

        Returns who keeps the account, where that is somebody else: it is left as it is then. Empty: it is in line.
        Raises ClusterSaysNo where only a role or binding of its name is somebody else's.
        """
        objects = self.account_objects(features)
        found = look(self, {object_path(manifest): manifest for manifest in objects})
        if found.manager:
            return found.manager
        if lost := lessened(found.existing, objects):
            click.echo(
                f"Warning: the account on the worker had more rights and loses: {'; '.join(lost)}", err=True
            )
        for manifest in objects:
            self.apply(object_path(manifest), manifest)
        return ""

    def remove_account(self) -> str:
        """Delete what :meth:`make_account` makes, but for the namespace. Returns who keeps the account, where that is
        somebody else: it is left as it is then.
        """
        objects = {object_path(manifest): manifest for manifest in self.account_objects()}
        found = look(self, objects)
        if found.manager:
            return found.manager
        for path, manifest in reversed(objects.items()):
            if manifest["kind"] != "Namespace" and self.find(path) is not None:
                self.delete(path)
        return ""

    def account_objects(self, features: Sequence[str] = FEATURES) -> list[Manifest]:
        """What :meth:`make_account` applies. ``features``: whose rights (``worker_account``)."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        account = account_manifests(namespace=self.namespace, account=self.account, features=features)
        return [namespace, *account]

    def new_token(self, seconds: float) -> str:
        """A token of the account. Raises ClusterSaysNo; the server may give it a shorter life."""
        from dispatcher.clusters.account_token import request_body, request_path

        path = request_path(self.namespace, self.account)
        try:
            token: str = self.create(path, request_body(round(seconds)))["status"]["token"]
        except ClusterSaysNo as error:
            if error.status == 404:
                raise ClusterSaysNo(
                    f"the worker has no ServiceAccount {self.namespace}/{self.account}: leave out --existing-account "
                    "to have it made, or install the chart job-dispatcher-worker there"
                ) from None
            raise
        return token

    def kubeconfig(self, name: str, token: str) -> str:
        """A kubeconfig of the account, everything inline. Raises ClusterSaysNo for a context without TLS checks."""
        import yaml

        configuration = self._identity.configuration
        if not configuration.verify_ssl:
            raise ClusterSaysNo(
                "the worker's context skips TLS verification, which the dispatcher refuses: use a context with "
                "certificate-authority-data"
            )
        cluster = {"server": self.dispatcher_server}
        if configuration.ssl_ca_cert:
            authority = Path(configuration.ssl_ca_cert).read_bytes()
            cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
        if getattr(configuration, "tls_server_name", None):
            cluster["tls-server-name"] = configuration.tls_server_name
        if getattr(configuration, "proxy", None):
            cluster["proxy-url"] = configuration.proxy
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "current-context": name,
        }
        text: str = yaml.safe_dump(content, sort_keys=False)
        return text

    def use_server_of(self, secret: Manifest | None) -> None:
        """Keep the address that a Secret's kubeconfig has, unless another was asked for."""
        import yaml

        if self._server_for_dispatcher or secret is None:
            return
        try:
            raw = base64.b64decode((secret.get("data") or {})[KEY])
            [entry] = yaml.safe_load(raw)["clusters"]
            self._server_for_dispatcher = str(entry["cluster"]["server"])
        except (KeyError, TypeError, ValueError, yaml.YAMLError):
            return

    def warn_of_loopback(self) -> None:
        """Tell the person when the address means another machine to the dispatcher."""
        host = urllib.parse.urlsplit(self.dispatcher_server).hostname or ""
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = host == "localhost"
        if loopback:
            click.echo(
                f"Warning: {self.dispatcher_server} leads to this very machine; a dispatcher in a cluster needs "
                "another address: --worker-server URL",
                err=True,
            )


def cluster_uid(connection: Connection) -> str:
    """Which cluster it is: the UID of its kube-system namespace."""
    return str(connection.get(resource_path("v1", "namespaces", name="kube-system"))["metadata"]["uid"])


def secret_manifest(name: str, namespace: str, kubeconfig: str | None) -> Manifest:
    """The Secret of a registration; without data for None, to be filled by `rotate`."""
    labels = {MANAGER_LABEL: MANAGER, TOKEN_RENEWAL_LABEL: TOKEN_RENEWAL_ENABLED}
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "type": "Opaque",
    }
    if kubeconfig is not None:
        manifest["data"] = {KEY: base64.b64encode(kubeconfig.encode()).decode()}
    return manifest


def read_secret(management: ManagementCluster, name: str) -> Manifest | None:
    """A Secret in the dispatcher's namespace."""
    return management.find(resource_path("v1", "secrets", namespace=management.namespace, name=name))


def secret_name(cluster: Manifest) -> str:
    """The Secret that a WorkerCluster names; empty for a local one."""
    return str(((cluster.get("spec") or {}).get("kubeconfigSecretRef") or {}).get("name") or "")


def find_cluster(management: ManagementCluster, name: str) -> Manifest:
    """A WorkerCluster. Raises ClusterSaysNo where there is none, or where the CRDs are missing."""
    require_crds(management)
    return management.get(management.clusters_path(name))


def require_crds(management: ManagementCluster) -> None:
    """Raises ClusterSaysNo where the management cluster does not know WorkerClusters."""
    if management.find(f"/apis/{WORKER_CLUSTERS}") is None:
        raise ClusterSaysNo(
            f"{management.server} knows no WorkerClusters: install the chart job-dispatcher there, or give the "
            "management cluster by --context"
        )


def wait_until_ready(management: ManagementCluster, name: str, timeout: float) -> Manifest:
    """The WorkerCluster once it is Ready. Raises ClusterSaysNo with the last reason when it takes too long."""
    end = time.monotonic() + timeout
    while True:
        cluster = management.get(management.clusters_path(name))
        ready = ready_condition(cluster)
        current = ready.get("observedGeneration") == cluster["metadata"].get("generation")
        if ready.get("status") == "True" and current:
            return cluster
        if time.monotonic() >= end:
            break
        time.sleep(_POLL_SECONDS)
    if not ready or not current:
        raise ClusterSaysNo(
            f"no dispatcher has looked at WorkerCluster {name} in {timeout:g} s: is one running? "
            f"(kubectl -n {management.namespace} get deployments)"
        )
    raise ClusterSaysNo(
        f"WorkerCluster {name} is not ready after {timeout:g} s: {ready.get('reason')}: {ready.get('message')}"
    )


def joining_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of both clusters; the verb gets them as ``management`` and ``worker`` (None without --worker-context)."""

    @functools.wraps(command)
    def with_clusters(
        *arguments: Any,
        namespace: str,
        kubeconfig: str | None,
        context: str | None,
        request_timeout: float | None,
        worker_kubeconfig: str | None,
        worker_context: str | None,
        worker_namespace: str,
        worker_account: str,
        **options: Any,
    ) -> Any:
        management = ManagementCluster(
            namespace=namespace, kubeconfig=kubeconfig, context=context, request_timeout=request_timeout
        )
        worker = None
        if worker_context or worker_kubeconfig:
            worker = WorkerAdministrator(
                namespace=worker_namespace,
                account=worker_account,
                server=options.pop("worker_server", None),
                kubeconfig=worker_kubeconfig or kubeconfig,
                context=worker_context,
                request_timeout=request_timeout,
            )
        else:
            options.pop("worker_server", None)
        return command(*arguments, management=management, worker=worker, **options)

    for option in reversed((*_OPTIONS, *CONNECTION_OPTIONS[1:])):
        with_clusters = option(with_clusters)
    return with_clusters


_OPTIONS: Final = (
    click.option(
        "--worker-context",
        metavar="NAME",
        shell_complete=complete_contexts,
        help="Context of the worker cluster, with the right to make accounts there.",
    ),
    click.option(
        "--worker-kubeconfig",
        metavar="FILE",
        help="Kubeconfig that has that context (default: the same as for the management cluster).",
    ),
    click.option(
        "--worker-namespace",
        metavar="NAME",
        default=NAMESPACE,
        show_default=True,
        help="Namespace of the dispatcher's account on the worker cluster.",
    ),
    click.option(
        "--worker-account",
        metavar="NAME",
        default=NAMESPACE,
        show_default=True,
        help="Name of that account and its roles.",
    ),
    click.option(
        "-n",
        "--namespace",
        "--dispatcher-namespace",
        "namespace",
        metavar="NAME",
        default=NAMESPACE,
        show_default=True,
        help="Namespace of the dispatcher on the management cluster, where its Secrets are.",
    ),
)

timeout_option: Final = click.option(
    "--timeout",
    type=DURATION,
    default="60s",
    show_default=True,
    metavar="DURATION",
    help="Longest wait until the cluster is Ready; 0 for none at all.",
)


def check_token_duration(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Refuse what the API server would refuse."""
    if value < SHORTEST_TOKEN:
        raise click.BadParameter("a token lives for 10m at least")
    return value


token_duration_option: Final = click.option(
    "--token-duration",
    type=DURATION,
    default=DEFAULT_TOKEN,
    show_default=True,
    metavar="DURATION",
    callback=check_token_duration,
    help="Life of the token; the dispatcher renews it at half of that. The worker may give a shorter one.",
)
