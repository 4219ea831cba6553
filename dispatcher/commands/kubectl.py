"""``kubectl-dispatch``, which kubectl runs as ``kubectl dispatch``."""

from collections.abc import Callable
from typing import Any, Final

import click

from dispatcher import __version__
from dispatcher.commands.management import CONNECTION_OPTIONS
from dispatcher.commands.verbs import Verbs

COMPLETE_VARIABLE: Final = "_KUBECTL_DISPATCH_COMPLETE"
"""By it a completion script asks for candidates."""


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(CONNECTION_OPTIONS):
        command = option(command)
    return command


@click.group(
    cls=Verbs,
    verbs={
        "get": "List the Jobs that are dispatched, and where their shares are.",
        "describe": "Show a Job's shares, conditions and recent Events.",
        "explain": "Show why a Job is where it is, or why it waits.",
        "plan": "Show how a file's Jobs would be divided now, without creating anything.",
        "pods": "List the pods of a Job on all clusters.",
        "logs": "Print the logs of a Job's pods on all clusters.",
        "clusters": "List the worker clusters and how they are.",
        "cordon": "Give a worker cluster no new work; what is there goes on.",
        "uncordon": "Give a worker cluster new work again, after cordon or drain.",
        "drain": "Take the work off a worker cluster, and wait until none is left.",
        "join": "Register a worker cluster.",
        "unjoin": "Take a worker cluster out.",
        "rotate": "Give a worker cluster's registration a new token.",
        "forget": "Give up a dead worker cluster; its work counts as lost.",
        "release": "Let go of Jobs whose dispatcher is gone for good.",
        "top": "Show clusters and Jobs on a live screen, until Ctrl-C.",
        "submit": "Create what a file holds, with its Jobs dispatched.",
        "completion": "Print a completion script for a shell.",
        "version": "Print the versions of command, server and dispatcher.",
    },
    modules={"version": "plugin_version", "plan": "preview"},
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="kubectl dispatch")
@_with_options
def commands(**given: Any) -> None:
    """Look at Jobs that run split over several clusters, and at the clusters.

    Speaks to the management cluster alone, with your own rights. Options that stand before the verb hold for it
    as those behind it do.

    Exit codes: 0 done, 1 the cluster said no, 2 wrong usage.
    """
    context = click.get_current_context()
    named = {name: value for name, value in given.items() if value is not None}
    group = context.command
    assert isinstance(group, Verbs)
    context.default_map = dict.fromkeys(group.verbs, named)


def main() -> None:
    """The console script. Exit codes: 0 done, 1 the cluster said no, 2 wrong usage."""
    commands(prog_name="kubectl dispatch", complete_var=COMPLETE_VARIABLE)
