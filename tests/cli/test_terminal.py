"""What people see on a terminal: tables that change in place, colours, names behind TAB."""

import os
import subprocess
from pathlib import Path

import pytest

from hack.lab import Lab
from tests.cli.plugin import PROGRAM, Plugin, manifest

COLOUR = "\x1b[3"


@pytest.fixture
def job(plugin: Plugin) -> str:
    """A Job that is suspended."""
    plugin.ok("submit", "-f", "-", input=manifest("render", suspend=True))
    return "render"


def test_watching_in_place(plugin: Plugin, job: str, lab: Lab) -> None:
    session = plugin.on_a_terminal("get", "-w")
    session.read_until("Suspended")
    lab.management.api.delete(f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs/{job}")
    session.interrupt()
    assert session.end() == 130
    assert COLOUR in session.output


def test_top_fills_the_screen_and_gives_it_back(plugin: Plugin, job: str) -> None:
    session = plugin.on_a_terminal("top")
    session.read_until(job)
    session.interrupt()
    assert session.end() == 0
    assert "CLUSTER" in session.text
    assert "\x1b[?1049h" in session.output
    assert "\x1b[?1049l" in session.output


@pytest.mark.parametrize("verb", ["get", "describe"])
def test_colours_are_for_terminals_and_not_for_everybody(plugin: Plugin, job: str, verb: str) -> None:
    arguments = [verb, job]
    coloured = plugin.on_a_terminal(*arguments)
    assert coloured.end() == 0
    assert COLOUR in coloured.output
    plain = plugin.on_a_terminal(*arguments, environment={"NO_COLOR": "1"})
    assert plain.end() == 0
    assert "Suspended" in plain.output
    assert "\x1b" not in plain.output
    assert "\x1b" not in plugin.ok(*arguments)


def test_no_color_holds_on_live_screens(plugin: Plugin, job: str) -> None:
    session = plugin.on_a_terminal("get", "-w", environment={"NO_COLOR": "1"})
    session.read_until("Suspended")
    session.interrupt()
    session.end()
    assert COLOUR not in session.output


def test_a_pipe_that_closes_early(plugin: Plugin, job: str) -> None:
    command = f"{PROGRAM} get -A -o yaml | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command], env=plugin.environment(), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""


def complete(plugin: Plugin, *words: str) -> list[str]:
    """What kubectl's own completion offers for ``kubectl dispatch`` and these words."""
    program = PROGRAM.with_name("kubectl_complete-dispatch")
    place = ["-n", plugin.namespace or ""]
    done = subprocess.run(
        [str(program), *place, *words],
        env=plugin.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_names_behind_tab(plugin: Plugin, job: str) -> None:
    assert complete(plugin, "get", "") == [job, ":4"]
    assert complete(plugin, "describe", "re") == [job, ":4"]
    assert complete(plugin, "get", "x") == [":4"]
    assert complete(plugin, "cordon", "worker-1", "") == ["worker-2", "worker-3", ":4"]
    assert complete(plugin, "submit", "--clusters", "worker-1,") == [
        "worker-1,worker-2",
        "worker-1,worker-3",
        ":4",
    ]
    assert complete(plugin, "submit", "-f", "") == [":0"]
    assert [line.split("\t")[0] for line in complete(plugin, "dr")] == ["drain", ":4"]


def test_kubectl_asks_the_plugin(plugin: Plugin, job: str, lab: Lab) -> None:
    environment = plugin.environment(PATH=f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    kubectl = lab.folder / "bin" / "kubectl"
    command = [str(kubectl), "__complete", "dispatch", "-n", plugin.namespace or "", "get", ""]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == job


def test_the_script_for_bash(plugin: Plugin, job: str, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(plugin.ok("completion", "bash"))
    line = f"kubectl-dispatch -n {plugin.namespace} get "
    code = (
        f"source {script}; COMP_WORDS=({line} ''); COMP_CWORD=4; "
        '_kubectl_dispatch_completion kubectl-dispatch; echo "${COMPREPLY[@]}"'
    )
    environment = plugin.environment(PATH=f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(
        ["bash", "--norc", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [job], done


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_for_other_shells(plugin: Plugin, shell: str) -> None:
    said = plugin.ok("completion", shell)
    assert "_KUBECTL_DISPATCH_COMPLETE" in said
    assert f"{shell}_complete" in said
