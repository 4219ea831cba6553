"""How the commands of this folder end: expected failures are one line on standard error, and an exit code."""

import sys
from collections.abc import Sequence

import click


def run(
    command: click.Command,
    *,
    failures: Sequence[type[Exception]],
    name: str,
    interrupted: str = "interrupted; everything was stopped",
) -> None:
    """Run a click command: exit code 1 after one of ``failures``, 2 for wrong usage, 130 when interrupted."""
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write(f"{name}: {interrupted}\n")
        raise SystemExit(130) from None
    except tuple(failures) as error:
        sys.stderr.write(f"{name}: {str(error) or type(error).__name__}\n")
        raise SystemExit(1) from None
