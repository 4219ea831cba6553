"""A command group that imports a verb when it is called: the start stays quick, and help needs no cluster."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click


class Verbs(click.Group):
    """A group whose verbs live in ``dispatcher.commands.<verb>``, each as a click command of the same name."""

    def __init__(
        self,
        *args: Any,
        verbs: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """``verbs``: by name, one line of what it does; listed in this order.

        ``modules``: the module of a verb that has not got its name.
        """
        super().__init__(*args, **kwargs)
        self.verbs = verbs
        self.modules = modules or {}

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb. Ctrl-C ends it silently with 130, as it ends kubectl."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(130)

    def list_commands(self, ctx: click.Context) -> Sequence[str]:  # type: ignore[override]
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.verbs:
            return None
        name = cmd_name.replace("-", "_")
        module = self.modules.get(cmd_name, name)
        command = getattr(import_module(f"dispatcher.commands.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.verbs.items()))
