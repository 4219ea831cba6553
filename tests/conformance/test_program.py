"""A scenario's script as a program of sh: it does what the lab's make-believe kubelet does for the same script."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from hack.conformance import scenario
from hack.conformance.program import can_play, depends_on_kubelet, program_of
from hack.lab.scripter.script import SCRIPT, TERMINATION, Script, parse

WAIT_SECONDS = 60.0


def script_of(entries: list[dict[str, Any]], termination: dict[str, Any] | None = None) -> Script:
    return parse({SCRIPT: json.dumps(entries), TERMINATION: json.dumps(termination or {})})


def start(
    script: Script, folder: Path, *, index: int | None = None, pod: str = "p"
) -> subprocess.Popen[bytes]:
    environment = {"PATH": "/usr/bin:/bin", "POD": pod}
    if index is not None:
        environment["JOB_COMPLETION_INDEX"] = str(index)
    program = program_of(script, scenario="one", folder=str(folder))
    return subprocess.Popen(["sh", "-uc", program], env=environment)


@pytest.mark.parametrize("index", [None, *range(5)])
def test_each_try_ends_as_in_the_script(tmp_path: Path, index: int | None) -> None:
    script = script_of(
        [{"index": "1-2", "try": "0", "exit": 7}, {"index": "2-3", "exit": 9}, {"try": "2-", "exit": 4}]
    )
    for attempt in range(4):
        ended = start(script, tmp_path, index=index).wait(WAIT_SECONDS)
        assert ended == script.outcome(index=index, attempt=attempt, nth=0).exit


def test_without_a_script_it_ends_well(tmp_path: Path) -> None:
    assert start(script_of([]), tmp_path).wait(WAIT_SECONDS) == 0


def test_it_runs_as_long_as_it_should(tmp_path: Path) -> None:
    begin = time.monotonic()
    assert start(script_of([{"after": "1s", "exit": 3}]), tmp_path).wait(WAIT_SECONDS) == 3
    assert time.monotonic() - begin >= 1.0


def test_a_step_ends_one_that_never_ends(tmp_path: Path) -> None:
    process = start(script_of([{"exit": None}]), tmp_path, pod="pod-1")
    other = start(script_of([{"exit": None}]), tmp_path, pod="pod-2")
    (tmp_path / "told-pod-1").write_text("42\n")
    assert process.wait(WAIT_SECONDS) == 42
    assert other.poll() is None
    other.kill()
    other.wait(WAIT_SECONDS)


@pytest.mark.parametrize(
    ("termination", "after", "code"), [({}, 0.0, 143), ({"after": "1s", "exit": 0}, 1.0, 0)]
)
def test_it_takes_its_time_to_end(
    tmp_path: Path, termination: dict[str, Any], after: float, code: int
) -> None:
    process = start(script_of([{"exit": None}], termination), tmp_path)
    while not (tmp_path / "one" / "none-0").exists():
        time.sleep(0.01)
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_SECONDS) == code
    assert time.monotonic() - begin >= after


def test_all_scenarios_that_depend_on_a_kubelet_can_be_played() -> None:
    found = [entry for entry in scenario.load() if depends_on_kubelet(entry)]
    assert len(found) >= 27
    assert [entry.id for entry in found if not can_play(entry)] == []
