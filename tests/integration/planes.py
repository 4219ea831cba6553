"""The lab's planes as integration tests see them: clients, Jobs, and waiting for conditions."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.core import names

WAIT_SECONDS = 60.0


class Planes:
    """Clients for all planes of the lab, as their administrator, and one namespace that all of them have."""

    def __init__(self, management: ApiServer, workers: list[ApiServer], *, namespace: str) -> None:
        self.management = management
        self.workers = workers
        self.namespace = namespace

    async def create(self, job: dict[str, Any], *, on: ApiServer | None = None) -> dict[str, Any]:
        """POST a Job, on the management plane unless said otherwise."""
        reply = await jobs.create_job(on or self.management, job["metadata"]["namespace"], job)
        assert reply.ok, reply
        assert reply.body is not None
        return reply.body

    async def delete(self, name: str) -> None:
        """Delete a management Job, if it is there."""
        found = await jobs.get_job(self.management, self.namespace, name)
        if found.ok and found.body is not None:
            await jobs.delete_job(self.management, self.namespace, name, found.body["metadata"]["uid"])

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
