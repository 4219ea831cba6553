"""What a Job costs that takes long to look at is bounded, however quick its pods are."""

from datetime import timedelta

import pytest

from dispatcher.core.indexes import IndexSet
from dispatcher.operator.rests import LONGEST_REST, Rests
from tests.unit.scene import NOW, Manifest, job_manifest

A_WHILE = timedelta(seconds=0.4)


def _with_indexes(text: str) -> Manifest:
    return job_manifest() | {"status": {"completedIndexes": text}}


def test_a_job_with_long_lists_rests_between_two_looks() -> None:
    rests, job = Rests(), _with_indexes(IndexSet.of(range(0, 100_000, 2)).format())
    assert rests.look(job, NOW) is None
    assert rests.look(job, NOW + A_WHILE) == pytest.approx((LONGEST_REST - A_WHILE).total_seconds())
    assert rests.look(job, NOW + LONGEST_REST) is None
    assert rests.look(job, NOW - timedelta(hours=1)) is None, "the clock was set back"
    rests.forget("u1")
    assert rests.look(job, NOW + LONGEST_REST) is None


def test_a_rest_is_as_long_as_there_is_to_look_at() -> None:
    rests, job = Rests(), _with_indexes(IndexSet.of(range(0, 2_000, 2)).format())
    assert rests.look(job, NOW) is None
    assert 0.02 <= (rests.look(job, NOW) or 0) <= 0.1


@pytest.mark.parametrize("text", ["", "0-99999"])
def test_most_jobs_never_rest(text: str) -> None:
    rests, job = Rests(), _with_indexes(text)
    assert rests.look(job, NOW) is None
    assert rests.look(job, NOW) is None


def test_a_job_that_is_deleted_never_rests() -> None:
    rests, job = Rests(), _with_indexes(IndexSet.of(range(0, 10_000, 2)).format())
    assert rests.look(job, NOW) is None
    job["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert rests.look(job, NOW) is None
