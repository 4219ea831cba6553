"""A lab: one management and several worker control planes in one folder."""

from __future__ import annotations

import concurrent.futures
import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from hack.lab import processes, registration
from hack.lab.binaries import DEFAULT_KUBERNETES, Binaries, provide, provide_kubelet
from hack.lab.component import Cancelled
from hack.lab.kubelet import machine, support
from hack.lab.kubelet.node import Kubelet
from hack.lab.plane import Plane
from hack.lab.processes import ProcessId
from hack.lab.state import JSON, StateFile

DEFAULT_FOLDER = Path(".lab")
MANAGEMENT = "management"
# Nodes of kwok on the management plane and on each worker. With "kubelet", each worker has one real node, and the
# management plane too where it is asked for.
NODES = {"kwok": (1, 3), "kubelet": (0, 0), "none": (0, 0)}

Report = Callable[[str], None]


class LabError(RuntimeError):
    """The lab cannot do that; the message says what to do instead."""


def _quiet(_: str) -> None:
    pass


class Lab:
    """The lab in `folder`, running or not. Make one by `up`, or find one by `open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._state = StateFile(self.folder)

    @classmethod
    def up(
        cls,
        folder: Path,
        *,
        workers: int = 2,
        nodes: str = "kwok",
        management_node: bool = False,
        kubernetes_version: str = DEFAULT_KUBERNETES,
        bare: bool = False,
        report: Report = _quiet,
    ) -> Lab:
        """Starts a lab and waits until Jobs can run on it.

        A healthy lab of the same kind in `folder` is taken as it is; the remains of one that does not run any more are
        removed. What fails or is interrupted leaves nothing running. `management_node`: with real nodes, one on the
        management plane too, where Deployments then work.

        Raises LabError, ComponentFailed, BuildFailed.
        """
        lab = cls(folder)
        wanted = {
            "workers": workers,
            "nodes": nodes,
            "managementNode": management_node,
            "kubernetesVersion": kubernetes_version.removeprefix("v"),
            "bare": bare,
        }
        if lab._is_same(wanted, report):
            return lab
        if nodes not in NODES:
            raise LabError(f"no nodes of the kind {nodes!r}: there are {', '.join(NODES)}")
        if management_node and nodes != "kubelet":
            raise LabError("a node of the management plane's own is a real one: it goes with --nodes kubelet")
        if nodes == "kubelet":
            count = workers + management_node
            _make_possible(lab.folder, report, instances=support.instances(planes=1 + workers, nodes=count))
        binaries = provide(kubernetes_version, report=report)
        kubelet = provide_kubelet(kubernetes_version, report=report) if nodes == "kubelet" else None
        begin = time.monotonic()
        lab.folder.mkdir(parents=True, exist_ok=True)
        with lab._alone():
            if lab._is_same(wanted, report):
                return lab
            lab._clear(report)
            names = [MANAGEMENT, *(f"worker-{number}" for number in range(1, workers + 1))]
            lab._state.create(
                {**wanted, "ready": False, "planes": {name: {"components": {}} for name in names}}
            )
            try:
                lab._start(binaries, kubelet, report=report)
            except BaseException:
                report("stopping what was started")
                lab._remove()
                raise
            lab._state.update(lambda content: content.update(ready=True))
        report(f"up after {time.monotonic() - begin:.1f} s")
        return lab

    @classmethod
    def open(cls, folder: Path) -> Lab:
        """The lab that was started in `folder`.

        Raises LabError when there is none.
        """
        lab = cls(folder)
        if not lab._state.exists():
            raise LabError(f"no lab in {folder}: start one by `python -m hack.lab up --dir {folder}`")
        return lab

    @property
    def management(self) -> Plane:
        """The plane where people create Jobs."""
        return Plane(self._state, MANAGEMENT)

    @property
    def workers(self) -> tuple[Plane, ...]:
        """worker-1, worker-2, …"""
        return tuple(Plane(self._state, name) for name in self._state.read()["planes"] if name != MANAGEMENT)

    def worker(self, number: int) -> Plane:
        """worker-NUMBER, counted from 1 as in its name."""
        return self.workers[number - 1]

    @property
    def planes(self) -> tuple[Plane, ...]:
        """All planes, the management plane first."""
        return (self.management, *self.workers)

    @property
    def dispatcher_kubeconfig(self) -> Path:
        """The controller's least-privileged account on the management plane (not in a bare lab)."""
        return self.folder / "dispatcher.kubeconfig"

    @property
    def kubectl(self) -> Path:
        """kubectl of the planes' version."""
        return self.folder / "bin" / "kubectl"

    @property
    def helm(self) -> Path:
        """Helm."""
        return self.folder / "bin" / "helm"

    def status(self) -> list[dict[str, Any]]:
        """Per component: plane, component, pid, port, version, alive (bool), paused (bool), log."""
        rows = []
        for plane in self.planes:
            for component in plane.components:
                record = component.record
                rows.append(
                    {
                        "plane": plane.name,
                        "component": component.name,
                        "pid": record["pid"],
                        "port": record["port"],
                        "version": record["version"],
                        "alive": component.is_running(),
                        "paused": component.is_paused(),
                        "log": record["log"],
                    }
                )
        return rows

    def is_ready(self) -> bool:
        """Whether it was started completely and every process of it is still there."""
        if not self._state.exists() or not self._state.read()["ready"]:
            return False
        return all(row["alive"] for row in self.status())

    def down(self, *, report: Report = _quiet) -> bool:
        """Stops every process and removes the folder; False when there was nothing to do.

        Finds the processes also after a killed `up`, or when the folder was deleted under them.

        Raises LabError while another process starts or stops the lab.
        """
        if not self.folder.is_dir():
            left = processes.marked(self.folder)
            self._end(left)
            return bool(left)
        with self._alone():
            if not self._state.exists() and not processes.marked(self.folder):
                with contextlib.suppress(OSError):
                    (self.folder / "up-down.lock").unlink()
                    self.folder.rmdir()  # only an empty folder
                return False
            self._remove()
        return True

    def _is_same(self, wanted: JSON, report: Report) -> bool:
        """Whether such a lab runs here already.

        Raises LabError when another one does.
        """
        if not self._state.exists():
            return False
        known = self._state.read()
        rows = self.status()
        alive = [row for row in rows if row["alive"]]
        if not known["ready"] or not alive:
            return False
        advice = f"stop it first (`python -m hack.lab down --dir {self.folder}`), or take another --dir"
        if len(alive) < len(rows):
            dead = ", ".join(f"{row['plane']}: {row['component']}" for row in rows if not row["alive"])
            raise LabError(f"a lab runs in {self.folder}, but not all of it ({dead}): {advice}")
        different = [f"{key} {known.get(key)}" for key in wanted if known.get(key) != wanted[key]]
        if different:
            raise LabError(f"another lab runs in {self.folder} ({', '.join(different)}): {advice}")
        report(f"runs already in {self.folder}")
        return True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._state.exclusively() as alone:
            if not alone:
                raise LabError(
                    f"another process is starting or stopping the lab in {self.folder}: wait for it or end it"
                )
            yield

    def _clear(self, report: Report) -> None:
        """Removes a dead lab; refuses a folder with anything else in it."""
        if self._state.exists():
            report("removing the remains of an earlier lab")
            self._remove()
            self.folder.mkdir(parents=True)
        foreign = [path.name for path in self.folder.iterdir() if path.name != "up-down.lock"]
        if foreign:
            raise LabError(
                f"{self.folder} holds other things ({', '.join(sorted(foreign)[:3])}, …): take another --dir"
            )
        self.folder.chmod(0o700)

    def _start(self, binaries: Binaries, kubelet: Path | None, *, report: Report) -> None:
        known = self._state.read()
        bare, with_node = known["bare"], known["managementNode"]
        self._link_commands(binaries)
        said = subprocess.run([binaries.etcd, "--version"], capture_output=True, text=True, check=True).stdout
        etcd_version = said.splitlines()[0].removeprefix("etcd Version:").strip()
        management_nodes, worker_nodes = NODES[known["nodes"]]
        real = None if kubelet is None else self._real(kubelet, binaries.kubernetes_version, report)
        cancel = threading.Event()

        def bring_up(plane: Plane) -> JSON | None:
            is_management = plane.name == MANAGEMENT
            plane.bring_up(
                binaries,
                etcd_version=etcd_version,
                node_count=management_nodes if is_management else worker_nodes,
                kubelet=real if with_node or not is_management else None,
                deployments=is_management and with_node,
                report=report,
                cancel=cancel,
            )
            if bare:
                return None
            if is_management:
                registration.prepare_management(
                    plane, helm=self.helm, dispatcher_kubeconfig=self.dispatcher_kubeconfig
                )
                return None
            return registration.prepare_worker(plane)

        with concurrent.futures.ThreadPoolExecutor(max_workers=len(self.planes)) as pool:
            futures = {plane.name: pool.submit(bring_up, plane) for plane in self.planes}
            try:
                concurrent.futures.wait(futures.values(), return_when=concurrent.futures.FIRST_EXCEPTION)
            finally:
                cancel.set()  # of no effect on planes that are up
        errors = [error for future in futures.values() if (error := future.exception())]
        for error in errors:
            if not isinstance(error, Cancelled):
                raise error
        if not bare:
            for worker in self.workers:
                access = futures[worker.name].result()
                assert access is not None
                registration.register(self.management, worker, access)

    def _real(self, kubelet: Path, version: str, report: Report) -> Kubelet:
        snapshotter = support.snapshotter(self.folder)
        if snapshotter != "overlayfs":
            report(
                f"overlayfs cannot be mounted in {self.folder}: containers get plain copies of their images"
            )
        return Kubelet(program=kubelet, version=version, programs=support.programs(), snapshotter=snapshotter)

    def _link_commands(self, binaries: Binaries) -> None:
        (self.folder / "bin").mkdir()
        self.kubectl.symlink_to(binaries.kubectl)
        self.helm.symlink_to(binaries.helm)

    def _remove(self) -> None:
        recorded = [component.process for plane in self.planes for component in plane.components]
        known = [process for process in recorded if process is not None]
        self._end(known)
        shutil.rmtree(self.folder)

    def _end(self, known: Iterable[ProcessId]) -> None:
        """Ends these and all that bear the lab's mark, and gives back what real nodes have of the machine."""
        processes.kill(known)
        while left := processes.marked(self.folder):  # containerd may have started others meanwhile
            processes.kill(left)
        machine.clear(self.folder)


def _make_possible(folder: Path, report: Report, *, instances: int) -> None:
    """Installs what real nodes need, where that may be.

    Raises LabError when they cannot run here.
    """
    obstacle = support.make_possible(report, instances=instances)
    covered = [top for top in support.COVERED if folder.is_relative_to(top.resolve())]
    if obstacle is None and covered:
        obstacle = (
            f"a lab with real nodes cannot be below {covered[0]}, which its nodes cover: take another --dir"
        )
    if obstacle is not None:
        raise LabError(f"{obstacle}. Without real nodes: --nodes kwok (fake nodes, scripted pods)")
