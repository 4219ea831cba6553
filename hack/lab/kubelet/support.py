"""Whether real nodes can run on this machine, and why not: one line that a person can act on."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hack.lab.kubelet.machine import CGROUPS, CONTROLLERS

INSTALL = Path(__file__).resolve().parents[2] / "setup" / "packages"
OLDEST_CONTAINERD = (1, 6)
# Of inotify, about so many for each.
PLANE_INSTANCES = 8
NODE_INSTANCES = 12
DEFAULT_INSTANCES = 3 * PLANE_INSTANCES + 2 * NODE_INSTANCES  # two workers
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
# Each node covers these with file systems of its own.
COVERED = (Path("/run"), Path("/var/lib"), Path("/var/log"))

# Debian's package of each program.
PACKAGES = {
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "mount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
PLUGINS_PACKAGE = "containernetworking-plugins"
BUSYBOX_PACKAGE = "busybox-static"


@dataclass(frozen=True, slots=True)
class Programs:
    """What a node runs, as absolute paths."""

    containerd: Path
    ctr: Path
    runc: Path
    nsenter: Path
    unshare: Path
    busybox: Path
    plugins: Path
    """Folder of the CNI plugins."""
    containerd_version: str


def instances(*, planes: int, nodes: int) -> int:
    """How many inotify instances a lab takes that has so many real nodes."""
    return PLANE_INSTANCES * planes + NODE_INSTANCES * nodes


def obstacle(needed: int = DEFAULT_INSTANCES) -> str | None:
    """Why no real nodes can run here, or None when they can. Nothing is changed but in namespaces that end with it.

    `needed`: inotify instances, by default those of two workers.
    """
    return machine_obstacle() or program_obstacle() or _namespace_obstacle() or watch_obstacle(needed)


def machine_obstacle() -> str | None:
    """What no package can mend: the system, the user, the cgroups."""
    if sys.platform != "linux":
        return "real nodes need Linux"
    if os.geteuid() != 0:
        missing = missing_packages()
        return f"real nodes need root{f', and {_named(missing)}' if missing else ''}"
    return cgroup_obstacle(CGROUPS)


def program_obstacle() -> str | None:
    """Programs that are missing, with their packages, or too old."""
    missing = missing_packages()
    if missing:
        return f"real nodes need {_named(missing)}"
    version = _containerd_version()
    number = re.match(r"v?(\d+)\.(\d+)", version)
    if not number or (int(number[1]), int(number[2])) < OLDEST_CONTAINERD:
        oldest = ".".join(map(str, OLDEST_CONTAINERD))
        return f"real nodes need containerd {oldest} or newer; here is {version or 'one without a version'}"
    return None


def watch_obstacle(needed: int) -> str | None:
    """Whether this user may have so many more inotify instances; without, containerd fails, and kubelets after it."""
    held: list[int] = []
    try:
        while len(held) < needed:
            instance = open_inotify()
            if instance is None:
                limit = Path("/proc/sys/fs/inotify/max_user_instances").read_text().strip()
                return (
                    f"real nodes need {needed} free inotify instances, and only {len(held)} are left: stop other labs,"
                    f" or raise the sysctl fs.inotify.max_user_instances ({limit})"
                )
            held.append(instance)
    finally:
        for instance in held:
            os.close(instance)
    return None


def open_inotify() -> int | None:
    """A new inotify instance, or None when the kernel gives no more."""
    instance: int = ctypes.CDLL(None).inotify_init1(os.O_CLOEXEC)
    return None if instance < 0 else instance


def missing_packages() -> list[str]:
    """Debian's packages with the programs that are not here, sorted."""
    missing = {package for program, package in PACKAGES.items() if find(program) is None}
    if _plugins() is None:
        missing.add(PLUGINS_PACKAGE)
    if _static_busybox() is None:
        missing.add(BUSYBOX_PACKAGE)
    return sorted(missing)


