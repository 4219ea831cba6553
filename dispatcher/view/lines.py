"""Whole lines of many logs, one after the other into one answer.

Plain: lines, each with ``[cluster/pod/container] `` before it where asked for. Frames: a JSON line ``{"cluster",
"pod", "container", "index", "bytes"}`` and then so many bytes of whole lines; or a line ``{"notice", "error"}``, which
says what is missing. A reader of frames decides itself on prefixes and colours, and no log can pose as a notice.
"""

import asyncio
import re
from typing import Final, Protocol

import orjson

from dispatcher.view.sources import Pod

LONGEST_LINE = 1 << 20
"""Bytes of a line that are held back until its end; a longer one is passed on in pieces."""


_STAMP: Final = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")


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

    async def notice(self, text: str, *, error: bool = False) -> None:
        """Say what is not there."""
        if self._frames:
            data = orjson.dumps({"notice": text, "error": error}) + b"\n"
        else:
            data = f"[job-dispatcher] {text}\n".encode()
        async with self._lock:
            await self._writer.write(data)


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
        lines = self._begun + block[:end] if self._begun else block[:end]
        self._begun = block[end:]
        return lines

    def rest(self) -> bytes:
        """What came after the last newline, made a line."""
        rest, self._begun = self._begun, b""
        return rest + b"\n" if rest else b""


class Stamps:
    """Lines that came with timestamps: remembers the last one, and drops what was seen before a new start."""

    def __init__(self, *, wanted: bool) -> None:
        self.last = b""
        self._wanted = wanted

    def new(self, lines: bytes) -> bytes:
        """The lines after the last one that was seen, without their timestamps unless they are wanted."""
        kept = []
        last = self.last
        for line in lines.split(b"\n")[:-1]:
            stamp, _, text = line.partition(b" ")
            if not _STAMP.match(stamp):
                # A node's own words, such as that it cannot read on.
                kept.append(line)
                continue
            if self._resumed and _at(stamp) <= _at(last):
                continue
            self._resumed = False
            self.last = stamp
            kept.append(line if self._wanted else text)
        return b"\n".join(kept) + b"\n" if kept else b""

    _resumed = False

    def resume(self) -> str:
        """Begin anew; ``sinceTime`` to ask for, empty for all."""
        self._resumed = bool(self.last)
        # sinceTime has whole seconds; what comes twice is dropped.
        return self.last.decode("ascii", "replace").partition(".")[0].rstrip("Z") + "Z" if self.last else ""


def _at(stamp: bytes) -> tuple[bytes, bytes]:
    """RFC 3339 in UTC with a fraction of any length, comparable."""
    seconds, _, fraction = stamp.rstrip(b"Z").partition(b".")
    return seconds, fraction.ljust(9, b"0")
