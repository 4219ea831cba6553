"""``job-dispatcher uninstall-check``: run by helm before it uninstalls; fails while Jobs need a dispatcher."""

import click

from dispatcher.commands import held_jobs
from dispatcher.commands.management import ManagementCluster, managed_by_option


@click.command("uninstall-check")
@managed_by_option
@click.option(
    "--kubeconfig", metavar="FILE", help="Kubeconfig (default: $KUBECONFIG, else the in-cluster account)."
)
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
def uninstall_check(managed_by: str, kubeconfig: str | None, context: str | None) -> None:
    """Say which Jobs only a running controller can finish.

    And what to do about them; exit code 1 while there are any. helm runs this before it uninstalls the chart.
    """
    management = ManagementCluster(kubeconfig=kubeconfig, context=context)
    jobs = held_jobs.held(management.dispatched_jobs(managed_by, all_namespaces=True))
    if jobs:
        click.echo(held_jobs.what_to_do(jobs, managed_by=managed_by))
        raise SystemExit(1)
    click.echo("no Job needs this dispatcher any more")
