"""The management cluster and the options of every verb that talks to it."""

import functools
from collections.abc import Callable
from typing import Any, Final

import click

from dispatcher.commands.completing import complete_contexts, complete_namespaces
from dispatcher.commands.connection import Connection, resource_path
from dispatcher.commands.durations import DURATION
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.core.names import API_GROUP, API_VERSION, DEFAULT_MANAGED_BY

JOBS: Final = "batch/v1"
WORKER_CLUSTERS: Final = f"{API_GROUP}/{API_VERSION}"


class ManagementCluster(Connection):
    """The cluster that holds the Jobs and the WorkerClusters."""

    def __init__(self, *, namespace: str | None = None, **connection: Any) -> None:
        """``namespace``: the one that the user named, if any. ``connection``: as for Connection."""
        super().__init__(**connection)
        self.named_namespace = namespace

    @property
    def namespace(self) -> str:
        """The namespace to work in: the one that was named, else the context's."""
        return self.named_namespace or self.context_namespace

    def jobs_path(
        self, *, all_namespaces: bool = False, namespace: str | None = None, name: str | None = None
    ) -> str:
        """The path of the Jobs, or of one: in ``namespace``, or else the namespace to work in."""
        inside = None if all_namespaces else namespace or self.namespace
        return resource_path(JOBS, "jobs", namespace=inside, name=name)

    def clusters_path(self, name: str | None = None) -> str:
        """The path of the WorkerClusters, or of one."""
        return resource_path(WORKER_CLUSTERS, "workerclusters", name=name)

    def dispatched_job(self, name: str, managed_by: str) -> Manifest:
        """One Job.

        Raises:
            ClusterSaysNo: there is none, or it is not the dispatcher's.
        """
        job = self.get(self.jobs_path(name=name))
        owner = job["spec"].get("managedBy")
        if owner != managed_by:
            raise ClusterSaysNo(
                f"Job {self.namespace}/{name} is not dispatched: its spec.managedBy is "
                f"{owner or 'not set'}, not {managed_by}"
            )
        return job

    def dispatched_jobs(
        self, managed_by: str, *, all_namespaces: bool = False, selector: str | None = None
    ) -> list[Manifest]:
        """The dispatcher's Jobs. No field selector exists for spec.managedBy."""
        parameters = {"labelSelector": selector} if selector else {}
        jobs = self.get_all(self.jobs_path(all_namespaces=all_namespaces), parameters)
        return [job for job in jobs if job["spec"].get("managedBy") == managed_by]


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options -n, --kubeconfig, --context and --request-timeout; the verb gets them as ``management``."""

    @functools.wraps(command)
    def with_management(
        *arguments: Any,
        namespace: str | None,
        kubeconfig: str | None,
        context: str | None,
        request_timeout: float | None,
        **options: Any,
    ) -> Any:
        management = ManagementCluster(
            namespace=namespace, kubeconfig=kubeconfig, context=context, request_timeout=request_timeout
        )
        return command(*arguments, management=management, **options)

    for option in reversed(CONNECTION_OPTIONS):
        with_management = option(with_management)
    return with_management


CONNECTION_OPTIONS: Final = (
    click.option(
        "-n",
        "--namespace",
        metavar="NAME",
        shell_complete=complete_namespaces,
        help="Namespace (default: the context's).",
    ),
    click.option(
        "--kubeconfig",
        metavar="FILE",
        help="Kubeconfig of the management cluster (default: $KUBECONFIG, then ~/.kube/config).",
    ),
    click.option(
        "--context", metavar="NAME", shell_complete=complete_contexts, help="Context of the kubeconfig."
    ),
    click.option(
        "--request-timeout",
        type=DURATION,
        metavar="DURATION",
        help="Longest wait for an answer, such as 10s or 1m; 0 for any.",
    ),
)

managed_by_option: Final = click.option(
    "--managed-by",
    envvar="JOB_DISPATCHER_MANAGED_BY",
    default=DEFAULT_MANAGED_BY,
    show_default=True,
    metavar="VALUE",
    help="The spec.managedBy value of the dispatcher.",
)
selector_option: Final = click.option(
    "-l", "--selector", metavar="LABELS", help="Label selector, for example app=render,tier!=test."
)
no_headers_option: Final = click.option("--no-headers", is_flag=True, help="No line of column names.")
all_namespaces_option: Final = click.option(
    "-A", "--all-namespaces", is_flag=True, help="The Jobs of all namespaces."
)
