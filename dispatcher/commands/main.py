"""``job-dispatcher``: the controller, and what needs no cluster."""

import click

from dispatcher import __version__
from dispatcher.commands.verbs import Verbs


@click.group(
    cls=Verbs,
    verbs={
        "run": "Run the controller until SIGTERM.",
        "plan": "Show how a number of replicas is divided over clusters.",
        "uninstall-check": "Say which Jobs only a running controller can finish.",
        "version": "Print the version.",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="job-dispatcher")
def commands() -> None:
    """Run one Kubernetes Job split over several clusters."""


def main() -> None:
    """The console script. Exit codes: 0 done, 1 the cluster said no, 2 wrong usage."""
    commands(prog_name="job-dispatcher")
