"""Who asked what of each API server, exactly: from the planes' audit logs, by the name of the account.

Requests of the built-in controllers, the lab's nodes and this program are told apart by their accounts; what is left is
the measured controller's, whichever it is. Leases of the planes' own parts are not in the logs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import orjson

from hack.lab import Plane

OTHERS = ("system:apiserver", "system:kube-", "system:node:", "system:serviceaccount:kube-system:", "lab:")
WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
JOBS = frozenset({"jobs", "jobs/status"})
BY_CLOCK = frozenset({"namespaces", "version", "leases"})
"""Of what comes with time, not with Jobs: probes of the clusters' health, Leases."""
LONGEST_LINE = 2**20
"""Bytes; an event without its bodies has a few thousand."""


class Request(NamedTuple):
    """A kind of request. ``resource`` includes a subresource: "jobs/status"."""

    plane: str
    verb: str
    resource: str

    @property
    def is_write(self) -> bool:
        """Whether it changes something; the answer to a review (may I?) is not kept."""
        return self.verb in WRITES and not self.resource.endswith("reviews")


class AuditTail:
    """Counts what was logged since it was made, or since the last :meth:`count`. To be closed after use."""

    def __init__(self, planes: Iterable[Plane]) -> None:
        self._logs = [_Log(plane.name, plane.audit_log) for plane in planes]

    def close(self) -> None:
        """Let go of the logs."""
        for log in self._logs:
            log.close()

    def count(self) -> Counter[Request]:
        """The measured controller's requests by kind; a watch is counted when it is opened."""
        found: Counter[Request] = Counter()
        for log in self._logs:
            for line in log.lines():
                event = orjson.loads(line)
                verb = event["verb"]
                stage = "ResponseStarted" if verb == "watch" else "ResponseComplete"
                if event["stage"] != stage or event["user"]["username"].startswith(OTHERS):
                    continue
                target = event.get("objectRef") or {}
                parts = (target.get("resource"), target.get("subresource"))
                resource = "/".join(part for part in parts if part) or event["requestURI"].split("?")[0]
                found[Request(log.plane, verb, resource)] += 1
        return found


class _Log:
    """One audit log from here on; goes on with the next file when the API server has turned it over."""

    def __init__(self, plane: str, path: Path) -> None:
        self.plane = plane
        self._path = path
        self._file: IO[bytes] = path.open("rb")
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - LONGEST_LINE))
        self._half = self._file.read(end).rpartition(b"\n")[2]

    def close(self) -> None:
        self._file.close()

    def lines(self) -> list[bytes]:
        data = self._half + self._file.read()
        if os.fstat(self._file.fileno()).st_ino != self._path.stat().st_ino:
            self._file.close()
            self._file = self._path.open("rb")
            data += self._file.read()
        *whole, self._half = data.split(b"\n")
        return [line for line in whole if line]
