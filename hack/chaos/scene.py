"""The planes of a run: what lies between the dispatcher and each worker, the dispatcher itself, and a namespace."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hack.chaos.gateway import Gateway
from hack.chaos.proxy import TcpProxy
from hack.lab import Lab, Plane
from hack.lab.api import ApiError, kubeconfig
from hack.lab.ports import ADDRESS
from hack.lab.registration import ACCOUNT, NAMESPACE, register
from hack.running import Controller

RETRY_SECONDS = 0.3
GIVE_UP_SECONDS = 120.0
REJECTED = re.compile(r"^job_dispatcher_status_writes_rejected_total(?:{.*})? (\S+)$", re.MULTILINE)


async def insist(act: Callable[[], Any], *, accept: frozenset[int] = frozenset(), until: int = 0) -> Any:
    """Call ``act`` (blocking, in a thread) until an API server takes it; refusals in ``accept`` (codes) give None.

    The code ``until`` is tried again as well.

    Raises ApiError for a refusal that a second try does not change, or after two minutes.
    """
    end = asyncio.get_running_loop().time() + GIVE_UP_SECONDS
    while True:
        try:
            return await asyncio.to_thread(act)
        except ApiError as error:
            if error.code in accept:
                return None
            passing = error.code in (0, until, 401, 408, 429) or error.code >= 500
            if not passing or asyncio.get_running_loop().time() > end:
                raise
        await asyncio.sleep(RETRY_SECONDS)


class DispatcherProcess:
    """The dispatcher, started again whenever it ends, as a Deployment would; and its counters over all its lives."""

    def __init__(self, lab: Lab, *, managed_by: str) -> None:
        self._lab = lab
        self._managed_by = managed_by
        self._controller: Controller | None = None
        self._wanted = False
        self._task: asyncio.Task[None] | None = None
        self._rejected: dict[int, float] = {}
        self.ended_by_itself = 0
        """How often it ended though nobody killed it."""

    async def start(self) -> None:
        """Start, wait until every cluster is Ready, keep it running from now on."""
        self._controller = await asyncio.to_thread(Controller.start, self._lab, managed_by=self._managed_by)
        self._wanted = True
        self._task = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it in order."""
        self._wanted = False
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._controller is not None:
            self._controller.resume()
            await asyncio.to_thread(self._controller.stop)

    def kill(self) -> None:
        """SIGKILL; it stays away until :meth:`restart`."""
        assert self._controller is not None
        self._wanted = False
        self._controller.kill()

    async def restart(self) -> None:
        """A new process; does not wait for anything."""
        self._controller = await asyncio.to_thread(
            lambda: Controller.start(self._lab, managed_by=self._managed_by, wait=False)
        )
        self._wanted = True

    def pause(self) -> None:
        """SIGSTOP."""
        assert self._controller is not None
        self._controller.pause()

    def resume(self) -> None:
        """SIGCONT."""
        assert self._controller is not None
        self._controller.resume()

    @property
    def rejected_writes(self) -> float:
        """job_dispatcher_status_writes_rejected_total over all its lives, as last seen of each."""
        return sum(self._rejected.values())

    @property
    def log(self) -> Path:
        """The log of all its lives."""
        assert self._controller is not None
        return self._controller.log

    async def look(self) -> None:
        """Read the counters of the life that runs now."""
        controller = self._controller
        if controller is None:
            return
        with contextlib.suppress(OSError):
            text = await asyncio.to_thread(controller.metrics)
            self._rejected[controller.pid] = sum(float(value) for value in REJECTED.findall(text))

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if not self._wanted:
                continue
            assert self._controller is not None
            if self._controller.is_running:
                await self.look()
            elif self._wanted:
                self.ended_by_itself += 1
                await self.restart()


