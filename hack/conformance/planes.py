"""The API servers of a run: their Jobs, pods and Events, kept by watches, and the writes of a user and a kubelet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import JSON as CONTENT_JSON
from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.clusters.reflector import Reflector
from dispatcher.clusters.reply import Reply
from hack.conformance import program
from hack.conformance.scenario import RUN_LABEL, SCENARIO_LABEL

JSON = dict[str, Any]
STRATEGIC_MERGE = "application/strategic-merge-patch+json"


class Refused(RuntimeError):
    """The server said no to a step."""


class Plane:
    """One API server. ``jobs`` and ``events`` are what is there; ``pods`` are all that ever were, by UID."""

    def __init__(self, name: str, api: ApiServer, run: str, *, node: Path | None = None) -> None:
        """``node``: of a plane with one real node, the root of the node's mount namespace."""
        self.name = name
        self.api = api
        self._node = node
        self.pods: dict[str, JSON] = {}
        self.jobs = ObjectCache()
        self.events: list[JSON] = []
        self._run = run
        self._pods = ObjectCache(on_change=self._pod_changed, on_delete=self._pod_deleted)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def connect(cls, name: str, kubeconfig: Path, run: str, *, node: Path | None = None) -> Plane:
        """A plane by a kubeconfig with an administrator's rights; ``node``: as above."""
        return cls(name, ApiServer(await load_kubeconfig_file(kubeconfig), timeout=30.0), run, node=node)

    @property
    def is_real(self) -> bool:
        """Whether its pods truly run."""
        return self._node is not None

    async def start(self) -> None:
        """Watches from now on; returns once the first lists are in."""
        selector = f"{RUN_LABEL}={self._run}"
        reflectors = [
            Reflector(self.api, "/apis/batch/v1/jobs", self.jobs, label_selector=f"{SCENARIO_LABEL}"),
            Reflector(self.api, "/api/v1/pods", self._pods, label_selector=selector),
        ]
        self._tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]
        for reflector in reflectors:
            await reflector.synced.wait()

    async def stop(self) -> None:
        """Ends the watches and the connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.api.close()

    def jobs_of(self, namespace: str, scenario: str) -> list[JSON]:
        """The Jobs of a scenario, by name."""
        found = [job for job in self.jobs if _belongs(job, namespace, scenario)]
        return sorted(found, key=lambda job: job["metadata"]["name"])

    def pods_of(self, namespace: str, scenario: str) -> Iterator[JSON]:
        """All pods of a scenario that ever were, each in its last state."""
        return (pod for pod in list(self.pods.values()) if _belongs(pod, namespace, scenario))

    async def request(
        self, method: str, path: str, body: JSON | None = None, content_type: str = CONTENT_JSON
    ) -> JSON:
        """A write. Raises Refused."""
        reply: Reply = await self.api.request(method, path, body=body, content_type=content_type)
        if not reply.ok:
            raise Refused(f"{self.name}: {method} {path}: {reply}")
        return reply.body or {}

    async def make_namespace(self, name: str) -> None:
        """A namespace of the run, ready to take pods."""
        await self.request(
            "POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": {RUN_LABEL: self._run}}}
        )
        for path in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
            while not (await self.api.get(f"/api/v1/namespaces/{name}/{path}")).ok:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def patch_job(self, job: JSON, patch: JSON) -> JSON:
        """A merge patch of a Job's spec or metadata."""
        return await self.request("PATCH", job_path(job), patch, MERGE_PATCH)

    async def delete_pod(self, pod: JSON) -> None:
        """As by kubectl delete pod."""
        metadata = pod["metadata"]
        path = resource_path("v1", "pods", namespace=metadata["namespace"], name=metadata["name"])
        await self.request("DELETE", path, {})

    async def finish_pod(self, pod: JSON, code: int, *, disrupted: bool = False) -> None:
        """What a kubelet writes when a pod's containers end for good; ``disrupted``: by an eviction."""
        if self._node is not None:
            assert not disrupted
            file = self._node / program.told(pod["metadata"]["namespace"], pod["metadata"]["name"])[1:]
            file.write_text(f"{code}\n")
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = {
            "exitCode": code,
            "reason": "Completed" if code == 0 else "Error",
            "startedAt": now,
            "finishedAt": now,
        }
        containers = [
            {**status, "ready": False, "started": False, "state": {"terminated": ended}, "lastState": {}}
            for status in pod["status"].get("containerStatuses", [])
        ]
        conditions = [{"type": kind, "status": "False"} for kind in ("Ready", "ContainersReady")]
        if disrupted:
            conditions.append(
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "EvictionByEvictionAPI",
                    "message": "Eviction",
                }
            )
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": containers,
            "conditions": conditions,
        }
        metadata = pod["metadata"]
        path = resource_path(
            "v1", "pods", namespace=metadata["namespace"], name=metadata["name"], sub="status"
        )
        await self.request(
            "PATCH", path, {"metadata": {"uid": metadata["uid"]}, "status": status}, STRATEGIC_MERGE
        )

    async def load_events(self, namespace: str) -> list[JSON]:
        """The Events of a namespace."""
        reply = await self.api.get(f"/api/v1/namespaces/{namespace}/events")
        return list((reply.body or {}).get("items", []))

    def _pod_changed(self, old: JSON | None, new: JSON | None) -> None:
        if new is not None:
            self.pods[new["metadata"]["uid"]] = new

    def _pod_deleted(self, last: JSON, final: bool) -> None:
        self.pods[last["metadata"]["uid"]] = {**last, "gone": True}


def job_path(job: JSON) -> str:
    """Where a Job is."""
    metadata = job["metadata"]
    return resource_path("batch/v1", "jobs", namespace=metadata["namespace"], name=metadata["name"])


def is_running(pod: JSON) -> bool:
    """Whether its containers run and nobody has told them to end."""
    return (
        pod["status"].get("phase") == "Running"
        and not pod["metadata"].get("deletionTimestamp")
        and "gone" not in pod
    )


def _belongs(item: JSON, namespace: str, scenario: str) -> bool:
    metadata = item["metadata"]
    return (
        metadata["namespace"] == namespace and (metadata.get("labels") or {}).get(SCENARIO_LABEL) == scenario
    )
