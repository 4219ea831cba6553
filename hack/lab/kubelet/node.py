"""One real node of a plane, brought up: namespace, containerd, images, kubelet."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hack.lab.api import JSON, write_kubeconfig
from hack.lab.component import READY_SECONDS, Cancelled, Component, ComponentFailed
from hack.lab.components import Launch
from hack.lab.kubelet import images, launches, machine, support
from hack.lab.kubelet.launches import KUBELET_PORT, SOCKET, NodeFiles
from hack.lab.pki import PlaneCertificates


@dataclass(frozen=True, slots=True)
class Kubelet:
    """The kubelet's program and its version, and what runs beside it."""

    program: Path
    version: str
    programs: support.Programs
    snapshotter: str


@dataclass(frozen=True, slots=True)
class Place:
    """Which plane a node belongs to. `folder` is the node's own; `number` tells the lab's nodes apart."""

    lab: Path
    plane: str
    number: int
    folder: Path
    url: str
    certificates: PlaneCertificates


def name_of(plane: str) -> str:
    """The node's name in its cluster."""
    return f"{plane}-node-1"


def bring_up(
    place: Place, kubelet: Kubelet, *, add: Callable[[Launch], Component], cancel: threading.Event
) -> None:
    """Starts the node's processes; that it is Ready is for the plane to wait for.

    Raises MachineError, ComponentFailed, Cancelled.
    """
    files = NodeFiles(place.folder)
    files.make()
    claim = machine.claim(place.lab, plane=place.plane, number=place.number)
    programs = kubelet.programs

    holder = _started(add(launches.namespace(files, programs)), files.ready.exists, cancel)
    pid = holder.pid
    assert pid is not None
    control = launches.inside(programs, pid, [str(programs.ctr), "--address", SOCKET])
    launch = launches.containerd(files, programs, claim=claim, holder=pid, snapshotter=kubelet.snapshotter)
    containerd = _started(add(launch), lambda: _succeeds([*control, "version"]), cancel)
    _check_serves_kubelets(control, containerd)
    images.write_archive(files.images, images.own_images(programs.busybox))
    load(files.images, programs, holder=pid, snapshotter=kubelet.snapshotter)

    kubeconfig = files.folder / "kubelet.kubeconfig"
    write_kubeconfig(
        kubeconfig,
        name=place.plane,
        url=place.url,
        authority=place.certificates.authority,
        identity=place.certificates.node,
    )
    launch = launches.kubelet(
        files,
        programs,
        program=kubelet.program,
        version=kubelet.version,
        node=name_of(place.plane),
        claim=claim,
        holder=pid,
        certificates=place.certificates,
        kubeconfig=kubeconfig,
    )
    add(launch).start()


def load(archive: Path, programs: support.Programs, *, holder: int, snapshotter: str) -> None:
    """Gives the images in `archive` to the node whose namespace the process `holder` holds.

    Raises ComponentFailed.
    """
    control = launches.inside(programs, holder, [str(programs.ctr), "--address", SOCKET])
    take = ["-n", "k8s.io", "images", "import", "--snapshotter", snapshotter, str(archive)]
    done = subprocess.run([*control, *take], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ComponentFailed(f"containerd does not take the images in {archive}: {done.stderr.strip()}")


def answers(node: JSON) -> bool:
    """Whether the kubelet of this Node object takes connections: the object alone says Ready long after its end."""
    addresses = [entry["address"] for entry in node["status"]["addresses"] if entry["type"] == "InternalIP"]
    try:
        socket.create_connection((addresses[0], KUBELET_PORT), timeout=5.0).close()
    except OSError:
        return False
    return True


def _check_serves_kubelets(control: list[str], containerd: Component) -> None:
    """containerd runs on without the part that a kubelet talks to, should that fail."""
    listed = subprocess.run([*control, "plugins", "list"], capture_output=True, text=True, check=False).stdout
    if any(
        row[1] == "cri" and row[-1] == "ok" for line in listed.splitlines() if len(row := line.split()) > 2
    ):
        return
    said = [line for line in containerd.log.read_text(errors="replace").splitlines() if "grpc.v1.cri" in line]
    reason = said[-1] if said else f"see {containerd.log}"
    if "too many open files" in reason:
        reason = "no inotify instance is left for it; stop other labs or raise the sysctl fs.inotify.max_user_instances"
    raise ComponentFailed(f"containerd cannot serve a kubelet: {reason}")


def _started(component: Component, is_ready: Callable[[], bool], cancel: threading.Event) -> Component:
    component.start()
    end = time.monotonic() + READY_SECONDS
    while not is_ready():
        component.wait_healthy(cancel=cancel)  # raises when it ended
        if time.monotonic() > end:
            raise ComponentFailed(f"{component.name} not ready in {READY_SECONDS:.0f} s; see {component.log}")
        if cancel.wait(0.1):
            raise Cancelled
    return component


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
