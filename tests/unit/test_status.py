"""The status that is written is one that the API server's validation accepts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dispatcher.core.indexes import IndexSet
from dispatcher.core.job import read_job, timestamp
from dispatcher.core.placement import Counts
from dispatcher.core.progress import Progress
from dispatcher.core.status import StatusDraft, completion_time
from dispatcher.core.verdict import Verdict
from hack.simulate.validation import status_faults, true_conditions

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def _job(spec: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    metadata = {"namespace": "team", "name": "pi", "uid": "u1"}
    return {"metadata": metadata, "spec": {"completions": 4} | (spec or {}), "status": status}


def _progress(counts: Counts, completed: IndexSet | None = None) -> Progress:
    return Progress(counts, completed or IndexSet(), IndexSet())


@pytest.mark.parametrize("succeeded", [True, False], ids=["complete", "failed"])
@pytest.mark.parametrize("started", [True, False], ids=["started", "never-started"])
def test_an_end_is_one_valid_write(succeeded: bool, started: bool) -> None:
    manifest = _job(active=2)
    if started:
        manifest["status"]["startTime"] = timestamp(NOW - timedelta(hours=1))
    draft = StatusDraft(read_job(manifest), NOW)
    verdict = Verdict(succeeded, "Reason", "message")
    draft.decide(verdict)
    draft.count(_progress(Counts(4, 1)))
    draft.finish(verdict, {}, NOW)
    status = draft.build()
    assert status_faults(manifest["spec"], manifest["status"], status) == []
    assert {verdict.interim, verdict.terminal} <= true_conditions(status)
    assert ("completionTime" in status) is succeeded


def test_conditions_and_fields_of_others_stay() -> None:
    other = {"type": "Other", "status": "True", "lastTransitionTime": "x"}
    draft = StatusDraft(read_job(_job(conditions=[other], odd=1)), NOW)
    draft.set_condition("Dispatched", True, reason="Dispatched", message="m")
    status = draft.build()
    assert status["conditions"][0] == other
    assert status["odd"] == 1


def test_the_transition_time_moves_only_with_the_status() -> None:
    first = StatusDraft(read_job(_job()), NOW)
    assert first.set_condition("Dispatched", True, reason="A", message="m")
    job = read_job(_job(**first.build()))
    second = StatusDraft(job, NOW + timedelta(minutes=1))
    assert not second.set_condition("Dispatched", True, reason="B", message="n")
    (entry,) = second.build()["conditions"]
    assert (entry["lastTransitionTime"], entry["reason"]) == (timestamp(NOW), "B")


def test_the_published_object_is_not_changed_in_place() -> None:
    manifest = _job(conditions=[{"type": "Suspended", "status": "True"}])
    draft = StatusDraft(read_job(manifest), NOW)
    draft.set_condition("Suspended", False, reason="JobResumed", message="m")
    draft.start()
    assert manifest["status"] == {"conditions": [{"type": "Suspended", "status": "True"}]}


def test_failed_indexes_are_there_even_when_empty_with_a_limit_per_index() -> None:
    spec = {"completionMode": "Indexed", "backoffLimitPerIndex": 1}
    draft = StatusDraft(read_job(_job(spec)), NOW)
    draft.count(_progress(Counts(2), IndexSet.of([0, 1])))
    assert draft.build()["failedIndexes"] == ""
    assert draft.build()["completedIndexes"] == "0,1"


@pytest.mark.parametrize(
    ("start", "expected"),
    [(None, NOW), (NOW - timedelta(hours=1), NOW), (NOW + timedelta(hours=1), NOW + timedelta(hours=1))],
    ids=["no-start", "before", "clock-skew"],
)
def test_completion_time_is_never_before_start_time(start: datetime | None, expected: datetime) -> None:
    assert completion_time(None if start is None else timestamp(start), {}, NOW) == expected
