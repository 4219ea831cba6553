"""``kubectl-dispatch``, which kubectl runs as ``kubectl dispatch``."""

import click

from dispatcher import __version__
from dispatcher.commands.verbs import Verbs


@click.group(
    cls=Verbs,
    verbs={
        "get": "List the Jobs that are dispatched, and where their shares are.",
        "describe": "Show a Job's shares, conditions and recent Events.",
        "clusters": "List the worker clusters and how they are.",
        "cordon": "Give a worker cluster no new work; what is there goes on.",
        "uncordon": "Give a worker cluster new work again, after cordon or drain.",
        "join": "Register a worker cluster.",
        "unjoin": "Take a worker cluster out.",
        "rotate": "Give a worker cluster's registration a new token.",
        "release": "Let go of Jobs whose dispatcher is gone for good.",
        "version": "Print the version.",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="kubectl dispatch")
def commands() -> None:
    """Look at Jobs that run split over several clusters."""


def main() -> None:
    """The console script. Exit codes: 0 done, 1 the cluster said no, 2 wrong usage."""
    commands(prog_name="kubectl dispatch")
