"""Words for Jobs and pods of the lab's own tests."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from hack.lab import Plane
from hack.lab.api import JSON, ApiError

# Of its own for each session: that of the session before may still be going in a lab that is kept.
NAMESPACE = f"lab-tests-{uuid.uuid4().hex[:8]}"
T = TypeVar("T")


class Jobs:
    """Jobs of the tests' namespace on one plane."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self._path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
        self._pods = f"/api/v1/namespaces/{NAMESPACE}/pods"

    def create(
        self,
        name: str,
        *,
        script: list[JSON] | str | None = None,
        termination: JSON | None = None,
        restart: str = "Never",
        containers: int = 1,
        **spec: Any,
    ) -> None:
        annotations = {}
        if script is not None:
            annotations["lab.jobdispatcher.io/script"] = (
                script if isinstance(script, str) else json.dumps(script)
            )
        if termination is not None:
            annotations["lab.jobdispatcher.io/termination"] = json.dumps(termination)
        names = [{"name": f"c{number}", "image": "busybox"} for number in range(containers)]
        template = {
            "metadata": {"annotations": annotations},
            "spec": {"restartPolicy": restart, "containers": names},
        }
        self.plane.api.create(
            self._path, {"metadata": {"name": name}, "spec": {"template": template, **spec}}
        )

    def get(self, name: str) -> JSON:
        return self.plane.api.get(f"{self._path}/{name}")

    def condition(self, name: str) -> tuple[str, str] | None:
        """Type and reason of the terminal condition."""
        for entry in self.get(name)["status"].get("conditions", []):
            if entry["type"] in ("Complete", "Failed") and entry["status"] == "True":
                return entry["type"], entry.get("reason", "")
        return None

    def pods(self, name: str) -> list[JSON]:
        """In the order of their numbers `nth`, those without one last."""
        items: list[JSON] = self.plane.api.get(f"{self._pods}?labelSelector=job-name={name}")["items"]
        return sorted(items, key=lambda pod: run(pod).get("nth", 1_000))

    def delete_pod(self, name: str) -> None:
        self.plane.api.delete(f"{self._pods}/{name}")

    def create_pod(self, name: str, *, script: list[JSON] | None = None, **spec: Any) -> None:
        """A pod that belongs to no Job."""
        annotations = {} if script is None else {"lab.jobdispatcher.io/script": json.dumps(script)}
        containers = [{"name": "c", "image": "busybox"}]
        metadata = {"name": name, "annotations": annotations}
        self.plane.api.create(self._pods, {"metadata": metadata, "spec": {"containers": containers, **spec}})

    def pod(self, name: str) -> JSON | None:
        try:
            return self.plane.api.get(f"{self._pods}/{name}")
        except ApiError as error:
            if error.code == 404:
                return None
            raise


def run(pod: JSON) -> dict[str, int]:
    """The numbers that the scripter gave the pod."""
    numbers: dict[str, int] = json.loads(
        pod["metadata"].get("annotations", {}).get("lab.jobdispatcher.io/run", "{}")
    )
    return numbers


def exit_codes(pod: JSON) -> list[int]:
    """Of its containers, all of which must have ended."""
    return [entry["state"]["terminated"]["exitCode"] for entry in pod["status"]["containerStatuses"]]


def ready(pod: JSON) -> str:
    """Status of the pod's condition Ready."""
    found: dict[str, str] = {entry["type"]: entry["status"] for entry in pod["status"].get("conditions", [])}
    return found.get("Ready", "")


def eventually(read: Callable[[], T], wanted: Callable[[T], bool], *, seconds: float = 30.0) -> T:
    """What `read` gives once `wanted` likes it; fails with the last value otherwise."""
    end = time.monotonic() + seconds
    while not wanted(value := read()):
        assert time.monotonic() < end, f"still {value!r} after {seconds} s"
        time.sleep(0.05)
    return value
