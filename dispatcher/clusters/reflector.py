"""A cache kept equal to one resource of one API server: list, then watch, then whatever it takes.

A watch alone proves nothing: it may be silent because it hangs, and after a gap it does not tell what was deleted
meanwhile. So silence ends it, and each list is compared with what is known.
"""

import asyncio
import dataclasses
import random
from collections.abc import Awaitable, Callable

import orjson

from dispatcher.clusters import reply as replies
from dispatcher.clusters.backoff import Backoff
from dispatcher.clusters.cache import ObjectCache, resource_version
from dispatcher.clusters.client import METADATA_LIST, METADATA_OBJECT, ApiServer
from dispatcher.clusters.listing import Listing, explained
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.clusters.stream import LineStream


@dataclasses.dataclass(frozen=True, slots=True)
class WatchSettings:
    """Sizes and times of a ``Reflector``; times in seconds."""

    page_size: int = 500
    max_page_bytes: int = 4 * 2**20
    """A longer page is asked for again in smaller ones. Decoded, one that is made for it takes 40 times as much for a
    moment."""
    max_objects: int = 200_000
    max_total_bytes: int = 512 * 2**20
    """Of one list; after as many bytes of events it is listed again."""
    max_line_bytes: int = 4 * 2**20
    """An object is at most 1.5 MiB in etcd, where it is shorter than as JSON; what is longer than this is no event."""
    list_timeout: float = 30.0
    open_timeout: float = 15.0
    idle_timeout: float = 90.0
    """API servers send a bookmark about each minute."""
    server_timeout: tuple[int, int] = (300, 600)
    """``timeoutSeconds`` is drawn from this range, so that watches do not end together."""
    backoff_first: float = 0.2
    backoff_cap: float = 10.0
    healthy_after: float = 1.0
    """A watch that lived this long, or brought something new, starts the backoff over."""


@dataclasses.dataclass(frozen=True, slots=True)
class WatchError:
    """Why there is no watch now. ``since``: ``loop.time()`` of the first failure in a row."""

    reason: str
    message: str
    since: float


