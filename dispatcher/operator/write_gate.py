"""The gate that every write for a Job passes: may this process still act on it, and which writes are under way?"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from dispatcher.clusters.fencing import permitted
from dispatcher.clusters.reply import Reply
from dispatcher.operator.faults import CrashPoint

Owns = Callable[[str], bool]
"""Whether this process may write for the Job with this UID now; always yes without leader election."""


class WriteGate:
    """Sends writes one by one for those Jobs, by UID, that ``owns`` says yes to."""

    def __init__(self, owns: Owns = lambda _uid: True, crash_point: CrashPoint | None = None) -> None:
        self._owns = owns
        self._crash = crash_point or CrashPoint(None)
        self._sending: Counter[str] = Counter()
        self._sent = asyncio.Event()

    def owns(self, uid: str) -> bool:
        """Whether this process may write for the Job with this UID now."""
        return self._owns(uid)

    async def send(self, uid: str, kind: str, request: Callable[[], Awaitable[Reply]]) -> Reply:
        """Send one write for a Job; ``kind`` is its name in :mod:`dispatcher.operator.faults`.

        Whether it may be sent is asked again at the last moment; the reply to one that was not sent says LEASE_LOST.
        """
        number, permit = self._crash.before(kind, lambda: self._owns(uid))
        self._sending[uid] += 1
        try:
            with permitted(permit):
                reply = await request()
        finally:
            self._sending[uid] -= 1
            if not self._sending[uid]:
                del self._sending[uid]
                self._sent.set()
        self._crash.after(number)
        return reply

    async def quiet(self, concerned: Callable[[str], bool]) -> None:
        """Wait until no write is under way for the Jobs, by UID, that are concerned."""
        while any(map(concerned, self._sending)):
            self._sent.clear()
            await self._sent.wait()
