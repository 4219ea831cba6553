"""The suite's own parts: the scenarios can be read, and a comparison finds what differs."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hack.conformance import scenario, snapshot

JOB: dict[str, Any] = {
    "status": {
        "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T00:00:05Z",
        "succeeded": 3,
        "completedIndexes": "0-2",
        "conditions": [
            {"type": "Complete", "status": "True", "reason": "CompletionsReached", "message": "done"},
            {"type": "Dispatched", "status": "True", "reason": "Dispatched", "message": "ours"},
        ],
    }
}


def changed(**status: Any) -> dict[str, Any]:
    return {"status": JOB["status"] | status}


def test_every_feature_has_at_least_five_scenarios() -> None:
    rows = Counter(entry.row for entry in scenario.load())
    assert {row: count for row, count in rows.items() if count < 5} == {}
    assert sum(rows.values()) >= 80


def test_every_difference_has_a_reason() -> None:
    differences = [entry.difference for entry in scenario.load() if entry.difference is not None]
    assert all(difference.fields and difference.reason.strip() for difference in differences)


def test_our_own_conditions_and_the_form_of_indexes_do_not_count() -> None:
    other = changed(completedIndexes="0,1,2", conditions=JOB["status"]["conditions"][:1], active=0)
    assert snapshot.differences(snapshot.status(JOB), snapshot.status(other)) == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("succeeded", 2),
        ("failed", 1),
        ("terminating", 1),
        ("completedIndexes", "0-1"),
        ("failedIndexes", ""),
        ("completionTime", None),
        ("completionTime", "2025-12-31T23:59:59Z"),
        ("startTime", None),
        ("conditions", []),
        ("conditions", [JOB["status"]["conditions"][0] | {"message": "other"}]),
    ],
)
def test_a_difference_is_found(field: str, value: Any) -> None:
    found = snapshot.differences(snapshot.status(JOB), snapshot.status(changed(**{field: value})))
    assert list(found) == [field]


def test_names_of_pods_in_messages_do_not_count() -> None:
    text = "Container main for pod {}/job-3-{} failed with exit code 42 matching FailJob rule at index 0"
    one, other = [
        changed(conditions=[{"type": "Failed", "status": "True", "message": text.format(ns, suffix)}])
        for ns, suffix in (("builtin", "abcde"), ("dispatched", "fghij"))
    ]
    assert snapshot.differences(snapshot.status(one), snapshot.status(other)) == {}


def test_a_gone_job_differs_from_one_that_is_there() -> None:
    assert snapshot.differences(snapshot.status(None), snapshot.status(JOB))


def pod(index: str, code: int, **metadata: Any) -> dict[str, Any]:
    return {
        "metadata": {"annotations": {snapshot.INDEX: index}, **metadata},
        "status": {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"restartCount": 0, "state": {"terminated": {"exitCode": code}}}],
        },
    }


def test_pods_are_counted_by_index_and_end() -> None:
    found = snapshot.pods([pod("0", 0), pod("1", 1), pod("1", 0)], created=True)
    assert found["ended"] == {"0": {"exit 0": 1}, "1": {"exit 0": 1, "exit 1": 1}}
    assert found["created"] == {"0": 1, "1": 2}


def test_each_in_a_script_is_the_same_number_of_pods_on_both_sides(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(
        'row: r\nscenarios: [{id: a, end: Complete, script: [{nth: "each 2", exit: 1}]}]'
    )
    [entry] = scenario.load(tmp_path)
    scripts = {}
    for managed_by in (None, "example.test/value"):
        manifest = entry.manifest(run="r", managed_by=managed_by, planes=3)
        annotations = manifest["spec"]["template"]["metadata"]["annotations"]
        scripts[managed_by] = json.loads(annotations[scenario.SCRIPT])[0]["nth"]
    assert scripts == {None: "0-5", "example.test/value": "0-1"}


@pytest.mark.parametrize(
    "text",
    [
        "{id: a}",
        "{id: a, end: Complete, steps: [jump]}",
        "{id: a, end: Complete, colour: blue}",
    ],
)
def test_what_is_no_scenario_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "one.yaml").write_text(f"row: r\nscenarios: [{text}]")
    with pytest.raises(scenario.InvalidScenario, match=r"one\.yaml: a"):
        scenario.load(tmp_path)


def test_one_id_is_used_once(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("row: r\nscenarios: [{id: a, end: gone}, {id: a, end: gone}]")
    with pytest.raises(scenario.InvalidScenario, match="two scenarios"):
        scenario.load(tmp_path)
