"""What holds for both command lines as a whole."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from dispatcher import __version__
from dispatcher.commands import kubectl, main
from dispatcher.commands.verbs import Verbs

GROUPS = {"job-dispatcher": main.commands, "kubectl dispatch": kubectl.commands}
VERBS = [(group, verb) for group in GROUPS.values() for verb in group.list_commands(click.Context(group))]


@pytest.mark.parametrize(("group", "verb"), VERBS)
def test_the_listed_summary_is_the_verbs_own(group: Verbs, verb: str) -> None:
    command = group.get_command(click.Context(group), verb)
    assert command is not None
    assert command.name == verb
    assert command.help is not None
    assert command.help.splitlines()[0] == group.verbs[verb]


@pytest.mark.parametrize(("program", "group"), GROUPS.items())
@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_lists_every_verb(program: str, group: Verbs, arguments: list[str]) -> None:
    result = CliRunner().invoke(group, arguments, prog_name=program)
    assert f"Usage: {program} [OPTIONS] COMMAND" in result.output
    # Long ones are wrapped.
    printed = " ".join(result.output.split())
    assert all(summary in printed for summary in group.verbs.values())
    assert result.exit_code == (0 if arguments else 2)


def test_usage_speaks_of_kubectl() -> None:
    result = CliRunner().invoke(kubectl.commands, ["get", "--nonsense"], prog_name="kubectl dispatch")
    assert result.exit_code == 2
    assert "Usage: kubectl dispatch get [OPTIONS] [JOB]" in result.stderr


@pytest.mark.parametrize(
    ("group", "arguments", "expected"),
    [
        (main.commands, ["version"], f"{__version__}\n"),
        (kubectl.commands, ["version", "--client"], f"Client Version: {__version__}\n"),
    ],
)
def test_version(group: Verbs, arguments: list[str], expected: str) -> None:
    assert CliRunner().invoke(group, arguments).stdout == expected
    assert __version__ in CliRunner().invoke(group, ["--version"]).stdout


def test_an_unknown_verb_is_wrong_usage() -> None:
    result = CliRunner().invoke(main.commands, ["paln"])
    assert result.exit_code == 2
    assert "No such command 'paln'" in result.stderr


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("main", "--help"), ("main", "plan --help"), ("kubectl", "--help"), ("kubectl", "get --help")],
)
def test_the_start_loads_no_client(module: str, arguments: str) -> None:
    """The cause of a slow start, rather than its time, which depends on the machine."""
    code = (
        f"import sys; sys.argv[1:] = {arguments.split()!r}\n"
        f"from dispatcher.commands.{module} import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "heavy = {'kopf', 'kubernetes', 'aiohttp', 'asyncio', 'prometheus_client', 'yaml', 'rich'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or None)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.returncode == 0
