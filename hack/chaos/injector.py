"""Carries out faults: one at a time for each target, several targets at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

from hack.chaos import gateway, proxy
from hack.chaos.faults import Fault, Injected, Kind
from hack.chaos.scene import Scene
from hack.lab.component import Component

COMPONENTS = {
    Kind.APISERVER_KILLED: "kube-apiserver",
    Kind.APISERVER_STOPPED: "kube-apiserver",
    Kind.ETCD_KILLED: "etcd",
    Kind.ETCD_STOPPED: "etcd",
    Kind.CONTROLLERS_KILLED: "kube-controller-manager",
    Kind.CONTROLLERS_STOPPED: "kube-controller-manager",
}
KILLED = frozenset({Kind.APISERVER_KILLED, Kind.ETCD_KILLED, Kind.CONTROLLERS_KILLED})
PROXY = {
    Kind.CONNECTIONS_CUT: proxy.Trouble.CUT,
    Kind.CONNECTIONS_DELAYED: proxy.Trouble.DELAY,
    Kind.CONNECTIONS_TRUNCATED: proxy.Trouble.TRUNCATE,
    Kind.CONNECTIONS_HUNG: proxy.Trouble.HANG,
}
GATEWAY = {
    Kind.ANSWERS_429: gateway.Trouble.THROTTLE,
    Kind.ANSWERS_500: gateway.Trouble.ERROR,
    Kind.ANSWERS_410: gateway.Trouble.EXPIRED,
    Kind.ANSWERS_LOST: gateway.Trouble.LOSE,
}
TOKEN_CACHE_SECONDS = 10.0
"""For so long an API server goes on to accept a token that it has accepted before."""


class Injector:
    """``clock``: seconds since the run began. ``report`` is told when a fault begins."""

    def __init__(self, scene: Scene, *, clock: Callable[[], float], report: Callable[[str], None]) -> None:
        self._scene = scene
        self._clock = clock
        self._report = report
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.injected: list[Injected] = []

    async def run(self, faults: list[Fault]) -> None:
        """All of them, each at its time, or when the one before it on the same target is over."""
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, fault.at - self._clock()))
                group.create_task(self._inject(fault))

    async def _inject(self, fault: Fault) -> None:
        async with self._locks[fault.target]:
            begin = self._clock()
            self._report(f"{begin:5.1f} s: {fault}")
            async with self._acting(fault):
                await asyncio.sleep(fault.seconds)
            self.injected.append(Injected(fault, begin, self._clock()))

    @contextlib.asynccontextmanager
    async def _acting(self, fault: Fault) -> AsyncIterator[None]:
        scene, kind, target = self._scene, fault.kind, fault.target
        if kind in COMPONENTS:
            async with self._component(target, COMPONENTS[kind], killed=kind in KILLED):
                yield
        elif kind is Kind.DISPATCHER_KILLED:
            await asyncio.to_thread(scene.dispatcher.kill)
            yield
            await scene.dispatcher.restart()
        elif kind is Kind.DISPATCHER_STOPPED:
            scene.dispatcher.pause()
            yield
            scene.dispatcher.resume()
        elif kind is Kind.TOKEN_REVOKED:
            await scene.revoke(target)
            await asyncio.sleep(TOKEN_CACHE_SECONDS)
            yield
            await scene.rotate(target)
        elif kind is Kind.TOKEN_ROTATED:
            await scene.rotate(target)
            yield
        elif kind in PROXY:
            scene.proxies[target].set(PROXY[kind])
            yield
            scene.proxies[target].set(proxy.Trouble.NONE)
        else:
            await scene.gateways[target].set(GATEWAY[kind])
            yield
            await scene.gateways[target].set(gateway.Trouble.NONE)

    @contextlib.asynccontextmanager
    async def _component(self, target: str, name: str, *, killed: bool) -> AsyncIterator[None]:
        plane = self._scene.plane(target)
        component: Component = next(entry for entry in plane.components if entry.name == name)
        if killed:
            await asyncio.to_thread(component.kill)
        else:
            await asyncio.to_thread(component.pause)
        yield
        if killed:
            await asyncio.to_thread(component.start)
        else:
            component.resume()
        # The plane answers again before the next fault of it.
        await asyncio.to_thread(plane.apiserver.wait_healthy)
