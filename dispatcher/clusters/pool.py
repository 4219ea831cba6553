"""The connection pool of ``kubernetes.aio`` as this product needs it, and its client certificates without files."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
from kubernetes.aio.client.rest import RESTClientObject

from dispatcher.clusters.kubeconfig import Credentials
from dispatcher.clusters.resolver import DaemonThreadResolver


class RestClient(RESTClientObject):
    """The pool of ``kubernetes.aio`` with connections kept longer and names resolved apart."""

    def _create_connector(self) -> aiohttp.TCPConnector:
        return _Connector(
            limit=self.maxsize,
            ssl=self.ssl_context,
            keepalive_timeout=30,
            resolver=DaemonThreadResolver(),
        )


class _Connector(aiohttp.TCPConnector):
    """Drops what is not to be used again at once.

    The TLS good-bye that would else be said waits for the server's, up to 30 s: a hung one would collect sockets.
    """

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        if should_close or protocol.should_close:
            protocol.abort()
            should_close = True
        super()._release(key, protocol, should_close=should_close)


class Slots:
    """So many requests at once, as long as others end in good time: a burst needs few connections then.

    Who has waited for ``PATIENCE`` goes on without a slot. So a server that is slow, or hangs, gets as many requests at
    once as without this, and none of them waits for another's time limit.
    """

    PATIENCE: Final = 0.5
    """Seconds."""

    def __init__(self, number: int) -> None:
        self._free = asyncio.Semaphore(number)

    async def take(self) -> bool:
        """Wait for a slot. Returns whether there is one to :meth:`give_back`."""
        if not self._free.locked():
            return await self._free.acquire()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.PATIENCE):
                return await self._free.acquire()
        return False

    def give_back(self) -> None:
        """The request has ended."""
        self._free.release()


@contextlib.contextmanager
def client_certificate(credentials: Credentials) -> Iterator[tuple[str | None, str | None]]:
    """File names of certificate and key while the TLS context is made: OpenSSL reads them from files only."""
    if not credentials.client_certificate or not credentials.client_key:
        yield None, None
        return
    with contextlib.ExitStack() as stack:
        yield (
            stack.enter_context(_secret_file(credentials.client_certificate)),
            stack.enter_context(_secret_file(credentials.client_key)),
        )


@contextlib.contextmanager
def _secret_file(text: str) -> Iterator[str]:
    """A file in memory where the system has that: no disk is touched, and a read-only root file system suffices."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("job-dispatcher", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            yield file.name
