"""``job-dispatcher run``: the controller itself."""

from datetime import timedelta

import click

from dispatcher.core import names


@click.command(context_settings={"auto_envvar_prefix": "JOB_DISPATCHER", "show_default": True})
@click.option(
    "--kubeconfig", type=click.Path(), help="Kubeconfig of the management cluster (default: in-cluster)."
)
@click.option(
    "--managed-by",
    default=names.DEFAULT_MANAGED_BY,
    show_default=True,
    help="The spec.managedBy value of the Jobs to dispatch.",
)
@click.option(
    "--namespace", default="job-dispatcher", show_default=True, help="Namespace of the kubeconfig Secrets."
)
@click.option(
    "--metrics-address",
    default="127.0.0.1:8080",
    show_default=True,
    help="host:port of /metrics, /healthz and /readyz; empty for none.",
)
@click.option(
    "--metrics-authentication",
    is_flag=True,
    help="Ask the management cluster who may read /metrics (TokenReview, SubjectAccessReview).",
)
@click.option("--metrics-tls-certificate", default="", metavar="FILE", help="Serve that address with TLS.")
@click.option("--metrics-tls-key", default="", metavar="FILE", help="The key of that certificate.")
@click.option(
    "--settle-timeout", default=10.0, show_default=True, help="Seconds to wait for clusters at start."
)
@click.option(
    "--deletion-give-up-after",
    default=300.0,
    show_default=True,
    help="Seconds after which a cluster that is away no longer holds a deleted Job.",
)
@click.option(
    "--orphan-interval",
    type=click.FloatRange(min=0.1),
    default=20.0,
    show_default=True,
    help="Seconds between two looks for mirrors whose Job is gone.",
)
@click.option(
    "--worker-memory-limit",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="MiB that the mirrors of one worker cluster may take in memory (about 4 KiB each); one that shows more is not "
    "used.",
)
@click.option("--concurrency", default=32, show_default=True, help="Jobs worked on at once.")
@click.option(
    "--token-renewal",
    is_flag=True,
    help="Renew workers' tokens at half their life, in Secrets that `kubectl dispatch join` made.",
)
@click.option(
    "--priority-order",
    is_flag=True,
    help="Read the management cluster's PriorityClasses: Jobs that wait for room are served by them.",
)
@click.option(
    "--leader-elect",
    is_flag=True,
    help="Act only while holding a Lease in that namespace, so that several replicas can run.",
)
@click.option(
    "--leader-elect-lease-duration",
    default=10.0,
    help="Seconds after which a leader that says nothing has lost.",
)
@click.option(
    "--leader-elect-renew-deadline",
    default=7.0,
    help="Seconds after its last renewal from which a leader writes nothing more.",
)
@click.option(
    "--leader-elect-retry-period", default=1.0, help="Seconds between two looks at the Lease, and renewals."
)
@click.option(
    "--shards",
    default=1,
    help="Leases over which Jobs are divided, so that several replicas act; needs --leader-elect.",
)
@click.option(
    "--view-address",
    default="",
    metavar="HOST:PORT",
    help="Serve the aggregated API view.jobdispatcher.io (pods and logs of workers) there; empty for none.",
)
@click.option(
    "--view-service", default="job-dispatcher-view", show_default=True, help="Name of that API's Service."
)
@click.option("--allow-insecure-kubeconfigs", is_flag=True, help="Accept insecure-skip-tls-verify.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def run(
    kubeconfig: str | None,
    managed_by: str,
    namespace: str,
    metrics_address: str,
    metrics_authentication: bool,
    metrics_tls_certificate: str,
    metrics_tls_key: str,
    settle_timeout: float,
    deletion_give_up_after: float,
    orphan_interval: float,
    worker_memory_limit: int,
    concurrency: int,
    token_renewal: bool,
    priority_order: bool,
    leader_elect: bool,
    leader_elect_lease_duration: float,
    leader_elect_renew_deadline: float,
    leader_elect_retry_period: float,
    shards: int,
    view_address: str,
    view_service: str,
    allow_insecure_kubeconfigs: bool,
    log_level: str,
    log_format: str,
) -> None:
    """Run the controller until SIGTERM.

    Each option can also be given by an environment variable: --managed-by by JOB_DISPATCHER_MANAGED_BY.
    """
    from dispatcher.clusters.kubeconfig import KubeconfigError
    from dispatcher.operator import endpoints, logs, process
    from dispatcher.operator.lease_times import LeaseTimes
    from dispatcher.operator.leases import LeaseLost
    from dispatcher.operator.settings import Settings, SettingsError

    logs.configure(log_level, log_format)
    try:
        if metrics_address:
            endpoints.split_address(metrics_address)
        if view_address:
            endpoints.split_address(view_address)
        settings = Settings(
            kubeconfig=kubeconfig,
            managed_by=managed_by,
            namespace=namespace,
            metrics_address=metrics_address,
            metrics_authentication=metrics_authentication,
            metrics_tls_certificate=metrics_tls_certificate,
            metrics_tls_key=metrics_tls_key,
            settle_timeout=settle_timeout,
            deletion_give_up_after=timedelta(seconds=deletion_give_up_after),
            orphan_interval=orphan_interval,
            worker_memory_limit=worker_memory_limit,
            concurrency=concurrency,
            token_renewal=token_renewal,
            priority_order=priority_order,
            leader_elect=leader_elect,
            lease_times=LeaseTimes(
                leader_elect_lease_duration, leader_elect_renew_deadline, leader_elect_retry_period
            ),
            shards=shards,
            view_address=view_address,
            view_service=view_service,
            allow_insecure_kubeconfigs=allow_insecure_kubeconfigs,
            log_level=log_level,
            log_format=log_format,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        process.run(settings)
    except (SettingsError, KubeconfigError, LeaseLost) as error:
        raise click.ClickException(str(error)) from None
