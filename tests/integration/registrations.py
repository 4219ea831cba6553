"""WorkerClusters and their Secrets as a person edits them."""

import asyncio
import base64
import copy
import uuid
from collections.abc import Callable
from typing import Any

import yaml

from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path

Manifest = dict[str, Any]
NAMESPACE = "job-dispatcher"
CLUSTERS = resource_path("jobdispatcher.io/v1alpha1", "workerclusters")
SECONDS = 60.0


def secret_path(name: str) -> str:
    return resource_path("v1", "secrets", namespace=NAMESPACE, name=name)


class Registrations:
    """WorkerClusters and their Secrets as a person edits them."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._made: list[str] = []
        self._changed: dict[str, Manifest] = {}

    async def kubeconfig(self, worker: str) -> Manifest:
        """The one that the lab has registered."""
        reply = await self._api.get(secret_path(worker))
        assert reply.body is not None, reply
        self._changed.setdefault(worker, reply.body["data"])
        found: Manifest = yaml.safe_load(base64.b64decode(self._changed[worker]["kubeconfig"]))
        return found

    async def add(self, content: Manifest | str | None) -> str:
        """A WorkerCluster with this kubeconfig (None: a Secret without the key). Returns its name."""
        name = f"bad-{uuid.uuid4().hex[:8]}"
        self._made.append(name)
        data = {} if content is None else {"kubeconfig": _text(content)}
        secret = {"metadata": {"name": name}, "stringData": data}
        path = resource_path("v1", "secrets", namespace=NAMESPACE)
        assert (await self._api.request("POST", path, body=secret)).ok
        cluster = {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "WorkerCluster",
            "metadata": {"name": name},
            "spec": {"kubeconfigSecretRef": {"name": name}},
        }
        assert (await self._api.request("POST", CLUSTERS, body=cluster)).ok
        return name

    async def change(self, worker: str, content: Manifest) -> None:
        """Other content for the Secret of a registered cluster."""
        data = {"kubeconfig": base64.b64encode(_text(content).encode()).decode()}
        await self._put(worker, data)

    async def restore(self) -> None:
        """All as it was, and Ready."""
        for worker, data in self._changed.items():
            await self._put(worker, data)
        for name in self._made:
            await self._api.request("DELETE", f"{CLUSTERS}/{name}")
            await self._api.request("DELETE", secret_path(name))
        for worker in self._changed:
            await self.ready_when(worker, lambda entry: entry["status"] == "True")
        for name in self._made:
            async with asyncio.timeout(SECONDS):
                while (await self._api.get(f"{CLUSTERS}/{name}")).ok:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)

    async def ready_when(
        self, name: str, condition: Callable[[Manifest], bool], *, seconds: float = SECONDS
    ) -> Manifest:
        """The Ready condition once it is so."""
        entry: Manifest = {}
        try:
            async with asyncio.timeout(seconds):
                while True:
                    reply = await self._api.get(f"{CLUSTERS}/{name}")
                    status = (reply.body or {}).get("status") or {}
                    entry = next((e for e in status.get("conditions", ()) if e["type"] == "Ready"), {})
                    if entry and condition(entry):
                        return entry
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{name} did not get there; last seen: {entry}") from None

    async def _put(self, worker: str, data: Manifest) -> None:
        reply = await self._api.request(
            "PATCH", secret_path(worker), body={"data": data}, content_type=MERGE_PATCH
        )
        assert reply.ok, reply


def _text(content: Manifest | str) -> str:
    return content if isinstance(content, str) else yaml.safe_dump(content)


def changed(
    kubeconfig: Manifest, *, cluster: Manifest | None = None, user: Manifest | None = None
) -> Manifest:
    """A copy with other fields; None takes a field away."""
    copied = copy.deepcopy(kubeconfig)
    for target, changes in ((copied["clusters"][0]["cluster"], cluster), (copied["users"][0]["user"], user)):
        for field, value in (changes or {}).items():
            target.pop(field, None)
            if value is not None:
                target[field] = value
    return copied
