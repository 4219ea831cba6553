"""Jobs that run shell scripts, and what becomes of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hack.lab import Lab, Plane
from hack.lab.api import JSON, ApiError
from hack.lab.kubelet.images import BUSYBOX
from tests.cli.plugin import MANAGED_BY, Plugin

WAIT_SECONDS = 240.0
JOB_NAME = "batch.kubernetes.io/job-name"
WAITS = "until [ -e /node/go ]; do sleep 0.2; done"
"""A script that ends when the test lets it (with `container=ON_NODE`, `volumes=work.node`)."""
ON_NODE: JSON = {"volumeMounts": [{"name": "node", "mountPath": "/node"}]}
SLEEPS = "trap 'exit 0' TERM; sleep 600 & wait"
"""A script that never ends by itself."""
T = TypeVar("T")


def eventually(read: Callable[[], T], wanted: Callable[[T], Any], *, seconds: float = WAIT_SECONDS) -> T:
    """What `read` gives once `wanted` likes it; fails with the last value otherwise."""
    end = time.monotonic() + seconds
    while not wanted(value := read()):
        assert time.monotonic() < end, f"still after {seconds:.0f} s: {json.dumps(value, default=str)}"
        time.sleep(0.1)
    return value


class Work:
    """The Jobs of one namespace, which all planes have."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self.lab = lab
        self.namespace = namespace
        self.plugin = Plugin(lab.management.kubeconfig, namespace)
        self._jobs = f"/apis/batch/v1/namespaces/{namespace}/jobs"

    def create(
        self,
        name: str,
        script: str,
        *,
        restart: str = "Never",
        container: JSON | None = None,
        volumes: list[JSON] | None = None,
        **spec: Any,
    ) -> None:
        """A dispatched Job whose container `main` runs `script` by busybox' sh; `container` adds to it."""
        main = {"name": "main", "image": BUSYBOX, "command": ["sh", "-euc", script], **(container or {})}
        pod = {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 1,
            "containers": [main],
            "volumes": volumes or [],
        }
        body = {
            "metadata": {"name": name},
            "spec": {"managedBy": MANAGED_BY, "template": {"spec": pod}, **spec},
        }
        self.lab.management.api.create(self._jobs, body)

    @property
    def node(self) -> list[JSON]:
        """A volume: the namespace's folder of the node that a pod is on. It lasts as long as the node."""
        return [{"name": "node", "hostPath": {"path": self._folder, "type": "DirectoryOrCreate"}}]

    @property
    def _folder(self) -> str:
        return f"/run/{self.namespace}"

    def let_go(self, *planes: Plane) -> None:
        """Lets the pods that wait (WAITS) on these workers end, by default on all."""
        for plane in planes or self.lab.workers:
            folder = Path(f"/proc/{plane.node.pid}/root{self._folder}")
            folder.mkdir(exist_ok=True)
            (folder / "go").touch()

    def get(self, name: str) -> JSON:
        """The Job on the management plane."""
        return self.lab.management.api.get(f"{self._jobs}/{name}")

    def update(self, name: str, **spec: Any) -> None:
        """Changes fields of the Job's spec."""
        self.lab.management.api.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": spec,
            }
        )

    def policy(self, **spec: Any) -> None:
        """The namespace's policy."""
        self.lab.management.api.apply(
            {
                "apiVersion": "jobdispatcher.io/v1alpha1",
                "kind": "DispatchPolicy",
                "metadata": {"name": "default", "namespace": self.namespace},
                "spec": spec,
            }
        )

    def delete_all(self) -> None:
        """Deletes the Jobs and waits until they are gone."""
        for job in self.lab.management.api.get(self._jobs)["items"]:
            try:
                self.lab.management.api.delete(f"{self._jobs}/{job['metadata']['name']}")
            except ApiError as error:
                if error.code != 404:  # its time to live was over, or its CronJob went
                    raise
        eventually(lambda: self.lab.management.api.get(self._jobs)["items"], lambda left: not left)

    def ended(self, name: str) -> tuple[str, str, JSON]:
        """Waits for the end: type and reason of the terminal condition, and the status."""
        status = eventually(lambda: self.get(name).get("status", {}), lambda found: _terminal(found))
        condition = _terminal(status)
        assert condition is not None
        return condition["type"], condition.get("reason", ""), status

    def pods(self, plane: Plane, name: str) -> list[JSON]:
        """The Job's pods on one worker: of all its mirrors, whose names begin with the Job's."""
        items: list[JSON] = plane.api.get(f"/api/v1/namespaces/{self.namespace}/pods")["items"]
        return [pod for pod in items if pod["metadata"]["labels"][JOB_NAME].startswith(name)]

    def running(self, name: str) -> dict[str, int]:
        """Pods in phase Running, by worker; workers without any are left out."""
        counts = {plane.name: phases(self.pods(plane, name)).count("Running") for plane in self.lab.workers}
        return {plane: count for plane, count in counts.items() if count}

    def runs_on_both(self, name: str, *, pods: int) -> None:
        """Waits until that many pods run, some on each worker."""
        eventually(
            lambda: self.running(name),
            lambda found: sum(found.values()) == pods and len(found) == len(self.lab.workers),
        )

    def logs(self, name: str, *options: str) -> list[str]:
        """Lines of `kubectl dispatch logs`."""
        return self.plugin.ok("logs", name, *options).splitlines()


def phases(pods: list[JSON]) -> list[str]:
    """Of each pod."""
    return [pod.get("status", {}).get("phase", "") for pod in pods]


def restarts(pods: list[JSON]) -> list[int]:
    """Of each pod's one container."""
    return [entry["restartCount"] for pod in pods for entry in pod["status"].get("containerStatuses", ())]


def is_gone(plane: Plane, path: str) -> bool:
    """Whether the API server has no such object."""
    try:
        plane.api.get(path)
    except ApiError as error:
        if error.code == 404:
            return True
        raise
    return False


def _terminal(status: JSON) -> JSON | None:
    for entry in status.get("conditions", ()):
        if entry["type"] in ("Complete", "Failed") and entry["status"] == "True":
            return dict(entry)
    return None