def make_possible(report: Callable[[str], None], *, instances: int = DEFAULT_INSTANCES) -> str | None:
    """Installs the packages that are missing where root has apt-get; then what `obstacle` says."""
    missing = missing_packages()
    if missing and machine_obstacle() is None and shutil.which("apt-get"):
        report(f"installing Debian's packages {' '.join(missing)}")
        subprocess.run([INSTALL, *missing], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return obstacle(instances)


def programs() -> Programs:
    """All of them; only when `program_obstacle` has none."""
    found = {name: path for name in PACKAGES if (path := find(name))}
    plugins, busybox = _plugins(), _static_busybox()
    assert plugins is not None
    assert busybox is not None
    return Programs(
        containerd=found["containerd"],
        ctr=found["ctr"],
        runc=found["runc"],
        nsenter=found["nsenter"],
        unshare=found["unshare"],
        busybox=busybox,
        plugins=plugins,
        containerd_version=_containerd_version(),
    )


def snapshotter(folder: Path) -> str:
    """How containerd makes root file systems in `folder`: by overlayfs, or plain copies where that cannot be."""
    with tempfile.TemporaryDirectory(dir=folder) as trial:
        for name in ("lower", "upper", "work", "merged"):
            (Path(trial) / name).mkdir()
        script = 'cd "$1" && mount -n -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged'
        works = _in_mount_namespace(["/bin/sh", "-c", script, "sh", trial])
    return "overlayfs" if works else "native"


def cgroup_obstacle(root: Path) -> str | None:
    """What the hierarchies below `root` lack."""
    if (root / "cgroup.controllers").exists():
        offered, where = set((root / "cgroup.controllers").read_text().split()), [root]
        missing = {"cpu", "cpuset", "memory", "pids"} - offered
    else:
        missing = {name for name in CONTROLLERS if not (root / name).is_dir()}
        where = [root / name for name in CONTROLLERS if name not in missing]
    if missing:
        return f"real nodes need cgroups; {root} has not: {', '.join(sorted(missing))}"
    closed = [str(folder) for folder in where if not os.access(folder, os.W_OK)]
    if closed:
        return f"real nodes need cgroups that can be written; these cannot: {', '.join(closed)}"
    return None


def _named(packages: list[str]) -> str:
    return f"Debian's packages {' '.join(packages)} (or the same programs from elsewhere)"


def _namespace_obstacle() -> str | None:
    if not _in_mount_namespace(["mount", "-n", "-t", "tmpfs", "tmpfs", "/run"]):
        return (
            "real nodes need mount namespaces, which this root may not make (a container without SYS_ADMIN?)"
        )
    unshare = [str(find("unshare")), "--net", "--", "ip", "link", "add", "trial", "type", "bridge"]
    if subprocess.run(unshare, capture_output=True, check=False).returncode != 0:
        return "real nodes need network bridges, which this root may not make, or the kernel has none"
    return None


def _in_mount_namespace(command: list[str]) -> bool:
    """Whether it succeeds there; the namespace, with its mounts, ends with it."""
    line = [str(find("unshare")), "--mount", "--propagation", "slave", "--", *command]
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def _containerd_version() -> str:
    answer = subprocess.run(
        [str(find("containerd")), "--version"], capture_output=True, text=True, check=False
    )
    fields = answer.stdout.split()
    return fields[2] if len(fields) > 2 else ""


def find(program: str) -> Path | None:
    """The program's path: from PATH, or where a user's PATH does not lead."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    return Path(found) if found else None


def _plugins() -> Path | None:
    needed = ("bridge", "host-local", "loopback")
    return next((folder for folder in CNI_FOLDERS if all((folder / name).exists() for name in needed)), None)


def _static_busybox() -> Path | None:
    """A busybox that needs no libraries: one that does names its loader in its first page."""
    found = find("busybox")
    if found is None:
        return None
    with found.open("rb") as content:
        return None if b"/ld-" in content.read(4096) else found
