"""One streaming GET, read line by line; how it ended is a ``Reply``."""

import asyncio
import math
from collections.abc import Callable
from typing import Final

import aiohttp

from dispatcher.clusters import reply as replies
from dispatcher.clusters.client import ApiServer, Params, TransportError, read_body
from dispatcher.clusters.reply import Outcome, Reply

_SLICE_SECONDS: Final = 0.01
"""How long lines are handled in one go before other tasks get their turn."""
_REST: Final = 1.0
"""Seconds of rest for a second of work, in the long run: a server that floods us gets half of the time, no more."""
_BURST_SECONDS: Final = 2.0
"""What it may have at once, saved up while there was less to do."""


class _Turns:
    """Keeps a stream to its part of the loop's time: ``begin``, work, ``end``."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._saved = _BURST_SECONDS
        self._began = self._ended = clock()

    def begin(self) -> None:
        self._began = self._clock()
        self._saved = min(_BURST_SECONDS, self._saved + (self._began - self._ended) / _REST)

    @property
    def over(self) -> bool:
        """Others have waited long enough."""
        return self._clock() > self._began + _SLICE_SECONDS

    async def end(self) -> None:
        """Let others have their turn if it was a long one, for as long as this stream has had too much."""
        was_long = self.over
        self._ended = self._clock()
        self._saved -= self._ended - self._began
        if was_long or self._saved < 0:
            await asyncio.sleep(max(0.0, -self._saved * _REST))


class LineStream:
    """Pushes each line of one answer to ``on_line`` until it returns False, the stream ends, breaks or is silent.

    ``on_open`` is called when the server has accepted. ``open_timeout``: seconds until then; ``idle_timeout``:
    seconds without a whole line; ``max_line_bytes``: a longer line counts as broken.
    """

    def __init__(
        self,
        api: ApiServer,
        path: str,
        *,
        params: Params,
        on_line: Callable[[bytes], bool],
        on_open: Callable[[], None],
        open_timeout: float,
        idle_timeout: float,
        max_line_bytes: int,
        accept: str | None = None,
    ) -> None:
        self._api = api
        self._path = path
        self._params = params
        self._on_line = on_line
        self._on_open = on_open
        self._open_timeout = open_timeout
        self._idle_timeout = idle_timeout
        self._max_line_bytes = max_line_bytes
        self._accept = accept
        self._deadline: asyncio.Timeout | None = None
        self._aborted = False
        self._opened = False

    async def run(self) -> Reply:
        """Read to the end.

        OK: the server closed it (reason ``Closed``) or ``on_line`` had enough (``Stopped``). UNREACHABLE with the
        reasons ``Aborted``, ``WatchIdle``, ``LineTooLarge`` or those of a failed connection. Else the server's
        refusal.
        """
        try:
            async with (
                asyncio.timeout(self._open_timeout) as self._deadline,
                self._api.send("GET", self._path, params=self._params, accept=self._accept) as response,
            ):
                if response.status != 200:
                    raw = await read_body(response, 2**20)
                    return self._api.reply_to(response, raw)
                self._opened = True
                self._on_open()
                try:
                    return await self._read(response.content, self._deadline)
                finally:
                    response.close()  # what is left of the stream must not go back to the pool
        except TransportError as error:
            return error.reply
        except TimeoutError:
            if self._aborted:
                return _aborted()
            if not self._opened:
                return replies.unreachable(
                    "Timeout", f"{self._api.server}: the watch was not answered in time"
                )
            message = f"{self._api.server}: no event came for {self._idle_timeout:g} s"
            return replies.unreachable("WatchIdle", message)
        finally:
            self._deadline = None

    def abort(self) -> None:
        """End ``run`` soon."""
        self._aborted = True
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(asyncio.get_running_loop().time())

    async def _read(self, content: aiohttp.StreamReader, deadline: asyncio.Timeout) -> Reply:
        clock = asyncio.get_running_loop().time
        turns = _Turns(clock)
        parts: list[bytes] = []  # of the line that is not whole yet
        size = 0
        heard_at, armed_at = clock(), -math.inf
        while not self._aborted:
            if heard_at - armed_at > self._idle_timeout / 20:
                # Not for each line: every change leaves a dead timer in the loop until its time.
                deadline.reschedule(heard_at + self._idle_timeout)
                armed_at = heard_at
            chunk = await content.readany()
            if not chunk:
                # A line without its newline is half an event: whoever resumes gets it whole.
                return Reply(Outcome.OK, 200, reason="Closed")
            turns.begin()
            lines = chunk.split(b"\n")
            if len(lines) > 1 and parts:
                parts.append(lines[0])
                lines[0] = b"".join(parts)
                parts, size = [], 0
            tail = lines.pop()
            for line in lines:
                if len(line) > self._max_line_bytes:
                    return self._too_large()
                if line:  # bytes alone, or empty lines, are no life: they can be sent for ever
                    heard_at = clock()
                    if not self._on_line(line):
                        return Reply(Outcome.OK, 200, reason="Stopped")
                if turns.over:
                    await turns.end()
                    turns.begin()
            await turns.end()
            if tail:
                parts.append(tail)
                size += len(tail)
                if size > self._max_line_bytes:
                    return self._too_large()
        return _aborted()

    def _too_large(self) -> Reply:
        message = f"{self._api.server}: a line is longer than {self._max_line_bytes} bytes"
        return replies.unreachable("LineTooLarge", message)


def _aborted() -> Reply:
    return replies.unreachable("Aborted", "the stream was ended from this side")
