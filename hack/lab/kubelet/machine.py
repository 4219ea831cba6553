"""What a real node has of this machine outside its processes: an address on `lo`, a bridge for its pods, a cgroup.

All of it is named by the lab's folder, so that `clear` finds it without any record, also when the folder is gone.
The cgroup is made first and removed last: without one, nothing else is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
# Those of cgroup v1 that a kubelet insists on.
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer", "blkio")
NETWORKS = Path("/sys/class/net")
CLEAR_SECONDS = 60.0

# RFC 2544's addresses for measurements: nobody's network. Nodes are 198.18.0.N, their pods 198.19.N.0/24.
NODE_ADDRESS = "198.18.0.{number}"
POD_SUBNET = "198.19.{number}.0/24"
GATEWAY = "198.19.{number}.1"
LAST_NUMBER = 250


class MachineError(RuntimeError):
    """The machine refuses a part of a node."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one node has. `cgroup` is its path below each hierarchy, `gateway` the machine's address on the bridge."""

    address: str
    bridge: str
    gateway: str
    pods: str
    cgroup: str


def claim(lab: Path, *, plane: str, number: int) -> Claim:
    """Takes it for the node of `plane`, the `number`-th of the lab in folder `lab`.

    Raises MachineError.
    """
    cgroup, bridge = f"{_cgroup_prefix(lab)}{plane}", f"{_bridge_prefix(lab)}{number}"
    _make_cgroup(cgroup)
    chosen = _take_address(label=_label(lab))
    gateway = GATEWAY.format(number=chosen)
    for arguments in (
        ["link", "add", bridge, "type", "bridge"],
        ["address", "add", f"{gateway}/24", "dev", bridge],
        ["link", "set", bridge, "up"],
    ):
        if refusal := _ip(*arguments):
            raise MachineError(f"ip {' '.join(arguments)}: {refusal}")
    return Claim(
        address=NODE_ADDRESS.format(number=chosen),
        bridge=bridge,
        gateway=gateway,
        pods=POD_SUBNET.format(number=chosen),
        cgroup=cgroup,
    )


def end_pods(lab: Path, *, plane: str | None = None) -> None:
    """Ends every process in the pods of the lab's nodes (or of one plane's), as a loss of power would.

    Raises TimeoutError.
    """
    end = time.monotonic() + CLEAR_SECONDS
    while pids := pod_processes(lab, plane=plane):
        for folder in _cgroups(lab, plane):
            _thaw(folder)
        for pid in pids:
            _kill(pid)
        if time.monotonic() > end:
            raise TimeoutError(f"processes of pods still run after SIGKILL: {sorted(pids)}")
        time.sleep(0.05)


def pod_processes(lab: Path, *, plane: str | None = None) -> set[int]:
    """Ids of all processes in the pods of the lab's nodes (or of one plane's)."""
    return {pid for folder in _cgroups(lab, plane) for pid in _pids(folder)}


def is_claimed(lab: Path) -> bool:
    """Whether the lab in this folder has anything of the machine."""
    return bool(_cgroups(lab))


