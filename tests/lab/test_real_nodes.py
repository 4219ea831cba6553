"""What `--nodes kubelet` says where it cannot, and that it leaves nothing on the machine, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab import Lab, LabError, processes
from hack.lab.kubelet import machine, support
from hack.lab.kubelet.images import BUSYBOX

REASON = support.obstacle()
needs_nodes = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def test_another_user_is_told_of_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(support, "missing_packages", list)
    with pytest.raises(LabError, match=r"^real nodes need root\. Without real nodes: --nodes kwok"):
        Lab.up(tmp_path / "lab", nodes="kubelet")
    assert not (tmp_path / "lab").exists()


def test_another_user_is_told_of_missing_packages_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(support, "missing_packages", lambda: ["containerd", "runc"])
    with pytest.raises(LabError, match=r"^real nodes need root, and Debian's packages containerd runc \("):
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


def test_a_node_of_the_management_planes_own_is_a_real_one(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="goes with --nodes kubelet"):
        Lab.up(tmp_path / "lab", nodes="kwok", management_node=True)


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
def test_nothing_is_left_of_a_killed_up(folder: Path) -> None:
    before = machine_state()
    command = [sys.executable, "-m", "hack.lab", "up", "--dir", str(folder), "--workers", "1"]
    command += ["--nodes", "kubelet", "--management-node", "--bare"]
    up = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert up.stderr is not None
    for line in up.stderr:
        if "worker-1: API server ready" in line:
            break
    while not machine.is_claimed(folder):
        assert up.poll() is None
    up.kill()
    up.communicate()
    assert machine.is_claimed(folder)
    assert Lab(folder).down()
    assert processes.marked(folder) == []
    assert machine_state() == before


@pytest.mark.lab
@needs_nodes
def test_without_overlayfs_pods_run_on_copies_and_nothing_is_left_of_a_killed_lab(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine_state()
    possible = support._in_mount_namespace
    monkeypatch.setattr(
        support, "_in_mount_namespace", lambda command: "overlay" not in str(command) and possible(command)
    )
    said: list[str] = []
    lab = Lab.up(folder, workers=1, nodes="kubelet", bare=True, report=said.append)
    assert [line for line in said if "overlayfs" in line] == [
        f"overlayfs cannot be mounted in {folder}: containers get plain copies of their images"
    ]
    api, jobs = lab.worker(1).api, "/apis/batch/v1/namespaces/default/jobs"
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", "sleep 600"]}
    pod = {"restartPolicy": "Never", "containers": [container]}
    api.create(jobs, {"metadata": {"name": "copies"}, "spec": {"template": {"spec": pod}}})
    end = time.monotonic() + 120
    while not api.get(f"{jobs}/copies")["status"].get("ready"):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert machine_state() != before
    processes.kill(processes.marked(folder))
    assert machine.is_claimed(folder)
    assert machine.pod_processes(folder), "the pod runs on"
    assert Lab(folder).down()
    assert processes.marked(folder) == []
    assert machine_state() == before
