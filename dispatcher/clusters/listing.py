"""One complete list of a resource, page by page into a cache."""

from collections.abc import Callable
from typing import Final

from dispatcher.clusters import reply as replies
from dispatcher.clusters.cache import Key, ObjectCache, key_of, resource_version
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.foreign_jobs import ForeignJobError
from dispatcher.clusters.reply import Manifest, Outcome, Reply

_EMPTY_PAGES: Final = 100
"""Pages without an object, in a row, that a list may have; a real API server sends none."""
_PAGED_ATTEMPTS: Final = 2
"""Lists whose continue token expired under way, before the whole is asked for in one piece."""


class Listing:
    """Lists the objects at ``path`` once. What is not in the list leaves ``cache`` at its end.

    No resourceVersion is asked for: that is the most recent state, never an API server's old cache; an older one
    would show deleted objects as there and new ones as deleted.

    ``page_size``: objects a request; ``max_page_bytes``: a longer page is asked for again in smaller ones;
    ``max_objects`` and ``max_total_bytes``: a longer list is given up, whoever sends it, and so is one that makes the
    cache full; the cache is emptied then;
    ``timeout``: seconds a page; ``wanted``: asked between pages, False gives the list up.
    """

    def __init__(
        self,
        api: ApiServer,
        path: str,
        cache: ObjectCache,
        *,
        label_selector: str,
        page_size: int,
        max_page_bytes: int,
        max_objects: int,
        timeout: float,
        wanted: Callable[[], bool],
        max_total_bytes: int = 512 * 2**20,
        accept: str | None = None,
    ) -> None:
        self._api = api
        self._path = path
        self._cache = cache
        self._label_selector = label_selector
        self._page_size = page_size
        self._max_page_bytes = max_page_bytes
        self._max_objects = max_objects
        self._max_total_bytes = max_total_bytes
        self._accept = accept
        self._total_bytes = 0
        self._empty_pages = 0
        self._timeout = timeout
        self._wanted = wanted
        self._floor = cache.highest_version
        self._listed: set[Key] = set()
        self.version = 0
        """The list's resourceVersion, where a watch goes on from."""

    async def run(self) -> Reply:
        """OK when the whole list was taken in; else why not, with the pages so far in the cache."""
        attempts = 1
        token = ""
        while True:
            reply = await self._page(self._page_size if attempts <= _PAGED_ATTEMPTS else 0, token)
            if reply.reason == "ReplyTooLarge" and self._page_size > 1:
                self._page_size = max(1, self._page_size // 4)
                continue
            if reply.outcome is Outcome.GONE and token:
                attempts += 1
                token = ""
                continue
            if not reply.ok or reply.body is None:
                return reply
            if not self._wanted():
                return replies.unreachable("Aborted", "listing again was asked for")
            try:
                self._take(reply.body, first=not token)
                token = reply.body["metadata"].get("continue") or ""
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                return replies.unreachable("ListBroken", f"not a list of objects: {explained(error)}")
            if (excess := self._excess(reply)) is not None:
                # What came under other names each time would pile up.
                self._cache.clear()
                return excess
            if not token:
                self._cache.sweep(self._listed, self.version)
                return reply

    def _excess(self, page: Reply) -> Reply | None:
        """Why the list is given up: no honest one is that long."""
        self._total_bytes += page.size
        self._empty_pages = 0 if (page.body or {}).get("items") else self._empty_pages + 1
        if len(self._listed) > self._max_objects:
            message = f"more than {self._max_objects} objects"
        elif self._total_bytes > self._max_total_bytes:
            message = f"more than {self._max_total_bytes} bytes"
        elif self._cache.is_full:
            message = f"they take more than {(self._cache.max_weight or 0) >> 20} MiB of memory (--worker-memory-limit)"
        elif self._empty_pages > _EMPTY_PAGES:
            message = f"more than {_EMPTY_PAGES} empty pages"
        else:
            return None
        return Reply(Outcome.INVALID, reason="TooManyObjects", message=message)

    def _take(self, body: Manifest, *, first: bool) -> None:
        if first:
            self.version = resource_version(body)
            self._listed.clear()
            self._total_bytes = 0
            if self.version < self._floor:
                # A most recent state is never older than what was seen before, unless the store was restored.
                self._cache.rewind(self.version)
                self._floor = self.version
        for item in _items(body):
            self._listed.add(key_of(item))
            self._cache.put(item)

    async def _page(self, limit: int, token: str) -> Reply:
        params: dict[str, str | int] = {}
        if self._label_selector:
            params["labelSelector"] = self._label_selector
        if limit:
            params["limit"] = limit
        if token:
            params["continue"] = token
        return await self._api.request(
            "GET",
            self._path,
            params=params,
            timeout=self._timeout,
            max_bytes=self._max_page_bytes,
            accept=self._accept,
        )


def explained(error: Exception) -> str:
    """What is wrong with an object, without anything of what was sent but names and fields."""
    return str(error) if isinstance(error, ForeignJobError) else type(error).__name__


def _items(body: Manifest) -> list[Manifest]:
    """The objects of a list, with the kind and apiVersion that lists leave out."""
    items: list[Manifest] = body.get("items") or []
    kind = str(body["kind"]).removesuffix("List")
    api_version = body["apiVersion"]
    for item in items:
        item.setdefault("apiVersion", api_version)
        item.setdefault("kind", kind)
    return items
