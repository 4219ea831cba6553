"""List and watch for commands: what there is, then every change, over reconnects, in a thread of its own."""

import json
import queue
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from dispatcher.commands.connection import Connection, Parameters
from dispatcher.commands.refusals import ClusterSaysNo, Manifest

_WATCH_SECONDS: Final = (240, 480)
"""How long one watch lasts, by chance between these: the server is asked to end it, and a new one begins."""
_QUIET_SECONDS: Final = 60.0
"""More than this beyond its end, a watch that says nothing counts as broken."""
_PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_PASSING: Final = frozenset({0, 408, 429, 500, 502, 503, 504})
"""Statuses after which it is tried again; 0 is no answer."""

Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """One object that came, changed or went (then in its last state)."""

    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    manifest: Manifest


class Followed:
    """The objects of one path, followed from the moment of construction.

    ``objects`` is by (namespace, name), without managedFields, and changes only inside :meth:`changes`.
    ``trouble`` says why nothing can be seen at the moment; empty while all is well.
    """

    def __init__(self, connection: Connection, path: str, parameters: Parameters | None = None) -> None:
        self.objects: dict[Key, Manifest] = {}
        self.listed = False
        self.trouble = ""
        self._connection = connection
        self._path = path
        self._parameters = dict(parameters or {})
        self._arrived: queue.SimpleQueue[list[Change] | dict[Key, Manifest] | ClusterSaysNo | str] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._run, name=f"follow {path}", daemon=True).start()

    def changes(self, timeout: float | None) -> list[Change]:
        """Wait for changes, at most ``timeout`` seconds; at first all objects that there are, as ADDED.

        Raises:
            ClusterSaysNo: the server refuses for good, or does not answer the first list.
        """
        found: list[Change] = []
        try:
            arrived = self._arrived.get(timeout=timeout)
            while True:
                found += self._take(arrived)
                arrived = self._arrived.get_nowait()
        except queue.Empty:
            return found

    def take(self, timeout: float) -> bool:
        """Wait as :meth:`changes` does; whether anything is new, trouble included."""
        before = self.trouble
        return bool(self.changes(timeout)) or self.trouble != before

    def _take(self, arrived: list[Change] | dict[Key, Manifest] | ClusterSaysNo | str) -> list[Change]:
        if isinstance(arrived, ClusterSaysNo):
            raise arrived
        if isinstance(arrived, str):
            self.trouble = arrived
            return []
        if isinstance(arrived, dict):
            arrived = self._differences(arrived)
            self.listed = True
        self.trouble = ""
        for change in arrived:
            if change.kind == "DELETED":
                self.objects.pop(_key(change.manifest), None)
            else:
                self.objects[_key(change.manifest)] = change.manifest
        return arrived

    def _differences(self, there: dict[Key, Manifest]) -> list[Change]:
        found = [Change("DELETED", old) for key, old in self.objects.items() if key not in there]
        for key, new in there.items():
            old = self.objects.get(key)
            if old is None:
                found.append(Change("ADDED", new))
            elif old["metadata"].get("resourceVersion") != new["metadata"].get("resourceVersion"):
                found.append(Change("MODIFIED", new))
        return found

    def _run(self) -> None:
        failures = 0
        version = ""
        while True:
            try:
                if not version:
                    items, version = self._connection.list(self._path, self._parameters)
                    self._arrived.put({_key(item): _trimmed(item) for item in items})
                    failures = 0
                for reached in self._watch(version):
                    version, failures = reached, 0
            except ClusterSaysNo as error:
                if error.status == 410:
                    version = ""
                elif error.status not in _PASSING or not (version or failures):
                    self._arrived.put(error)
                    return
                else:
                    self._arrived.put(error.message)
                    pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
                    failures += 1
                    threading.Event().wait(pause * random.uniform(0.7, 1.3))
            except Exception as error:
                # A thread that ends silently would leave the command waiting for ever.
                self._arrived.put(ClusterSaysNo(f"{self._path} cannot be followed: {error!r}"))
                raise

    def _watch(self, version: str) -> Iterator[str]:
        """One watch; yields the resourceVersion that was reached, after each event."""
        seconds = random.randint(*_WATCH_SECONDS)
        parameters = {
            **self._parameters,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": seconds,
        }
        rest = b""
        with self._connection.stream(self._path, parameters, timeout=seconds + _QUIET_SECONDS) as blocks:
            # That the watch is open again is news, too.
            self._arrived.put([])
            for block in blocks:
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    if line:
                        yield self._event(json.loads(line))

    def _event(self, event: Manifest) -> str:
        kind, manifest = event["type"], event["object"]
        if kind == "ERROR":
            message = str(manifest.get("message") or manifest)
            raise ClusterSaysNo(message, status=int(manifest.get("code") or 500))
        if kind != "BOOKMARK":
            self._arrived.put([Change(kind, _trimmed(manifest))])
        version: str = manifest["metadata"]["resourceVersion"]
        return version


def _key(manifest: Manifest) -> Key:
    return manifest["metadata"].get("namespace") or "", manifest["metadata"]["name"]


def _trimmed(manifest: Manifest) -> Manifest:
    manifest["metadata"].pop("managedFields", None)
    return manifest
