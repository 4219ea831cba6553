"""Host names resolved so that one cluster's dead DNS delays nobody else.

The event loop's default resolver shares a handful of pool threads among all connections, and the pool is joined
when the process ends; here each look-up has a short-lived daemon thread of its own.
"""

import asyncio
import contextlib
import socket
import threading
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult


class DaemonThreadResolver(AbstractResolver):
    """``getaddrinfo`` in a daemon thread per look-up. The connector keeps answers and merges equal look-ups."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def look_up() -> None:
            try:
                found = _look_up(host, port, family)
            except Exception as error:
                _deliver(loop, answer, error)
            else:
                _deliver(loop, answer, found)

        threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
        return await answer

    async def close(self) -> None:
        """Nothing is held between look-ups."""


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=found_family,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for found_family, _, protocol, _, address in infos
    ]


def _deliver(
    loop: asyncio.AbstractEventLoop, answer: "asyncio.Future[Any]", result: list[ResolveResult] | Exception
) -> None:
    def settle() -> None:
        if answer.done():
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    # RuntimeError: the loop was closed while the name server kept us waiting.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
