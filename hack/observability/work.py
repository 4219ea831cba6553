"""The Jobs of the story, and the place for them on a lab."""

from __future__ import annotations

import base64
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

import yaml

from hack.lab import Lab
from hack.lab.api import ApiError

MANAGED_BY = "jobdispatcher.io/observability"
NAMESPACE = "observability"
ELSEWHERE = "observability-nowhere"
"""A namespace that no worker has."""
REFUSED = "observability-refused"
"""A namespace where a policy refuses every status."""
MOVES = "observability-moves"
"""A namespace whose Jobs leave a lost cluster soon."""
MOVES_AFTER = "5s"
WAIT_SECONDS = 240.0
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
WORKERS = "/apis/jobdispatcher.io/v1alpha1/workerclusters"


class NotSeen(AssertionError):
    """Something did not come to pass in time."""


def until(what: str, condition: Callable[[], bool], *, seconds: float = WAIT_SECONDS) -> None:
    """Wait for it. Raises NotSeen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise NotSeen(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


class Work:
    """The lab with the story's namespaces, a policy, a capacity; ``clear`` takes all of it back."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._api = lab.management.api
        namespaces = [(lab.management, name) for name in (NAMESPACE, ELSEWHERE, REFUSED, MOVES)]
        namespaces += [(plane, name) for plane in lab.workers for name in (NAMESPACE, REFUSED, MOVES)]
        for plane, name in namespaces:
            plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        policy = {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "DispatchPolicy",
            "metadata": {"name": "default", "namespace": MOVES},
            "spec": {"failover": {"after": MOVES_AFTER}},
        }
        self._api.apply(policy)
        self._first = lab.worker(1).name
        self.kubeconfig = base64.b64decode(self._secret(self._first)["data"]["kubeconfig"])
        """Of the first cluster, as it was."""
        self._set_capacity(self._first, 200)

    def create(
        self, name: str, jobs: int, *, namespace: str = NAMESPACE, completions: int = 8, seconds: int = 1
    ) -> None:
        """Create Jobs with a parallelism of 4; a pod of each fails once."""
        script = f'[{{"nth": "0", "after": "1s", "exit": 1}}, {{"after": "{seconds}s", "exit": 0}}]'
        for number in range(jobs):
            template = {
                "metadata": {"annotations": {"lab.jobdispatcher.io/script": script}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "work", "image": "example/work"}]},
            }
            spec = {
                "managedBy": MANAGED_BY,
                "completions": completions,
                "parallelism": 4,
                "template": template,
            }
            self._api.create(JOBS.format(namespace), {"metadata": {"name": f"{name}-{number}"}, "spec": spec})

    def wait_active(self, name: str, *, namespace: str = NAMESPACE, pods: int = 4) -> None:
        """Wait until the Job's own status says that so many pods run."""
        path = f"{JOBS.format(namespace)}/{name}"
        until(f"{name} runs", lambda: self._api.get(path)["status"].get("active", 0) >= pods)

    def delete(self, name: str, *, namespace: str) -> None:
        """Delete a Job."""
        self._api.delete(f"{JOBS.format(namespace)}/{name}")

    def delete_all(self) -> None:
        """Delete all Jobs; a dispatcher has to run."""
        paths = [JOBS.format(namespace) for namespace in (NAMESPACE, ELSEWHERE, REFUSED, MOVES)]
        for path in paths:
            for job in self._api.get(path)["items"]:
                with contextlib.suppress(ApiError):
                    self._api.delete(f"{path}/{job['metadata']['name']}")
        for path in paths:
            until(f"{path} is empty", functools.partial(self._is_empty, path))

    def clear(self) -> None:
        """The first cluster as it was."""
        self.set_kubeconfig(self._first, self.kubeconfig)
        self._set_capacity(self._first, None)

    def set_kubeconfig(self, cluster: str, content: bytes) -> None:
        """Put a kubeconfig into the cluster's Secret."""
        secret = self._secret(cluster)
        secret["data"]["kubeconfig"] = base64.b64encode(content).decode()
        secret["metadata"].pop("managedFields", None)
        path = f"/api/v1/namespaces/job-dispatcher/secrets/{secret['metadata']['name']}"
        secret["metadata"].pop("resourceVersion")
        self._api._request("PUT", path, secret)

    def secrets(self, cluster: str) -> list[str]:
        """What nobody but the dispatcher may see of a cluster's credentials."""
        kubeconfig = yaml.safe_load(base64.b64decode(self._secret(cluster)["data"]["kubeconfig"]))
        user = kubeconfig["users"][0]["user"]
        return [user[field] for field in ("token", "client-key-data") if field in user]

    def _secret(self, cluster: str) -> dict[str, Any]:
        reference = self._api.get(f"{WORKERS}/{cluster}")["spec"]["kubeconfigSecretRef"]
        return self._api.get(f"/api/v1/namespaces/job-dispatcher/secrets/{reference['name']}")

    def _set_capacity(self, cluster: str, parallelism: int | None) -> None:
        patch = {"spec": {"capacity": None if parallelism is None else {"parallelism": parallelism}}}
        self._api._request(
            "PATCH", f"{WORKERS}/{cluster}", patch, content_type="application/merge-patch+json"
        )

    def _is_empty(self, path: str) -> bool:
        return not self._api.get(path)["items"]
