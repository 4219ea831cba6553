"""``kubectl dispatch completion``: scripts for shells, and the answers behind TAB."""

import sys
from typing import Final

import click

_PROGRAM: Final = "kubectl-dispatch"
_NO_FILES: Final = 4
_DEFAULT: Final = 0
"""Directives of cobra, the library of kubectl: 4 means that no files are offered, 0 that they may be."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for a shell.

    It offers verbs, options, and the names of Jobs, worker clusters and namespaces. For "kubectl dispatch" itself
    kubectl's own completion asks the command kubectl_complete-dispatch, which is installed beside kubectl-dispatch:
    with kubectl's completion loaded nothing more is to be done.

    \b
    Examples:
      source <(kubectl dispatch completion bash)
      kubectl dispatch completion zsh > "${fpath[1]}/_kubectl-dispatch"
      kubectl dispatch completion fish > ~/.config/fish/completions/kubectl-dispatch.fish
    """
    from click.shell_completion import get_completion_class

    from dispatcher.commands.kubectl import COMPLETE_VARIABLE, commands

    found = get_completion_class(shell)
    assert found is not None, shell
    click.echo(found(commands, {}, _PROGRAM, COMPLETE_VARIABLE).source())


def main() -> None:
    """``kubectl_complete-dispatch``, by kubectl's convention for plugins.

    Its arguments are the words behind ``kubectl dispatch``, the last one to be completed and perhaps empty. It
    prints one candidate a line, with a tab and a description where there is one, and at last a directive.
    """
    from click.shell_completion import ShellComplete

    from dispatcher.commands.kubectl import COMPLETE_VARIABLE, commands

    *words, incomplete = sys.argv[1:] or [""]
    completer = ShellComplete(commands, {}, "kubectl dispatch", COMPLETE_VARIABLE)
    items = completer.get_completions(words, incomplete)
    for item in items:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
    files = any(item.type in ("file", "dir") for item in items)
    click.echo(f":{_DEFAULT if files else _NO_FILES}")