def clear(lab: Path) -> None:
    """Ends the pods of the lab's nodes and gives everything back. The kubelets must have ended. Does nothing twice.

    Raises TimeoutError.
    """
    if not _cgroups(lab):
        return
    end_pods(lab)
    end = time.monotonic() + CLEAR_SECONDS
    for bridge in NETWORKS.glob(f"{_bridge_prefix(lab)}*"):
        # The pods' ends of the cables go with their network namespaces, a moment after the last process.
        while any((bridge / "brif").iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        _ip("link", "delete", bridge.name)
    for address in _addresses(label=_label(lab)):
        _ip("address", "delete", f"{address}/32", "dev", "lo")
    while left := [folder for folder in _cgroups(lab) if not _remove_cgroup(folder)]:
        if time.monotonic() > end:
            raise TimeoutError(f"cgroups cannot be removed: {', '.join(map(str, left))}")
        time.sleep(0.05)


def _hash(lab: Path) -> str:
    return hashlib.sha256(os.fsencode(lab)).hexdigest()[:8]


def _cgroup_prefix(lab: Path) -> str:
    return f"job-dispatcher-{_hash(lab)}-"


def _bridge_prefix(lab: Path) -> str:
    return f"jd{_hash(lab)}-"  # with a number at most 15 characters, as the kernel wants it


def _label(lab: Path) -> str:
    return f"lo:jd{_hash(lab)}"


def _hierarchies() -> list[Path]:
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [folder for folder in CGROUPS.iterdir() if (folder / "cgroup.procs").exists()]


def _cgroups(lab: Path, plane: str | None = None) -> list[Path]:
    """The lab's cgroups in all hierarchies, or one plane's. Links to them (cpuacct, often) are left out."""
    if not CGROUPS.is_dir():
        return []
    found = (
        folder
        for root in _hierarchies()
        if not root.is_symlink()
        for folder in root.glob(f"{_cgroup_prefix(lab)}{plane or '*'}")
    )
    return list(found)


def _make_cgroup(name: str) -> None:
    for root in _hierarchies():
        folder = root / name
        try:
            folder.mkdir(exist_ok=True)
            if root == CGROUPS:  # v2: what children may use has to be handed on
                wanted = (root / "cgroup.controllers").read_text().split()
                given = (root / "cgroup.subtree_control").read_text().split()
                if more := [f"+{controller}" for controller in wanted if controller not in given]:
                    (root / "cgroup.subtree_control").write_text(" ".join(more))
            for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: a new one has none, and takes no process
                if root != CGROUPS and (folder / setting).exists():
                    (folder / setting).write_text((root / setting).read_text())
        except OSError as error:
            raise MachineError(f"cgroup {folder}: {error.strerror}") from error


def _remove_cgroup(folder: Path) -> bool:
    """Whether it is gone, with all below it."""
    for path, _, _ in os.walk(folder, topdown=False):
        try:
            os.rmdir(path)
        except FileNotFoundError:
            pass
        except OSError:  # busy for a moment after its last process
            return False
    return True


def _pids(folder: Path) -> Iterator[int]:
    for path, _, _ in os.walk(folder):
        try:
            yield from map(int, (Path(path) / "cgroup.procs").read_text().split())
        except OSError:  # removed meanwhile
            continue


def _thaw(folder: Path) -> None:
    """A frozen process cannot be ended (v1; in v2 it can)."""
    for path, _, _ in os.walk(folder):
        state = Path(path) / "freezer.state"
        if state.exists() and state.read_text().strip() != "THAWED":
            state.write_text("THAWED")


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _take_address(*, label: str) -> int:
    """Puts the first free node address on `lo`; the kernel refuses one that somebody has."""
    refusal = ""
    for number in range(1, LAST_NUMBER + 1):
        address = f"{NODE_ADDRESS.format(number=number)}/32"
        refusal = _ip("address", "add", address, "dev", "lo", "label", label)
        if not refusal:
            return number
        if "exists" not in refusal and "already assigned" not in refusal:
            break
    raise MachineError(f"no address for a node: {refusal}")


def _addresses(*, label: str) -> list[str]:
    program = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        return []
    answer = subprocess.run(
        [program, "-json", "-4", "address", "show", "dev", "lo"], capture_output=True, text=True, check=True
    )
    return [
        entry["local"]
        for link in json.loads(answer.stdout)
        for entry in link.get("addr_info", ())
        if entry.get("label") == label
    ]


def _ip(*arguments: str) -> str:
    """Runs `ip`; what it says when it refuses, else nothing."""
    program = shutil.which("ip", path="/usr/sbin:/sbin:/usr/bin:/bin") or "ip"
    answer = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return (answer.stderr.strip() or f"exit code {answer.returncode}") if answer.returncode else ""
