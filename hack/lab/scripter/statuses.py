"""Pod statuses as a kubelet writes them, as strategic merge patches. Pure.

Conditions merge by type, so those of others (PodScheduled, DisruptionTarget) stay; container statuses are replaced.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

JSON = dict[str, Any]

LEFT_WAITING = "CrashLoopBackOff"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a pod's containers: when it began, and how many runs of the same pod were before it."""

    began: datetime
    restarts: int = 0


def running(pod: JSON, run: Run, *, earlier: JSON | None = None) -> JSON:
    """All containers run and are ready. `earlier` is the terminated state of the run before."""
    began = _time(run.began)

    def container(_: JSON) -> JSON:
        status: JSON = {"ready": True, "started": True, "state": {"running": {"startedAt": began}}}
        return status | ({"lastState": {"terminated": earlier}} if earlier else {})

    octets = zlib.crc32(pod["metadata"]["uid"].encode()) & 0xFFFFF
    address = f"10.{144 + (octets >> 16)}.{octets >> 8 & 255}.{octets & 255}"
    return {
        "phase": "Running",
        "startTime": pod["status"].get("startTime", began),
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [
            *(_condition(kind, True, run.began) for kind in ("PodReadyToStartContainers", "Initialized")),
            *(_condition(kind, True, run.began) for kind in ("Ready", "ContainersReady")),
        ],
        "initContainerStatuses": [
            _init_container(entry, run.began) for entry in pod["spec"].get("initContainers", [])
        ],
        "containerStatuses": _containers(pod, run, container),
    }


def terminated(*, code: int, began: datetime, ended: datetime) -> JSON:
    """The state of a container that ended."""
    return {
        "exitCode": code,
        "reason": "Completed" if code == 0 else "Error",
        "startedAt": _time(began),
        "finishedAt": _time(ended),
    }


def restarting(pod: JSON, run: Run, *, code: int, now: datetime) -> JSON:
    """The containers ended and wait to be started again; the pod stays Running."""
    ended = terminated(code=code, began=run.began, ended=now)
    waiting = {"reason": LEFT_WAITING, "message": "back-off restarting failed container"}

    def container(_: JSON) -> JSON:
        return {
            "ready": False,
            "started": False,
            "state": {"waiting": waiting},
            "lastState": {"terminated": ended},
        }

    return {
        "conditions": [
            _condition(kind, False, now, "ContainersNotReady") for kind in ("Ready", "ContainersReady")
        ],
        "containerStatuses": _containers(pod, run, container),
    }


def finished(pod: JSON, run: Run, *, code: int, now: datetime) -> JSON:
    """All containers ended for good."""
    ended = terminated(code=code, began=run.began, ended=now)
    reason = "PodCompleted" if code == 0 else "PodFailed"

    def container(_: JSON) -> JSON:
        return {"ready": False, "started": False, "state": {"terminated": ended}}

    return {
        "phase": "Succeeded" if code == 0 else "Failed",
        "conditions": [_condition(kind, False, now, reason) for kind in ("Ready", "ContainersReady")],
        "containerStatuses": _containers(pod, run, container),
    }


def refused(*, message: str) -> JSON:
    """A pod that never ran because its script is wrong."""
    return {"phase": "Failed", "reason": "InvalidScript", "message": message}


def _containers(pod: JSON, run: Run, status: Callable[[JSON], JSON]) -> list[JSON]:
    return [
        {
            "name": entry["name"],
            "image": entry.get("image", ""),
            "imageID": "",
            "restartCount": run.restarts,
            **status(entry),
        }
        for entry in pod["spec"]["containers"]
    ]


def _init_container(entry: JSON, began: datetime) -> JSON:
    sidecar = entry.get("restartPolicy") == "Always"
    done = {"terminated": terminated(code=0, began=began, ended=began)}
    return {
        "name": entry["name"],
        "image": entry.get("image", ""),
        "imageID": "",
        "restartCount": 0,
        "ready": True,
        "started": sidecar,
        "state": {"running": {"startedAt": _time(began)}} if sidecar else done,
    }


def _condition(kind: str, status: bool, now: datetime, reason: str | None = None) -> JSON:
    # A null takes away the reason that the condition had before.
    return {"type": kind, "status": str(status), "reason": reason, "lastTransitionTime": _time(now)}


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
