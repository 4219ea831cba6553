"""What `--nodes kubelet` says where it cannot, and that it leaves nothing on the machine, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab import Lab, LabError, processes
from hack.lab.kubelet import machine, support

REASON = support.obstacle()
needs_nodes = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def test_another_user_is_told_of_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(LabError, match=r"^real nodes need root\. Without real nodes: --nodes kwok"):
        Lab.up(tmp_path / "lab", nodes="kubelet")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize(
    ("present", "said"),
    [
        ((), "has not: blkio, cpu, cpuacct, cpuset, devices, freezer, memory, pids"),
        (("cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"), "has not: blkio"),
        (machine.CONTROLLERS, None),
    ],
)
def test_missing_cgroups_are_named(tmp_path: Path, present: tuple[str, ...], said: str | None) -> None:
    for name in present:
        (tmp_path / name).mkdir()
    found = support.cgroup_obstacle(tmp_path)
    assert found is None if said is None else str(found).endswith(said)


def test_missing_controllers_of_version_2_are_named(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu io pids\n")
    assert str(support.cgroup_obstacle(tmp_path)).endswith("has not: cpuset, memory")
    (tmp_path / "cgroup.controllers").write_text("cpu cpuset io memory pids\n")
    assert support.cgroup_obstacle(tmp_path) is None


def test_missing_programs_are_named_by_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "find", lambda program: None)
    monkeypatch.setattr(support, "CNI_FOLDERS", ())
    assert support.program_obstacle() == (
        "real nodes need Debian's packages busybox-static containerd containernetworking-plugins iproute2 mount runc"
        " util-linux (or the same programs from elsewhere)"
    )


@pytest.mark.parametrize("version", ["1.5.9", "1.4.13~ds1", ""])
def test_an_old_containerd_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    program = tmp_path / "containerd"
    program.write_text(f"#!/bin/sh\necho containerd where {version}\n")
    program.chmod(0o755)
    monkeypatch.setattr(support, "missing_packages", list)
    monkeypatch.setattr(support, "find", lambda name: program)
    assert "need containerd 1.6 or newer; here is" in str(support.program_obstacle())


def test_too_few_inotify_instances_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert support.watch_obstacle(1) is None
    # Not by taking all there are: others on this machine need some.
    monkeypatch.setattr(support, "open_inotify", lambda: None)
    assert "real nodes need 48 free inotify instances, and only 0 are left" in str(support.watch_obstacle(48))


@needs_nodes
def test_a_folder_that_nodes_cover_is_refused() -> None:
    with pytest.raises(LabError, match="cannot be below /run"):
        Lab.up(Path("/run/lab"), nodes="kubelet")


def machine_state() -> dict[str, object]:
    """What a lab may change: mounts, addresses, bridges, cgroups, sysctls."""
    addresses = subprocess.run(
        ["ip", "-oneline", "address"], capture_output=True, text=True, check=True
    ).stdout
    sysctls = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward")
    return {
        "mounts": Path("/proc/self/mounts").read_text(),
        "addresses": [line.split()[:4] for line in addresses.splitlines()],
        "cgroups": sorted(str(path) for path in machine.CGROUPS.glob("**/job-dispatcher-*")),
        "sysctls": {name: Path("/proc/sys", name).read_text() for name in sysctls},
        "folders": [
            sorted(os.listdir(folder)) for folder in ("/run", "/var/lib", "/var/log", "/opt", "/etc")
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for one lab, of which nothing is left afterwards whatever the test did."""
    yield tmp_path / "lab"
    Lab(tmp_path / "lab").down()


@pytest.mark.lab
@needs_nodes
@pytest.mark.parametrize("killed", ["up", "lab"])
def test_nothing_is_left_of_a_killed_one(folder: Path, killed: str) -> None:
    before = machine_state()
    command = [
        sys.executable,
        "-m",
        "hack.lab",
        "up",
        "--dir",
        str(folder),
        "--workers",
        "1",
        "--nodes",
        "kubelet",
    ]
    up = subprocess.Popen([*command, "--bare"], stderr=subprocess.PIPE, text=True)
    assert up.stderr is not None
    if killed == "up":
        for line in up.stderr:
            if "worker-1: API server ready" in line:
                break
        while not machine.is_claimed(folder):
            assert up.poll() is None
        up.kill()
        up.communicate()
    else:
        assert up.communicate(timeout=180)[1] is not None
        assert up.returncode == 0
        assert machine_state() != before
        processes.kill(processes.marked(folder))
    assert machine.is_claimed(folder)
    assert Lab(folder).down()
    assert processes.marked(folder) == []
    assert machine_state() == before
