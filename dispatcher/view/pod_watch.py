"""A watch of pods made of lists, for readers of the proxy path: `kubectl get pods -w`, `kubectl wait`.

The dispatcher's account on a worker may not watch pods, and only pods of our mirrors may be seen: so once a second
the pods are listed as for a plain GET, and what is different is sent. A pod that comes and goes within a second is not
seen.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Final

import orjson

from dispatcher.clusters.reply import Manifest
from dispatcher.view.lines import Writer
from dispatcher.view.status import Refused

LOOK_SECONDS: Final = 1.0
"""Between two lists."""
LONGEST_SECONDS: Final = 1800
"""Of a watch that names no end; API servers take 30 to 60 minutes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """From which resourceVersion on (None: the pods that there are come first), and for how long."""

    after: int | None
    seconds: float


def read_watch(query: Mapping[str, str]) -> Wanted:
    """Raises Refused 400 for what makes no sense, 422 for what a client can do without."""
    if query.get("sendInitialEvents"):
        # As of an API server without it: clients list and watch then.
        raise Refused(422, "sendInitialEvents is forbidden: lists that are streamed are not served")
    version, seconds = query.get("resourceVersion", ""), query.get("timeoutSeconds", "")
    for name, value in (("resourceVersion", version), ("timeoutSeconds", seconds)):
        if value and not (value.isascii() and value.isdecimal() and len(value) < 20):
            raise Refused(400, f"{name} is a number, not {value!r}")
    return Wanted(int(version or 0) or None, min(int(seconds or 0) or LONGEST_SECONDS, LONGEST_SECONDS))


class PodWatch:
    """One reader's watch. ``read``: the list, or Table, of what the reader may see now; raises Refused."""

    def __init__(self, read: Callable[[], Awaitable[Manifest]], *, after: int | None) -> None:
        self._read = read
        self._after = after
        self._known: dict[str, Manifest] | None = None
        """By UID what was sent last; None before the first list."""

    async def news(self) -> list[bytes]:
        """The events since the last call. Raises Refused."""
        body = await self._read()
        key = "rows" if "rows" in body else "items"
        shell = {name: value for name, value in body.items() if name not in ("rows", "items", "metadata")}
        there = {_metadata(item, key)["uid"]: item for item in body[key]}
        known, first = self._known or {}, self._known is None
        self._known = there
        events = []
        for uid, item in there.items():
            old, metadata = known.get(uid), _metadata(item, key)
            if first and self._after is not None and int(metadata["resourceVersion"]) <= self._after:
                continue
            if old is None:
                events.append(_event("ADDED", item, key, shell))
            elif _metadata(old, key)["resourceVersion"] != metadata["resourceVersion"]:
                events.append(_event("MODIFIED", item, key, shell))
        for uid, item in known.items():
            if uid not in there:
                events.append(_event("DELETED", item, key, shell))
        return events

    async def serve(self, writer: Writer, begun: list[bytes], *, seconds: float) -> None:
        """Send ``begun``, and what comes for so many seconds; an ERROR, and no more, when it cannot be read."""
        end = monotonic() + seconds
        events = begun
        while True:
            if events:
                await writer.write(b"".join(events))
            if (left := end - monotonic()) <= 0:
                return
            await asyncio.sleep(min(LOOK_SECONDS, left))
            try:
                events = await self.news()
            except Refused as refused:
                await writer.write(orjson.dumps({"type": "ERROR", "object": refused.status()}) + b"\n")
                return


def _metadata(item: Manifest, key: str) -> Manifest:
    metadata: Manifest = (item["object"] if key == "rows" else item)["metadata"]
    return metadata


def _event(kind: str, item: Manifest, key: str, shell: Manifest) -> bytes:
    if key == "rows":
        version = {"resourceVersion": item["object"]["metadata"]["resourceVersion"]}
        manifest = {**shell, "metadata": version, "rows": [item]}
    else:
        manifest = {"kind": "Pod", "apiVersion": "v1", **item}
    return orjson.dumps({"type": kind, "object": manifest}) + b"\n"
