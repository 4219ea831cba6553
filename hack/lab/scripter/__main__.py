"""One process per plane: follows the pods with an annotation of the lab and plays each."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

from hack.lab.scripter.attempts import Attempts
from hack.lab.scripter.pods import PodGone, PodLife
from hack.lab.scripter.script import SCRIPT, TERMINATION

JSON = dict[str, Any]

# Pods without our annotations are told apart in the raw line: they must not cost Python time.
OURS = b'"lab.jobdispatcher.io/'
BOOKMARK, ERROR = b'{"type":"BOOKMARK"', b'{"type":"ERROR"'
STRATEGIC_MERGE = "application/strategic-merge-patch+json"
WATCH_SECONDS = 600


class Relist(Exception):
    """The watch cannot go on; the pods must be listed again."""


class Plane:
    """One API server: its pods, and writes to them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._attempts = Attempts()
        self._lives: dict[str, PodLife] = {}
        self._fake_nodes: dict[str, bool] = {}

    async def follow(self) -> None:
        """Lists and watches for ever."""
        pause = 0.1
        while True:
            try:
                version = await self._list()
                pause = 0.1
                while True:
                    version = await self._watch(version)
            except Relist:
                pass
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                print(f"scripter: {error!r}; trying again in {pause:.1f} s", file=sys.stderr)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)

    async def _list(self) -> str:
        async with self._session.get("/api/v1/pods") as response:
            response.raise_for_status()
            content: JSON = orjson.loads(await response.read())
        pods = [pod for pod in content["items"] if _is_ours(pod)]
        pods.sort(
            key=lambda pod: (pod["metadata"]["creationTimestamp"], int(pod["metadata"]["resourceVersion"]))
        )
        for gone in self._lives.keys() - {pod["metadata"]["uid"] for pod in pods}:
            self._lives.pop(gone).forget()
        for pod in pods:
            await self._observe(pod)
        version: str = content["metadata"]["resourceVersion"]
        return version

    async def _watch(self, version: str) -> str:
        """Follows from `version` until the server ends it; gives the version to go on from."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with self._session.get("/api/v1/pods", params=query, timeout=timeout) as response:
            if response.status == 410:
                raise Relist
            response.raise_for_status()
            async for line in _lines(response.content):
                if OURS not in line and not line.startswith((BOOKMARK, ERROR)):
                    continue
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    raise Relist
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] == "DELETED":
                    if life := self._lives.pop(event["object"]["metadata"]["uid"], None):
                        life.forget()
                elif event["type"] != "BOOKMARK" and _is_ours(event["object"]):
                    await self._observe(event["object"])
        return version

    async def _observe(self, pod: JSON) -> None:
        uid = pod["metadata"]["uid"]
        if node := pod["spec"].get("nodeName"):
            if node not in self._fake_nodes:
                self._fake_nodes[node] = await self._is_fake(node)
            if not self._fake_nodes[node]:
                return
        if life := self._lives.get(uid):
            life.observe(pod)
        else:
            self._lives[uid] = PodLife(pod, attempts=self._attempts, writer=self, record=_log)

    async def _is_fake(self, node: str) -> bool:
        async with self._session.get(f"/api/v1/nodes/{node}") as response:
            if response.status == 404:
                return False
            response.raise_for_status()
            annotations = orjson.loads(await response.read())["metadata"].get("annotations", {})
        return bool(annotations.get("kwok.x-k8s.io/node") == "fake")

    async def patch(self, pod: JSON, *, status: JSON, annotations: dict[str, str]) -> None:
        """A status and annotations in one write: the server keeps metadata that comes with a status."""
        metadata = {"uid": pod["metadata"]["uid"], "annotations": annotations}
        await self._request(
            "PATCH", f"{_path(pod)}/status", {"metadata": metadata, "status": status}, STRATEGIC_MERGE
        )

    async def remove(self, pod: JSON) -> None:
        """A kubelet's last word on a pod."""
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod["metadata"]["uid"]}}
        await self._request("DELETE", _path(pod), options, "application/json")

    async def _request(self, method: str, path: str, body: JSON, content_type: str) -> None:
        pause = 0.1
        while True:
            with contextlib.suppress(aiohttp.ClientError, OSError, TimeoutError):
                headers = {"Content-Type": content_type}
                async with self._session.request(
                    method, path, data=orjson.dumps(body), headers=headers
                ) as response:
                    if response.status < 300:
                        return
                    text = await response.text()
                    if response.status in (404, 409):  # gone, or another pod of the same name
                        raise PodGone
                    print(f"scripter: {method} {path}: {response.status} {text[:300]}", file=sys.stderr)
                    if response.status < 500 and response.status != 429:
                        raise PodGone  # refused for good: nothing more can be done for this pod
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)


def _log(record: JSON) -> None:
    """A line of the scripter's log: what ran where, also after the pod is gone."""
    print(orjson.dumps(record).decode())


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length (aiohttp's own reader refuses long ones)."""
    rest = bytearray()
    async for chunk in content.iter_any():
        rest += chunk
        if b"\n" not in chunk:
            continue
        *lines, last = rest.split(b"\n")
        rest = bytearray(last)
        for line in lines:
            yield bytes(line)


def _is_ours(pod: JSON) -> bool:
    annotations = pod["metadata"].get("annotations", {})
    return SCRIPT in annotations or TERMINATION in annotations


def _path(pod: JSON) -> str:
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


async def _run(arguments: argparse.Namespace) -> None:
    context = ssl.create_default_context(cafile=arguments.authority)
    context.load_cert_chain(arguments.certificate, arguments.key)
    connector = aiohttp.TCPConnector(ssl=context, limit=64)
    timeout = aiohttp.ClientTimeout(total=30)
    headers = {"User-Agent": "job-dispatcher-lab-scripter"}
    async with aiohttp.ClientSession(
        arguments.server, connector=connector, timeout=timeout, headers=headers
    ) as session:
        following = asyncio.create_task(Plane(session).follow())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, following.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await following


def main() -> None:
    """The command line that components.scripter writes."""
    parser = argparse.ArgumentParser(prog="scripter", description=__doc__)
    for name in ("server", "authority", "certificate", "key"):
        parser.add_argument(f"--{name}", required=True)
    asyncio.run(_run(parser.parse_args()))


if __name__ == "__main__":
    main()