class Reflector:
    """Keeps ``cache`` equal to the objects at ``path`` that match ``label_selector``, until it is cancelled.

    ``verify`` is asked before each list, and a reply that is not OK puts the list off: only a list may conclude
    that objects went, so it must be certain which cluster answers. ``metadata_only``: nothing else of the objects is
    asked for. ``on_version`` is called with the resourceVersion up to which all is known now, after each event,
    bookmark and list; ``on_state`` when ``synced``, ``connected`` or ``last_error`` changed.
    """

    def __init__(
        self,
        api: ApiServer,
        path: str,
        cache: ObjectCache,
        *,
        label_selector: str = "",
        metadata_only: bool = False,
        settings: WatchSettings | None = None,
        rng: random.Random | None = None,
        verify: Callable[[], Awaitable[Reply]] | None = None,
        on_version: Callable[[int], None] | None = None,
        on_state: Callable[[], None] | None = None,
    ) -> None:
        self._api = api
        self._path = path
        self.cache = cache
        self._label_selector = label_selector
        self._metadata_only = metadata_only
        self._settings = settings or WatchSettings()
        self._rng = rng or random.Random()
        self._verify = verify
        self._on_version = on_version
        self._on_state = on_state
        self._backoff = Backoff(
            first=self._settings.backoff_first, cap=self._settings.backoff_cap, rng=self._rng
        )
        self._version: int | None = None
        """Where the next watch starts; None: list first."""
        self._event_bytes = 0
        """Of events since the last list."""
        self._stream: LineStream | None = None
        self._asked = False
        """``reconnect`` or ``invalidate`` was called in this turn: go on without a wait."""
        self._invalidations = 0
        self._ended: Reply | None = None
        """Why ``_on_line`` had enough."""
        self.synced = asyncio.Event()
        """The first list was taken in."""
        self.connected = False
        """A watch is open."""
        self.disconnected_at: float | None = None
        """``loop.time()`` since when there is no watch; None before the first list and while connected."""
        self.last_event_at: float | None = None
        """``loop.time()`` of the last event, bookmark or list."""
        self.last_error: WatchError | None = None
        self._watches = 0
        self.lists = 0
        """Complete lists taken in."""

    @property
    def reconnects(self) -> int:
        """Watches opened after the first."""
        return max(0, self._watches - 1)

    async def run(self) -> None:
        """Work until cancelled. Failures are kept in ``last_error`` and tried again with backoff."""
        try:
            while True:
                await self._turn()
        finally:
            self._set_connected(False)

    def kick(self) -> None:
        """End the backoff at once: something changed for the better."""
        self._backoff.kick()

    def reconnect(self) -> None:
        """Drop the watch, which may be dead without knowing, and resume where it was."""
        self._asked = True
        if self._stream is not None:
            self._stream.abort()
        self._backoff.kick()

    def invalidate(self) -> None:
        """Drop the watch and list again."""
        self._version = None
        self._invalidations += 1
        self.reconnect()

    def use(self, api: ApiServer) -> None:
        """Go on with another client (rotated credentials); lists again, after ``verify``."""
        self._api = api
        self.invalidate()

    async def _turn(self) -> None:
        """One list if it is needed, one watch, and the wait if either failed."""
        self._asked = False
        if self._version is None:
            reply = await self._list()
            if not reply.ok:
                if not self._asked:
                    self._failed(reply)
                    await self._backoff.wait(at_least=reply.retry_after or 0.0)
                return
        progressed, reply = await self._watch()
        if progressed:
            self._backoff.reset()
        if reply.outcome is Outcome.GONE:
            self._version = None
        elif reply.reason in ("LineBroken", "LineTooLarge") and not progressed:
            # The same event again: only a list gets past it.
            self._version = None
        if self._asked or (reply.ok and progressed):
            return  # asked for, or the server's own time limit for a watch
        self._failed(reply)
        if not progressed:
            await self._backoff.wait(at_least=reply.retry_after or 0.0)

    async def _list(self) -> Reply:
        """Verify, list everything into the cache, and remember where to watch from."""
        if self._verify is not None:
            reply = await self._verify()
            if not reply.ok:
                return reply
        invalidations = self._invalidations
        listing = Listing(
            self._api,
            self._path,
            self.cache,
            label_selector=self._label_selector,
            page_size=self._settings.page_size,
            max_page_bytes=self._settings.max_page_bytes,
            max_objects=self._settings.max_objects,
            max_total_bytes=self._settings.max_total_bytes,
            timeout=self._settings.list_timeout,
            wanted=lambda: self._invalidations == invalidations,
            accept=METADATA_LIST if self._metadata_only else None,
        )
        reply = await listing.run()
        if not reply.ok:
            if reply.reason == "TooManyObjects":
                self.synced.clear()
            return reply
        self._version = listing.version
        if self._on_version is not None:
            self._on_version(listing.version)
        self._event_bytes = 0
        self.lists += 1
        self.last_event_at = _now()
        if not self.synced.is_set():
            self.synced.set()
            self.disconnected_at = _now()
            self._state_changed()
        return reply

    async def _watch(self) -> tuple[bool, Reply]:
        """One watch. Returns whether it was worth something, and how it ended."""
        started_at = self._version
        if started_at is None:
            return True, replies.unreachable("Aborted", "listing again was asked for")
        params: dict[str, str | int] = {
            "watch": 1,
            "allowWatchBookmarks": "true",
            "resourceVersion": started_at,
            "timeoutSeconds": self._rng.randint(*self._settings.server_timeout),
        }
        if self._label_selector:
            params["labelSelector"] = self._label_selector
        opened_at: float | None = None

        def on_open() -> None:
            nonlocal opened_at
            opened_at = _now()
            self._set_connected(True)

        self._stream = LineStream(
            self._api,
            self._path,
            params=params,
            on_line=self._on_line,
            on_open=on_open,
            open_timeout=self._settings.open_timeout,
            idle_timeout=self._settings.idle_timeout,
            max_line_bytes=self._settings.max_line_bytes,
            accept=METADATA_OBJECT if self._metadata_only else None,
        )
        try:
            reply = await self._stream.run()
        finally:
            self._stream = None
            self._set_connected(False)
        ended = self._take_ended()
        advanced = self._version is not None and self._version > started_at
        long_lived = opened_at is not None and _now() - opened_at >= self._settings.healthy_after
        # Long life is worth nothing when the line that ended it will come again.
        return advanced or (long_lived and ended is None), ended or reply

    def _on_line(self, line: bytes) -> bool:
        """Take one event in. False ends the watch, with the reason in ``_ended``."""
        self._event_bytes += len(line)
        if self._event_bytes > self._settings.max_total_bytes or self._is_full:
            self._ended = Reply(Outcome.GONE, reason="TooManyEvents", message="more than fits: listing again")
            return False
        try:
            event = orjson.loads(line)
            kind = event["type"]
            item = event["object"]
            if kind == "ERROR":
                self._ended = replies.from_status(item)
                return False
            version = resource_version(item)
            if self._version is None:
                return False
            if kind in ("ADDED", "MODIFIED"):
                self.cache.put(item)
            elif kind == "DELETED":
                self.cache.delete(item)
            elif kind == "BOOKMARK" and version < self._version:
                self._ended = Reply(
                    Outcome.GONE, reason="StoreWentBack", message="a bookmark is older than what it follows"
                )
                return False
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._ended = replies.unreachable("LineBroken", f"not a watch event: {explained(error)}")
            return False
        self._advance(version)
        if self._on_version is not None:
            self._on_version(version)
        self.last_event_at = _now()
        return True

    @property
    def _is_full(self) -> bool:
        return len(self.cache) > self._settings.max_objects or self.cache.is_full

    def _advance(self, version: int) -> None:
        # None: a listener that an event was passed to asked for a new list.
        if self._version is not None and version > self._version:
            self._version = version

    def _take_ended(self) -> Reply | None:
        ended, self._ended = self._ended, None
        return ended

    def _failed(self, reply: Reply) -> None:
        reason = reply.reason or reply.outcome.value
        previous = self.last_error
        if previous is None or previous.reason != reason:
            since = previous.since if previous else _now()
            self.last_error = WatchError(reason, reply.message, since)
            self._state_changed()

    def _set_connected(self, connected: bool) -> None:
        if connected == self.connected:
            return
        self.connected = connected
        if connected:
            self._watches += 1
            self.disconnected_at = None
            self.last_error = None
        else:
            self.disconnected_at = _now()
        self._state_changed()

    def _state_changed(self) -> None:
        if self._on_state is not None:
            self._on_state()


def _now() -> float:
    return asyncio.get_running_loop().time()
