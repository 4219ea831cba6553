"""A TCP proxy before an API server. It passes TLS through and can cut, delay, truncate and hang connections."""

from __future__ import annotations

import asyncio
import contextlib
from enum import StrEnum

from hack.lab.ports import ADDRESS

CHUNK = 64 * 1024
DELAY_SECONDS = 0.7
TRUNCATED_AFTER = 6_000
"""Bytes of a server's answers, headers of TLS included: enough for the handshake, too few for most lists."""


class Trouble(StrEnum):
    """What is done to connections."""

    NONE = "none"
    CUT = "cut"
    """Those that are open are reset, new ones too."""
    DELAY = "delay"
    """Each chunk, in both directions, comes late."""
    TRUNCATE = "truncate"
    """Each connection ends in the middle of an answer."""
    HANG = "hang"
    """Connections stay open, nothing goes through."""


class TcpProxy:
    """Forwards to ``port`` on the loopback interface; ``trouble`` may be set at any time."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._trouble = Trouble.NONE
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Listen on a port of its own."""
        self._server = await asyncio.start_server(self._accept, ADDRESS, 0, limit=CHUNK)

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self._reset_all()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def set(self, trouble: Trouble) -> None:
        """From now on."""
        self._trouble = trouble
        if trouble is Trouble.HANG:
            self._flows.clear()
        else:
            self._flows.set()
        if trouble is Trouble.CUT:
            self._reset_all()

    def _reset_all(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._connect(reader, writer)
        except asyncio.CancelledError:
            pass  # the server is stopped
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._trouble is Trouble.CUT:
            return
        await self._flows.wait()
        try:
            back_reader, back_writer = await asyncio.open_connection(ADDRESS, self._target, limit=CHUNK)
        except OSError:
            return
        self._writers.add(back_writer)
        try:
            ways = [
                asyncio.ensure_future(self._pump(reader, back_writer, bound=False)),
                asyncio.ensure_future(self._pump(back_reader, writer, bound=True)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._writers.discard(back_writer)
            back_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, bound: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self._trouble is Trouble.DELAY:
                    await asyncio.sleep(DELAY_SECONDS)
                await self._flows.wait()
                passed += len(data)
                if self._trouble is Trouble.TRUNCATE and bound and passed > TRUNCATED_AFTER:
                    writer.write(data[: len(data) // 2])
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1.0):
                            await writer.drain()
                    return
                writer.write(data)
                await writer.drain()
