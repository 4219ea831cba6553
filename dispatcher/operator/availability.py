"""Whether the management API server can be written to; while it cannot, writes wait together instead of failing each.

A server that has just started listens before it knows anybody's rights, and answers 403 to everybody. So after any
request without an answer, writes wait until /readyz says that it is ready.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from dispatcher.clusters.client import ApiServer

logger = logging.getLogger(__name__)

PROBE_SECONDS: Final = 0.5
PROBE_TIMEOUT: Final = 5.0
FORBIDDEN_SECONDS: Final = 10.0
"""A server that forbids us /readyz for so long is taken as ready: its roles may leave that out."""
GATEWAY_CODES: Final = frozenset({0, 502, 503, 504})
"""No answer, from the server or from what stands before it."""

Observe = Callable[[str, str, int, float], None]


class Availability:
    """Fed by :meth:`observe` with the code of every request; :meth:`wait` holds writes back."""

    def __init__(self) -> None:
        self._available = asyncio.Event()
        self._available.set()
        self._task: asyncio.Task[None] | None = None
        self._api: ApiServer | None = None
        self._tells = True
        """Whether we may ask /readyz at all."""

    def attach(self, api: ApiServer) -> None:
        """The client to probe with."""
        self._api = api

    def observing(self, observe: Observe) -> Observe:
        """A hook for the client that tells this object as well."""

        def both(method: str, resource: str, code: int, seconds: float) -> None:
            observe(method, resource, code, seconds)
            if code in GATEWAY_CODES:
                self.suspect()

        return both

    def suspect(self) -> None:
        """A request had no answer: probe until the server is ready."""
        if self._api is None or self._task is not None:
            return
        self._available.clear()
        logger.warning("the management API server does not answer; writes wait until it is ready")
        self._task = asyncio.get_running_loop().create_task(self._probe(self._api))

    async def knows_rights(self) -> bool:
        """After a 403: whether the server was ready when it said so. If not, writes wait until it is."""
        if self._api is None or not self._tells:
            return True
        code = (await self._api.get("/readyz", timeout=PROBE_TIMEOUT)).code
        if code in (200, 401, 404):
            return True
        self.suspect()
        return False

    async def wait(self) -> None:
        """Return once the server is thought to answer."""
        await self._available.wait()

    async def stop(self) -> None:
        """End the probe; nobody waits any more."""
        self._api = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._available.set()

    async def _probe(self, api: ApiServer) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        forbidden_since: float | None = None
        try:
            while True:
                code = (await api.get("/readyz", timeout=PROBE_TIMEOUT)).code
                if code != 403:
                    forbidden_since = None
                elif forbidden_since is None:
                    forbidden_since = loop.time()
                patient = forbidden_since is not None and loop.time() - forbidden_since < FORBIDDEN_SECONDS
                if code == 403 and not patient:
                    self._tells = False
                    return
                if code in (200, 401, 404):
                    return
                await asyncio.sleep(PROBE_SECONDS)
        finally:
            self._task = None
            self._available.set()
            if self._api is not None:
                logger.info("writes go on", extra={"waited_seconds": round(loop.time() - began, 1)})