class Scene:
    """An async context. worker-1 is behind a TCP proxy, worker-2 behind a gateway, worker-3 is reached directly, …"""

    def __init__(
        self, lab: Lab, *, seed: int, managed_by: str, namespace: str, failover_after: int | None = None
    ) -> None:
        """``failover_after``: seconds, in a DispatchPolicy for the namespace."""
        self.lab = lab
        self._failover_after = failover_after
        self.namespace = namespace
        self.managed_by = managed_by
        self.proxies: dict[str, TcpProxy] = {}
        self.gateways: dict[str, Gateway] = {}
        self.dispatcher = DispatcherProcess(lab, managed_by=managed_by)
        self._rng = random.Random(f"gateway {seed}")
        self._tokens: dict[str, str] = {}
        self._tokens_made = 0
        self._stack = contextlib.AsyncExitStack()

    @property
    def workers(self) -> list[str]:
        """Names of the worker clusters."""
        return [plane.name for plane in self.lab.workers]

    def plane(self, name: str) -> Plane:
        """The plane of that name."""
        return next(plane for plane in self.lab.planes if plane.name == name)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            await self._enter(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def _enter(self, stack: contextlib.AsyncExitStack) -> None:
        for plane in self.lab.planes:
            await self._make_namespace(plane)
            stack.push_async_callback(self._remove_namespace, plane)
        if self._failover_after is not None:
            await self._make_policy(self._failover_after)
        for number, plane in enumerate(self.lab.workers):
            before = await self._secret(plane.name)
            stack.push_async_callback(self._restore, plane.name, before["data"])
            port = plane.apiserver.port
            assert port is not None
            if number % 3 == 0:
                proxy = self.proxies[plane.name] = TcpProxy(port)
                await proxy.start()
                stack.push_async_callback(proxy.stop)
            elif number % 3 == 1:
                gateway = self.gateways[plane.name] = Gateway(
                    plane.url,
                    authority=plane.certificates.authority,
                    folder=self.lab.folder / f"gateway-{plane.name}",
                    rng=self._rng,
                )
                await gateway.start()
                stack.push_async_callback(gateway.stop)
            await self.rotate(plane.name)
            stack.push_async_callback(self.revoke, plane.name)
        stack.push_async_callback(self.dispatcher.stop)
        await self.dispatcher.start()
        stack.push_async_callback(self.mend)

    async def mend(self) -> None:
        """Every process runs, nothing is paused, whatever was interrupted."""
        self.dispatcher.resume()
        for plane in self.lab.planes:
            for component in plane.components:
                component.resume()
                if not component.is_running():
                    await asyncio.to_thread(component.start)
        for plane in self.lab.planes:
            for component in plane.components:
                await asyncio.to_thread(component.wait_healthy)

    async def rotate(self, worker: str) -> None:
        """Put a kubeconfig with a fresh token into the Secret; the earlier token is not accepted any more."""
        earlier = self._tokens.get(worker)
        plane = self.plane(worker)
        self._tokens_made += 1
        name = f"{self.namespace}-{self._tokens_made}"
        base = f"/api/v1/namespaces/{NAMESPACE}"
        secret = await insist(
            lambda: plane.api.apply(
                {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}}
            )
        )
        bound = {"kind": "Secret", "apiVersion": "v1", "name": name, "uid": secret["metadata"]["uid"]}
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": bound},
        }
        made = await insist(lambda: plane.api.create(f"{base}/serviceaccounts/{ACCOUNT}/token", request))
        access = self._access(worker, made["status"]["token"])
        await insist(lambda: register(self.lab.management, plane, access))
        self._tokens[worker] = name
        if earlier is not None:
            await insist(lambda: plane.api.delete(f"{base}/secrets/{earlier}"), accept=frozenset({404}))

    async def revoke(self, worker: str) -> None:
        """The token in use is not accepted any more: API servers notice within 10 s (their cache of tokens)."""
        plane, name = self.plane(worker), self._tokens[worker]
        path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}"
        await insist(lambda: plane.api.delete(path), accept=frozenset({404}))

    def _access(self, worker: str, token: str) -> dict[str, Any]:
        plane = self.plane(worker)
        url, authority = plane.url, plane.certificates.authority
        if proxy := self.proxies.get(worker):
            url = f"https://{ADDRESS}:{proxy.port}"
        elif gateway := self.gateways.get(worker):
            url, authority = f"https://{ADDRESS}:{gateway.port}", gateway.authority
        return kubeconfig(name=worker, url=url, authority=authority, token=token)

    async def _secret(self, worker: str) -> dict[str, Any]:
        api = self.lab.management.api
        found: dict[str, Any] = await insist(
            lambda: api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{worker}")
        )
        return found

    async def _restore(self, worker: str, data: dict[str, str]) -> None:
        metadata = {"name": worker, "namespace": NAMESPACE}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        await insist(lambda: self.lab.management.api.apply(secret))

    async def _make_namespace(self, plane: Plane) -> None:
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}}
        await insist(lambda: plane.api.apply(manifest))
        for path in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
            await insist(
                functools.partial(plane.api.get, f"/api/v1/namespaces/{self.namespace}/{path}"), until=404
            )

    async def _make_policy(self, failover_after: int) -> None:
        policy = {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "DispatchPolicy",
            "metadata": {"name": "default", "namespace": self.namespace},
            "spec": {"failover": {"after": f"{failover_after}s"}},
        }
        await insist(lambda: self.lab.management.api.apply(policy))

    async def _remove_namespace(self, plane: Plane) -> None:
        path = f"/api/v1/namespaces/{self.namespace}"
        await insist(lambda: plane.api.delete(path), accept=frozenset({404, 409}))
