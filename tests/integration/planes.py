"""The lab's planes as integration tests see them: clients, Jobs, and waiting for conditions."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from dispatcher.clusters import jobs
from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path
from dispatcher.clusters.reply import Reply
from dispatcher.core import names

API = f"{names.API_GROUP}/{names.API_VERSION}"
WAIT_SECONDS = 60.0
MANAGED_BY = "jobdispatcher.io/integration"
"""The value of the dispatcher that most tests share."""
NEVER_ENDS = [{"exit": None}]
"""A script: pods that run until they are deleted."""


class Planes:
    """Clients for all planes of the lab, as their administrator, and one namespace that all of them have."""

    def __init__(
        self,
        management: ApiServer,
        workers: list[ApiServer],
        *,
        namespace: str,
        debug_state: Callable[[], dict[str, Any]] = dict,
    ) -> None:
        """``debug_state``: what the dispatcher's /debug/state says now, for changes of policies and clusters."""
        self.management = management
        self.workers = workers
        self.namespace = namespace
        self._debug_state = debug_state

    async def create(self, job: dict[str, Any], *, on: ApiServer | None = None) -> dict[str, Any]:
        """POST a Job, on the management plane unless said otherwise."""
        reply = await jobs.create_job(on or self.management, job["metadata"]["namespace"], job)
        assert reply.ok, reply
        assert reply.body is not None
        return reply.body

    async def apply_policy(self, name: str = names.DEFAULT_POLICY_NAME, **spec: Any) -> None:
        """Make the policy of the namespace, or put another in its place, and wait until the dispatcher knows it."""
        path = resource_path(API, "dispatchpolicies", namespace=self.namespace)
        metadata = {"name": name, "namespace": self.namespace}
        found = await self.management.get(f"{path}/{name}")
        if found.ok and found.body is not None:
            metadata["resourceVersion"] = found.body["metadata"]["resourceVersion"]
        body = {"apiVersion": API, "kind": "DispatchPolicy", "metadata": metadata, "spec": spec}
        method, path = ("PUT", f"{path}/{name}") if found.ok else ("POST", path)
        reply = await self.management.request(method, path, body=body)
        await self._known("policies", f"{self.namespace}/{name}", reply)

    async def change_cluster(self, name: str, patch: dict[str, Any]) -> None:
        """Patch the WorkerCluster, and wait until the dispatcher knows it."""
        path = resource_path(API, "workerclusters", name=name)
        reply = await self.management.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
        await self._known("clusters", name, reply)

    async def _known(self, kind: str, name: str, reply: Reply) -> None:
        """Wait until the dispatcher knows what this reply to a write of a policy or cluster shows: its watches on
        different resources bring news in no particular order. ``kind``: "policies" or "clusters".
        """
        assert reply.ok, reply
        assert reply.body is not None
        wanted = int(reply.body["metadata"]["resourceVersion"])
        found: dict[str, Any] = {}
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    found = await asyncio.to_thread(self._debug_state)
                    entry = found[kind].get(name) or "0"
                    if int(entry["resourceVersion"] if isinstance(entry, dict) else entry) >= wanted:
                        return
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"the dispatcher does not know {name}: {json.dumps(found[kind])}") from None

    async def delete(self, name: str) -> None:
        """Delete a management Job, if it is there."""
        found = await jobs.get_job(self.management, self.namespace, name)
        if found.ok and found.body is not None:
            await jobs.delete_job(self.management, self.namespace, name, found.body["metadata"]["uid"])

    async def delete_all(self) -> None:
        """Delete the namespace's management Jobs, and wait until they are gone."""
        listed = await jobs.list_jobs(self.management, self.namespace)
        left = [item["metadata"]["name"] for item in (listed.body or {}).get("items", ())]
        for name in left:
            await self.delete(name)
        for name in left:
            await self.job_when(name, lambda job: job is None)

    async def job_when(
        self,
        name: str,
        condition: Callable[[dict[str, Any] | None], bool],
        *,
        on: ApiServer | None = None,
        namespace: str = "",
    ) -> Any:
        """The Job (None: it is gone) once it meets a condition."""
        found: dict[str, Any] | None = None
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    reply = await jobs.get_job(on or self.management, namespace or self.namespace, name)
                    found = reply.body if reply.ok else None
                    if condition(found):
                        return found
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{name} did not get there; last seen: {json.dumps(found)}") from None

    async def mirrors(self, uid: str) -> list[dict[str, Any]]:
        """All mirrors of a Job, in order of the workers."""
        selector = f"{names.JOB_UID_LABEL}={uid}"
        replies = [await jobs.list_jobs(api, label_selector=selector) for api in self.workers]
        return [item for reply in replies for item in (reply.body or {})["items"]]

    async def pods(self, api: ApiServer) -> list[dict[str, Any]]:
        """The pods that one plane has in the namespace."""
        reply = await api.get(f"/api/v1/namespaces/{self.namespace}/pods")
        assert reply.body is not None, reply
        items: list[dict[str, Any]] = reply.body["items"]
        return items

    async def pods_when(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until all workers' pods in the namespace, together, meet a condition."""
        found: list[dict[str, Any]] = []
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                while True:
                    found = [pod for api in self.workers for pod in await self.pods(api)]
                    if condition(found):
                        return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            seen = [(pod["metadata"]["name"], pod["status"].get("phase")) for pod in found]
            raise AssertionError(f"the pods did not get there; last seen: {seen}") from None

    async def patch(self, name: str, patch: dict[str, Any], *, on: ApiServer | None = None) -> None:
        """Merge-patch a Job, on the management plane unless said otherwise."""
        reply = await jobs.patch_job(on or self.management, self.namespace, name, patch)
        assert reply.ok, reply

    async def refused_when_created(self, api: ApiServer) -> None:
        """Wait until a plane refuses Jobs in the namespace: quotas and policies take a moment to be in force."""
        probe = make_job("probe", managed_by=None, namespace=self.namespace)
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                if not (await jobs.create_job(api, self.namespace, probe, dry_run=True)).ok:
                    return
                await asyncio.sleep(0.05)

    async def event_when(self, name: str, reason: str) -> None:
        """Wait until an Event with this reason is on the Job."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                reply = await self.management.get(f"/api/v1/namespaces/{self.namespace}/events")
                items = (reply.body or {})["items"]
                if any(item["involvedObject"]["name"] == name and item["reason"] == reason for item in items):
                    return
                await asyncio.sleep(0.05)


def make_job(
    name: str, *, managed_by: str | None, namespace: str, script: Any = None, **spec: Any
) -> dict[str, Any]:
    """A Job of one container; ``script`` says what its pods do (none: succeed at once)."""
    container = {"name": "c", "image": "example.com/none"}
    template: dict[str, Any] = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    if script is not None:
        template["metadata"] = {"annotations": {"lab.jobdispatcher.io/script": json.dumps(script)}}
    if managed_by is not None:
        spec["managedBy"] = managed_by
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"template": template, **spec},
    }


def count(job: dict[str, Any] | None, field: str) -> int:
    """One counter of the Job's status; 0 where it is absent."""
    return int(((job or {}).get("status") or {}).get(field) or 0)


def summary(job: dict[str, Any]) -> dict[str, Any]:
    """Counts and conditions, without times and without what only a dispatched Job has."""
    status = job["status"]
    counts = {key: value for key, value in status.items() if isinstance(value, int)}
    conditions = {
        (entry["type"], entry["status"], entry.get("reason"), entry.get("message"))
        for entry in status.get("conditions", ())
        if entry["type"] not in (names.DISPATCHED, names.FULLY_PLACED)
    }
    return {"counts": counts, "conditions": conditions, "keys": set(status) - {"conditions"}}


def condition(job: dict[str, Any] | None, kind: str) -> dict[str, Any] | None:
    """One entry of the Job's conditions."""
    entries = ((job or {}).get("status") or {}).get("conditions") or ()
    return next((entry for entry in entries if entry["type"] == kind), None)


def is_true(job: dict[str, Any] | None, kind: str) -> bool:
    """Whether a condition stands at True."""
    found = condition(job, kind)
    return found is not None and found["status"] == "True"


def is_complete(job: dict[str, Any] | None) -> bool:
    """Complete is True."""
    return is_true(job, "Complete")


def is_dispatched(job: dict[str, Any] | None) -> bool:
    """Dispatched is True."""
    return is_true(job, names.DISPATCHED)


def has_reason(kind: str, reason: str) -> Callable[[dict[str, Any] | None], bool]:
    """A test of a Job: this condition is there with this reason."""
    return lambda job: (condition(job, kind) or {}).get("reason") == reason
