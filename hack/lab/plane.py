"""One control plane: etcd, API server, controller-manager, scheduler, and what plays its nodes and pods."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hack.lab import components, nodes, pki, ports
from hack.lab.api import Api, ApiError, write_kubeconfig
from hack.lab.binaries import Binaries
from hack.lab.component import READY_SECONDS, Cancelled, Component, ComponentFailed, PortTaken
from hack.lab.components import Launch, PlaneFiles
from hack.lab.kubelet import node as real_node
from hack.lab.kubelet import support
from hack.lab.kubelet.images import Image, write_archive
from hack.lab.kubelet.node import Kubelet, Place, load
from hack.lab.state import StateFile

# A kubelet ends when containerd is not there yet, and counts on an init system to start it again.
KUBELET_STARTS = 20


class Plane:
    """The control plane `name` ("management", "worker-1", …) of a lab."""

    def __init__(self, state: StateFile, name: str) -> None:
        self._state = state
        self.name = name
        self.folder = state.folder / name
        self.certificates = pki.files(self.folder / "pki")
        self._api: Api | None = None

    @property
    def kubeconfig(self) -> Path:
        """A cluster administrator's kubeconfig, with a client certificate."""
        return self._state.folder / f"{self.name}.kubeconfig"

    @property
    def url(self) -> str:
        """Where its API server answers."""
        return f"https://{ports.ADDRESS}:{self.apiserver.port}"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log: one JSON event a line, at the metadata level."""
        return self._state.folder / "logs" / f"{self.name}-audit.log"

    def container_log(self, container: str) -> Path:
        """The log that all containers of this name write on its kwok nodes (``components.OWN_LOGS``), in CRI's form."""
        return self.folder / f"{container}.log"

    @property
    def api(self) -> Api:
        """Requests to its API server as a cluster administrator."""
        url = self.url
        if self._api is None or self._api.url != url:
            self._api = Api(url, authority=self.certificates.authority, identity=self.certificates.admin)
        return self._api

    @property
    def components(self) -> tuple[Component, ...]:
        """All its processes, in the order of their start."""
        return tuple(self._component(name) for name in self._state.read()["planes"][self.name]["components"])

    @property
    def etcd(self) -> Component:
        return self._component("etcd")

    @property
    def apiserver(self) -> Component:
        return self._component("kube-apiserver")

    @property
    def controller_manager(self) -> Component:
        return self._component("kube-controller-manager")

    @property
    def scheduler(self) -> Component:
        return self._component("kube-scheduler")

    @property
    def kwok(self) -> Component:
        """Plays the nodes, and the pods without a script."""
        return self._component("kwok")

    @property
    def scripter(self) -> Component:
        """Plays the pods with a script."""
        return self._component("scripter")

    @property
    def kubelet(self) -> Component:
        """The kubelet of the plane's real node."""
        return self._component("kubelet")

    @property
    def node(self) -> Component:
        """Holds the mount namespace of the plane's real node."""
        return self._component("node")

    @property
    def has_real_node(self) -> bool:
        """Whether its pods truly run."""
        return "kubelet" in self._state.read()["planes"][self.name]["components"]

    @property
    def containerd(self) -> Component:
        """What runs the pods of the plane's real node."""
        return self._component("containerd")

    def _component(self, name: str) -> Component:
        return Component(self._state, plane=self.name, name=name, certificates=self.certificates)

    def bring_up(
        self,
        binaries: Binaries,
        *,
        etcd_version: str,
        node_count: int,
        kubelet: Kubelet | None,
        deployments: bool = False,
        report: Callable[[str], None],
        cancel: threading.Event,
    ) -> None:
        """Makes certificates, starts everything and waits until a Job's pod could be created and scheduled.

        `node_count` nodes of kwok, or with a `kubelet` (then `node_count` is 0) one real node. `deployments`:
        Deployments work, and the API server's own calls to the Services of their pods.

        Raises ComponentFailed, MachineError, or Cancelled once `cancel` is set.
        """
        begin = time.monotonic()
        self.folder.mkdir(mode=0o700)
        pki.make(
            self.folder / "pki", service_address=components.SERVICE_ADDRESS, node=real_node.name_of(self.name)
        )
        files = PlaneFiles(folder=self.folder, certificates=self.certificates, audit_log=self.audit_log)

        def etcd() -> Launch:
            shutil.rmtree(self.folder / "etcd", ignore_errors=True)  # of a try on other ports
            port, peer_port = ports.pick(2)
            return components.etcd(files, binaries, port=port, peer_port=peer_port, version=etcd_version)

        def apiserver() -> Launch:
            etcd_port = self.etcd.port
            assert etcd_port is not None
            port = ports.pick(1)[0]
            return components.apiserver(
                files, binaries, port=port, etcd_port=etcd_port, routes_to_endpoints=deployments
            )

        self._start([etcd], cancel)
        self._start([apiserver], cancel)
        self._write_kubeconfigs(files)
        report(f"{self.name}: API server ready after {time.monotonic() - begin:.1f} s")

        rest: list[Callable[[], Launch]] = [
            lambda: components.controller_manager(
                files, binaries, port=ports.pick(1)[0], deployments=deployments
            ),
            lambda: components.scheduler(files, binaries, port=ports.pick(1)[0]),
        ]
        if node_count:
            rest += [
                lambda: components.kwok(files, binaries, port=ports.pick(1)[0]),
                lambda: components.scripter(files, server=self.url),
            ]
            nodes.create(self.api, plane=self.name, count=node_count)
        self._start(rest, cancel)
        if kubelet is not None:
            real_node.bring_up(self._place(), kubelet, add=self._add, cancel=cancel)
            self._wait_for_real_node(cancel)
        self._wait(lambda: nodes.are_ready(self.api, count=node_count), f"{node_count} nodes", cancel)
        self._wait(self._accepts_pods, "the account `default` of pods", cancel)
        report(f"{self.name}: ready after {time.monotonic() - begin:.1f} s")

    def start(self) -> None:
        """Starts again what of it does not run, and waits until all works. A real node's namespace must be left.

        Raises ComponentFailed.
        """
        for component in self.components:
            if not component.is_running():
                component.start()
        if self.has_real_node:
            self._wait_for_real_node(threading.Event())

    def load_images(self, images: Sequence[Image]) -> None:
        """Gives images to the plane's real node, beside those that it has.

        Raises ComponentFailed.
        """
        holder = self.node.pid
        assert holder is not None
        archive = self.folder / "node" / "more-images.tar"
        write_archive(archive, images)
        load(archive, support.programs(), holder=holder, snapshotter=support.snapshotter(self._state.folder))
        archive.unlink()

    def _start(self, builders: Sequence[Callable[[], Launch]], cancel: threading.Event) -> None:
        """Starts all, then waits for all; a builder is asked anew when its port was taken meanwhile."""
        started = []
        for build in builders:
            if cancel.is_set():
                raise Cancelled
            component = self._add(build())
            component.start(wait=False)
            started.append((component, build))
        for component, build in started:
            for _ in range(3):
                try:
                    component.wait_healthy(cancel=cancel)
                    break
                except PortTaken:
                    component = self._add(build())
                    component.start(wait=False)
            else:
                raise ComponentFailed(f"{self.name}: {component.name} found its port taken again and again")

    def _add(self, launch: Launch) -> Component:
        return Component.add(self._state, launch, plane=self.name, certificates=self.certificates)

    def _wait_for_real_node(self, cancel: threading.Event) -> None:
        kubelet, starts = self.kubelet, itertools.count(1)
        path = f"/api/v1/nodes/{real_node.name_of(self.name)}"

        def is_ready() -> bool:
            if not kubelet.is_running():
                if next(starts) == KUBELET_STARTS:
                    kubelet.wait_healthy()  # says how it ended
                cancel.wait(0.5)
                kubelet.start()
            return nodes.are_ready(self.api, count=1) and real_node.answers(self.api.get(path))

        self._wait(is_ready, "its node", cancel)

    def _place(self) -> Place:
        return Place(
            lab=self._state.folder,
            plane=self.name,
            number=list(self._state.read()["planes"]).index(self.name),
            folder=self.folder / "node",
            url=self.url,
            certificates=self.certificates,
        )

    def _write_kubeconfigs(self, files: PlaneFiles) -> None:
        certificates = self.certificates
        for path, identity in (
            (self.kubeconfig, certificates.admin),
            (files.controller_manager_kubeconfig, certificates.controller_manager),
            (files.scheduler_kubeconfig, certificates.scheduler),
            (files.nodes_kubeconfig, certificates.nodes),
        ):
            write_kubeconfig(
                path, name=self.name, url=self.url, authority=certificates.authority, identity=identity
            )

    def _accepts_pods(self) -> bool:
        """Admission refuses pods until the namespace has its account, and their mount waits for the root CA."""
        try:
            self.api.get("/api/v1/namespaces/default/serviceaccounts/default")
            self.api.get("/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    def _wait(
        self,
        condition: Callable[[], bool],
        what: str,
        cancel: threading.Event,
        timeout: float = READY_SECONDS,
    ) -> None:
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                raise ComponentFailed(f"{self.name}: {what} not ready in {timeout:.0f} s; see its logs")
            if cancel.wait(0.1):
                raise Cancelled
