"""What is compared: a Job's status without what may differ (times, names of pods), how its pods ended, its Events."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

JSON = dict[str, Any]

OURS = {"Dispatched", "FullyPlaced"}
"""Conditions and Event reasons that only a dispatched Job has."""
PODS_OWN = {"SuccessfulCreate", "SuccessfulDelete"}
"""Events about single pods: where the pods are, so are the Events."""
INDEX = "batch.kubernetes.io/job-completion-index"
_POD_IN_MESSAGE = re.compile(r"\b(for pod )?[a-z0-9.-]+/[a-z0-9.-]+")


def status(job: JSON | None) -> JSON:
    """The comparable part of a Job's status."""
    if job is None:
        return {"gone": True}
    found = job.get("status") or {}
    result: JSON = {
        field: found.get(field) or 0 for field in ("active", "ready", "terminating", "succeeded", "failed")
    }
    result["completedIndexes"] = _normal_indexes(found.get("completedIndexes"))
    result["failedIndexes"] = _normal_indexes(found.get("failedIndexes"), absent="-")
    result["conditions"] = sorted(
        f"{entry['type']}={entry['status']} {entry.get('reason', '')}: {_message(entry.get('message', ''))}"
        for entry in found.get("conditions") or ()
        if entry["type"] not in OURS
    )
    start, end = found.get("startTime"), found.get("completionTime")
    result["startTime"] = "set" if start else "absent"
    result["completionTime"] = "absent"
    if end:
        result["completionTime"] = "set" if not start or start <= end else "before startTime"
    return result


def _normal_indexes(text: str | None, absent: str = "") -> str:
    if text is None:
        return absent
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return ",".join(map(str, sorted(numbers)))


def _message(text: str) -> str:
    return _POD_IN_MESSAGE.sub("POD", text)


def pods(found: Iterable[JSON], *, created: bool) -> JSON:
    """How often each index ran and how it ended: {index or "pods": {"exit 0": 1}}; restarts in one pod count.

    Pods that were told to end are left out, as it depends on the moment how they end, unless ``created``: then
    each counts as one pod that was made.
    """
    ended: dict[str, Counter[str]] = {}
    made: Counter[str] = Counter()
    restarts = 0
    for pod in found:
        index = (pod["metadata"].get("annotations") or {}).get(INDEX, "pods")
        made[index] += 1
        phase = pod["status"].get("phase")
        told = pod["metadata"].get("deletionTimestamp")
        for container in pod["status"].get("containerStatuses") or ():
            if not told:
                restarts += container.get("restartCount", 0)
            state = container["state"].get("terminated")
            if state and phase in ("Succeeded", "Failed") and state["exitCode"] != 143:
                ended.setdefault(index, Counter())[f"exit {state['exitCode']}"] += 1
    result: JSON = {
        "ended": {k: dict(sorted(v.items())) for k, v in sorted(ended.items())},
        "restarts": restarts,
    }
    if created:
        result["created"] = dict(sorted(made.items()))
    return result


def events(found: Iterable[JSON], name: str) -> list[str]:
    """Types and reasons of the Events on the Job, each once."""
    result = {
        f"{event['type']} {event['reason']}"
        for event in found
        if event["involvedObject"].get("kind") == "Job" and event["involvedObject"].get("name") == name
        if event["reason"] not in OURS | PODS_OWN
    }
    return sorted(result)


def differences(builtin: Mapping[str, Any], dispatched: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Field by field, what differs: (built-in, dispatched)."""
    keys = [*builtin, *(key for key in dispatched if key not in builtin)]
    return {
        key: (builtin.get(key), dispatched.get(key))
        for key in keys
        if builtin.get(key) != dispatched.get(key)
    }
