"""What ran in a run, from files: the scripters' records of pods, the management plane's audit log."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import orjson

from hack.chaos.workload import JOB_LABEL
from hack.lab import Plane

JOB_CONTROLLER = "system:serviceaccount:kube-system:job-controller"
REFUSALS = frozenset({400, 403, 422})


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a pod's containers. ``exit`` None: it still runs, or nobody knows how it ended.

    ``mirror``: UID of the mirror. ``stopped``: it was told to end, by the pod's deletion. ``dropped``: its cluster's
    own Job controller deleted the pod at the moment it ended, and so did not count it.
    """

    job: str
    cluster: str
    mirror: str
    pod: str
    index: int | None
    began: datetime
    ended: datetime | None = None
    exit: int | None = None
    stopped: bool = False
    dropped: bool = False

    @property
    def succeeded(self) -> bool:
        """It ended by itself, with 0, and its cluster counted it."""
        return self.exit == 0 and not self.stopped and not self.dropped


class LogTail:
    """The lines of a log from here on, also across what a killed process left half written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = path.stat().st_size if path.exists() else 0

    def lines(self) -> Iterator[bytes]:
        """Each line."""
        with self._path.open("rb") as file:
            file.seek(self._begin)
            yield from file

    def objects(self) -> Iterator[dict[str, Any]]:
        """Each line that is a JSON object."""
        for line in self.lines():
            if line.startswith(b"{"):
                with contextlib.suppress(orjson.JSONDecodeError):
                    yield orjson.loads(line)


@dataclass(frozen=True, slots=True)
class WorkerLogs:
    """Of one worker: its scripter's log and its API server's audit log."""

    cluster: str
    scripter: LogTail
    audit: LogTail

    @classmethod
    def of(cls, plane: Plane) -> Self:
        """From now on."""
        return cls(plane.name, LogTail(plane.scripter.log), LogTail(plane.audit_log))


def read_runs(workers: Iterable[WorkerLogs], *, namespace: str) -> list[Run]:
    """All runs in a namespace, in the order of their begin."""
    runs: dict[tuple[str, int], Run] = {}
    for worker in workers:
        dropped = _deleted_by_job_controller(worker.audit, namespace=namespace)
        for record in worker.scripter.objects():
            if record.get("namespace") != namespace or JOB_LABEL not in record["labels"]:
                continue
            slot = (record["uid"], record["try"])
            moment = datetime.fromisoformat(record["time"])
            known = runs.get(slot)
            begun = known.began if known else moment
            over = record["what"] != "started"
            runs[slot] = Run(
                job=record["labels"][JOB_LABEL],
                cluster=worker.cluster,
                mirror=record["job"],
                pod=record["pod"],
                index=record["index"],
                began=begun,
                ended=moment if over else None,
                exit=record.get("exit"),
                stopped=record["what"] == "stopped",
                dropped=record["pod"] in dropped,
            )
    return sorted(runs.values(), key=lambda run: run.began)


def _deleted_by_job_controller(audit: LogTail, *, namespace: str) -> set[str]:
    """Names of the pods that it took away while it held them for active: by suspension, scaling, the Job's end."""
    found = set()
    for event in audit.objects():
        target = event.get("objectRef") or {}
        if (
            event.get("verb") == "delete"
            and target.get("resource") == "pods"
            and target.get("namespace") == namespace
            and event["user"]["username"] == JOB_CONTROLLER
        ):
            found.add(str(target.get("name")))
    return found


def refused_status_writes(audit: LogTail, *, namespace: str) -> list[str]:
    """Status writes in a namespace that the management API server answered with 400, 403 or 422."""
    found = []
    for event in audit.objects():
        target = event.get("objectRef") or {}
        code = (event.get("responseStatus") or {}).get("code")
        if (
            target.get("resource") == "jobs"
            and target.get("subresource") == "status"
            and target.get("namespace") == namespace
            and code in REFUSALS
        ):
            message = (event.get("responseStatus") or {}).get("message", "")
            found.append(f"{target.get('name')}: {code} {message}")
    return found
