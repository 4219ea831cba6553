"""Whether this process may still write, asked as late as it can be: when a request's body goes to the transport.

A process that was paused (SIGSTOP, a frozen virtual machine) wakes up in the middle of what it was doing. All
writes have a body; without it the API server carries nothing out.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import aiohttp
from aiohttp.abc import AbstractStreamWriter

Permit: TypeAlias = Callable[[], bool]

WRITE_PERMIT: Final[contextvars.ContextVar[Permit | None]] = contextvars.ContextVar("permit", default=None)
"""Asked before each write that the current task, or one that it starts, sends; None: always allowed."""

LEASE_LOST: Final = "LeaseLost"
"""The reason in the reply to a write that was not sent."""


class NotPermitted(Exception):
    """The write was not sent."""


@contextlib.contextmanager
def permitted(permit: Permit | None) -> Iterator[None]:
    """Writes of the body of the ``with`` are sent only while ``permit`` says so."""
    token = WRITE_PERMIT.set(permit)
    try:
        yield
    finally:
        WRITE_PERMIT.reset(token)


class FencedBody(aiohttp.BytesPayload):
    """The body of a write. ``refused`` tells that it was held back."""

    def __init__(self, value: bytes, permit: Permit) -> None:
        super().__init__(value)
        self._permit = permit
        self.refused = False

    async def write(self, writer: AbstractStreamWriter) -> None:
        """As :meth:`write_with_length`, all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Hand the bytes over, or raise :class:`NotPermitted`. Nothing is awaited between the two."""
        if not self._permit():
            self.refused = True
            raise NotPermitted
        await super().write_with_length(writer, content_length)
