"""Which changes of a mirror are no reason to look at its Job."""

import copy
from typing import Any

import pytest

from dispatcher.core.mirror import only_gathers

GATHERING = {"uncountedTerminatedPods": {"succeeded": ["p1"]}, "active": 0, "ready": 0}


def mirror(version: str = "1", **status: Any) -> dict[str, Any]:
    metadata = {"name": "m", "uid": "x", "labels": {"a": "b"}, "resourceVersion": version}
    running = {"startTime": "2026-01-01T12:00:00Z", "active": 1, "ready": 1, "uncountedTerminatedPods": {}}
    return {"metadata": metadata, "spec": {"suspend": False}, "status": running | status}


def test_pods_that_have_ended_and_are_not_counted_yet_are_no_reason() -> None:
    assert only_gathers(mirror(), mirror("2", **GATHERING))
    failed = {"uncountedTerminatedPods": {"failed": ["p1"]}}
    assert only_gathers(mirror(), mirror("2", **failed))


def test_counted_pods_are_a_reason() -> None:
    settled = mirror("3", active=0, ready=0, succeeded=1)
    assert not only_gathers(mirror("2", **GATHERING), settled)
    assert not only_gathers(mirror(), settled)


@pytest.mark.parametrize(
    "change",
    [
        {"status": {"conditions": [{"type": "FailureTarget", "status": "True"}]}},
        {"status": {"completedIndexes": "0-3"}},
        {"status": {"failedIndexes": "0"}},
        {"spec": {"suspend": True}},
        {"metadata": {"deletionTimestamp": "2026-01-01T12:00:00Z"}},
        {"metadata": {"labels": {}}},
        {"metadata": {"uid": "y"}},
    ],
)
def test_what_else_came_with_them_is_a_reason(change: dict[str, Any]) -> None:
    changed = copy.deepcopy(mirror("2", **GATHERING))
    for part, fields in change.items():
        changed[part] |= fields
    assert not only_gathers(mirror(), changed)


def test_no_status_is_a_reason() -> None:
    assert not only_gathers({**mirror(), "status": None}, {**mirror("2"), "status": None})
