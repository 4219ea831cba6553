"""`up`, `down` and `status` as commands, also when they are killed or interrupted. Small labs: one plane, no nodes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab import Lab, LabError, ports, processes
from hack.lab.binaries import PLANE_PROGRAMS, provide

pytestmark = pytest.mark.lab
SMALL = ("--workers", "0", "--nodes", "none", "--bare")


def command(verb: str, folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "hack.lab", verb, "--dir", str(folder), *options]


def hack_lab(verb: str, folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(verb, folder, *options),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for one lab, of which nothing is left afterwards whatever the test did."""
    yield tmp_path / "lab"
    Lab(tmp_path / "lab").down()


def test_from_up_to_down(folder: Path) -> None:
    up = hack_lab("up", folder, *SMALL)
    assert up.returncode == 0, up.stderr
    assert str(folder / "management.kubeconfig") in up.stdout

    status = hack_lab("status", folder, "-o", "json")
    assert status.returncode == 0
    rows = json.loads(status.stdout)["components"]
    assert [row["component"] for row in rows] == [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    ]
    assert len({row["port"] for row in rows} | {row["pid"] for row in rows}) == 8
    assert all(row["version"] and Path(row["log"]).exists() for row in rows)

    begin = time.monotonic()
    again = hack_lab("up", folder, *SMALL)
    assert (again.returncode, time.monotonic() - begin < 5) == (0, True)
    assert "runs already" in again.stderr
    other = hack_lab("up", folder, "--workers", "1", "--nodes", "none", "--bare")
    assert (other.returncode, "another lab runs" in other.stderr) == (1, True)

    lab = Lab.open(folder)
    lab.management.scheduler.kill()
    status = hack_lab("status", folder)
    assert status.returncode == 1
    assert [line.split()[2] for line in status.stdout.splitlines()[1:]] == ["alive", "alive", "alive", "dead"]
    broken = hack_lab("up", folder, *SMALL)
    assert (broken.returncode, "kube-scheduler" in broken.stderr) == (1, True)

    assert hack_lab("down", folder).returncode == 0
    assert not folder.exists()
    assert processes.marked(folder) == []
    again = hack_lab("down", folder)
    assert (again.returncode, "nothing to do" in again.stderr) == (0, True)
    assert hack_lab("status", folder).returncode == 1


@contextlib.contextmanager
def half_started(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """An `up` that has started some of its processes."""
    up = subprocess.Popen(
        command("up", folder, *SMALL),
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them, and their children, ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while len(processes.marked(folder)) < 2:
            assert up.poll() is None
            time.sleep(0.01)
        yield up
    finally:
        up.kill()
        up.communicate()


@pytest.mark.parametrize("folder_is_deleted", [False, True])
def test_down_cleans_up_after_a_killed_up(folder: Path, folder_is_deleted: bool) -> None:
    with half_started(folder) as up:
        up.kill()
    assert len(processes.marked(folder)) >= 2
    if folder_is_deleted:
        shutil.rmtree(folder)
    down = hack_lab("down", folder)
    assert down.returncode == 0, down.stderr
    assert processes.marked(folder) == []
    assert not folder.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_up_leaves_nothing(folder: Path, number: signal.Signals) -> None:
    with half_started(folder) as up:
        during = hack_lab("down", folder)
        assert (during.returncode, "is starting or stopping" in during.stderr) == (1, True)
        up.send_signal(number)
        _, said = up.communicate(timeout=60)
        assert (up.returncode, "interrupted" in said) == (130, True)
    assert processes.marked(folder) == []
    assert not folder.exists()


def test_an_up_that_fails_says_why_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    binaries = provide("1.36.3", report=print)
    assets = tmp_path / "assets"
    assets.mkdir()
    for program in PLANE_PROGRAMS:
        (assets / program).symlink_to(getattr(binaries, program.replace("-", "_")).resolve())
    server = assets / "kube-apiserver"
    server.unlink()
    server.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo Kubernetes v1.36.3 && exit\necho the disk is full\nexit 1\n'
    )
    server.chmod(0o755)
    up = hack_lab("up", folder, *SMALL, KUBEBUILDER_ASSETS=str(assets))
    assert up.returncode == 1
    assert "kube-apiserver ended" in up.stderr
    assert "the disk is full" in up.stderr
    assert "Traceback" not in up.stderr
    assert processes.marked(folder) == []
    assert not folder.exists()


def test_remains_are_removed_and_ports_that_somebody_takes_meanwhile_are_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with half_started(folder) as up:
        up.kill()
    processes.kill(processes.marked(folder))  # as by a restart of the machine

    with socket.create_server((ports.ADDRESS, 0)) as squatter:
        taken = squatter.getsockname()[1]
        asked: list[int] = []

        def pick(count: int) -> list[int]:
            asked.append(count)
            free = real(count)
            return (
                [taken, *free[1:]] if len(asked) in (1, 3) else free
            )  # etcd's first try, the API server's first

        real = ports.pick
        monkeypatch.setattr(ports, "pick", pick)
        said: list[str] = []
        lab = Lab.up(folder, workers=0, nodes="none", bare=True, report=said.append)
    assert "removing the remains of an earlier lab" in said
    assert asked == [2, 2, 1, 1, 1, 1]
    assert lab.is_ready()
    assert taken not in {row["port"] for row in lab.status()}
    assert lab.management.api.get("/api/v1/namespaces/default")["metadata"]["name"] == "default"


def test_what_is_not_a_lab_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    up = hack_lab("up", tmp_path, *SMALL)
    assert (up.returncode, "thesis.txt" in up.stderr) == (1, True)
    assert hack_lab("down", tmp_path).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(LabError, match="no lab"):
        Lab.open(tmp_path)


def test_an_impossible_version_is_refused(folder: Path) -> None:
    up = hack_lab("up", folder, *SMALL, "--kubernetes-version", "latest")
    assert (up.returncode, "expected a release such as" in up.stderr) == (1, True)
    assert not folder.exists()
