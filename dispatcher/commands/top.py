"""``kubectl dispatch top``: clusters and Jobs, live."""

import sys
import time
from datetime import UTC, datetime

import click

from dispatcher.commands.management import (
    ManagementCluster,
    all_namespaces_option,
    connection_options,
    managed_by_option,
    selector_option,
)
from dispatcher.commands.refusals import ClusterSaysNo
from dispatcher.commands.watching import Followed


@click.command()
@all_namespaces_option
@selector_option
@managed_by_option
@connection_options
def top(all_namespaces: bool, selector: str | None, managed_by: str, management: ManagementCluster) -> None:
    """Show clusters and Jobs on a live screen, until Ctrl-C.

    Jobs that run come first, then those that wait, then the others, the newest first. Anywhere but on a terminal
    it prints once and ends. Without the right to see the clusters only Jobs are shown, and the other way round.

    \b
    Examples:
      kubectl dispatch top
      kubectl dispatch top -A
      kubectl dispatch top -A | head
    """
    from rich.console import Console

    from dispatcher.commands.live import show_live
    from dispatcher.commands.top_screen import Screen

    parameters = {"labelSelector": selector} if selector else {}
    sources = {
        "clusters": Followed(management, management.clusters_path()),
        "jobs": Followed(management, management.jobs_path(all_namespaces=all_namespaces), parameters),
    }
    refused: dict[str, ClusterSaysNo] = {}
    for name, source in list(sources.items()):
        try:
            source.changes(None)
        except ClusterSaysNo as error:
            if error.status not in (403, 404):
                raise
            refused[name] = error
            del sources[name]
    if not sources:
        raise refused["jobs"]

    def screen() -> Screen:
        return Screen(
            clusters=list(sources["clusters"].objects.values()) if "clusters" in sources else None,
            jobs=[
                job
                for job in (sources["jobs"].objects.values() if "jobs" in sources else ())
                if job["spec"].get("managedBy") == managed_by
            ],
            notes=[error.in_kubectls_form() for error in refused.values()]
            + [f"{source.trouble}; trying again" for source in sources.values() if source.trouble],
            now=datetime.now(UTC),
            server=management.server,
            complete=all_namespaces and not selector and "jobs" in sources,
        )

    if not sys.stdout.isatty():
        Console(highlight=False, width=240).print(screen(), soft_wrap=True)
        return

    def take(seconds: float) -> bool:
        end = time.monotonic() + seconds
        changed = False
        for source in sources.values():
            changed |= source.take(max(0.01, (end - time.monotonic()) / len(sources)))
        return changed

    try:
        show_live(screen, take, whole_screen=True)
    except KeyboardInterrupt:
        # The way to end it, not a failure.
        return
