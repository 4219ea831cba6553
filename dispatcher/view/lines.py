"""Whole lines of many logs, one after the other into one answer.

Plain: lines, each with ``[cluster/pod/container] `` before it where asked for. Frames: a JSON line ``{"cluster",
"pod", "container", "index", "bytes"}`` and then so many bytes of whole lines; or a line ``{"notice", "error"}``,
which says what is missing, with ``"again": true`` where another request would go on, ``"missing": CLUSTER`` where a
cluster is away, ``"back": CLUSTER`` where it is missing no more; or ``{"alive": true}``, by which
a reader knows that a silent follow has not been lost on the way. A reader of frames decides itself on prefixes and
colours, and no log can pose as a notice.
"""

import asyncio
from typing import Protocol

import orjson

from dispatcher.view.sources import Pod

LONGEST_LINE = 1 << 20
"""Bytes of a line that are held back until its end; a longer one is passed on in pieces."""


class Writer(Protocol):
    """An answer that is sent as it is made; waits while the reader is slow."""

    async def write(self, data: bytes) -> None:
        """Send a block."""


class Output:
    """The answer that all sources share: one block at a time, so lines never mix."""

    def __init__(self, writer: Writer, *, frames: bool, prefix: bool) -> None:
        self._writer = writer
        self._frames = frames
        self._prefix = prefix
        self._lock = asyncio.Lock()

    async def lines(self, pod: Pod, container: str, block: bytes | memoryview) -> None:
        """Send whole lines of one container."""
        if self._frames:
            head = {"cluster": pod.cluster, "pod": pod.name, "container": container, "index": pod.index}
            data = b"".join((orjson.dumps({**head, "bytes": len(block)}), b"\n", block))
        elif self._prefix:
            before = f"[{pod.cluster}/{pod.name}/{container}] ".encode()
            text = bytes(block)
            data = before + text[:-1].replace(b"\n", b"\n" + before) + b"\n"
        else:
            data = bytes(block)
        async with self._lock:
            await self._writer.write(data)

    async def notice(
        self, text: str, *, error: bool = False, again: bool = False, missing: str = "", back: str = ""
    ) -> None:
        """Say what is not there. ``again``: another request would go on. ``missing``, ``back``: of which cluster
        nothing can be read, or everything again.
        """
        if self._frames:
            marks = {"again": again, "missing": missing, "back": back}
            said = {"notice": text, "error": error, **{key: mark for key, mark in marks.items() if mark}}
            data = orjson.dumps(said) + b"\n"
        else:
            data = f"[job-dispatcher] {text}\n".encode()
        async with self._lock:
            await self._writer.write(data)

    async def alive(self) -> None:
        """Tell a reader of frames that the connection works; nothing while a block is being sent."""
        if self._frames and not self._lock.locked():
            async with self._lock:
                await self._writer.write(b'{"alive":true}\n')


class Cutter:
    """Cuts blocks at their last newline; the begun line waits for its end."""

    def __init__(self) -> None:
        self._begun = b""

    def whole(self, block: bytes) -> bytes:
        """The whole lines that end in this block."""
        end = block.rfind(b"\n") + 1
        if not end:
            self._begun += block
            if len(self._begun) < LONGEST_LINE:
                return b""
            lines, self._begun = self._begun + b"\n", b""
            return lines
        lines = b"".join((self._begun, memoryview(block)[:end]))
        self._begun = block[end:]
        return lines

    def rest(self) -> bytes:
        """What came after the last newline, made a line."""
        rest, self._begun = self._begun, b""
        return rest + b"\n" if rest else b""
