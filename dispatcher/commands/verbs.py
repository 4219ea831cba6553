"""A command group that imports a verb when it is called: the start stays quick, and help needs no cluster."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click


class Verbs(click.Group):
    """A group whose verbs live in ``dispatcher.commands.<verb>``, each as a click command of the same name."""

    def __init__(self, *args: Any, verbs: Mapping[str, str], **kwargs: Any) -> None:
        """``verbs``: by name, one line of what it does; listed in this order."""
        super().__init__(*args, **kwargs)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> Sequence[str]:  # type: ignore[override]
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"dispatcher.commands.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))
