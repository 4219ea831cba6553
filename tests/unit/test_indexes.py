from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.indexes import EMPTY, IndexSet

SETS = st.frozensets(st.integers(0, 60))


@pytest.mark.parametrize(
    ("text", "indexes"),
    [
        (None, set()),
        ("", set()),
        ("0", {0}),
        ("1,3-5,7", {1, 3, 4, 5, 7}),
        ("2-3", {2, 3}),
        ("2,3", {2, 3}),
        ("0-2,3,4-6", {0, 1, 2, 3, 4, 5, 6}),
    ],
)
def test_parse(text: str | None, indexes: set[int]) -> None:
    assert set(IndexSet.parse(text).indexes()) == indexes


@pytest.mark.parametrize(
    "text",
    [
        *("a", "-1", "1-", "-", "1--2", "1-2-3", ",", "1,", ",1", "1,,2", "1 ,2", "+1", "1.0", "٣"),
        *("3,1", "1,1", "1-3,3", "1-3,2-5", "5-3", "3-3"),
    ],
)
def test_what_the_api_server_refuses_is_malformed(text: str) -> None:
    with pytest.raises(ValueError, match="malformed indexes"):
        IndexSet.parse(text)


@pytest.mark.parametrize(
    ("indexes", "text"),
    [((), ""), ((4,), "4"), ((2, 3), "2,3"), ((2, 3, 4), "2-4"), ((0, 1, 5, 7, 8, 9), "0,1,5,7-9")],
)
def test_format_is_the_job_controllers(indexes: tuple[int, ...], text: str) -> None:
    assert IndexSet.of(indexes).format() == text


def test_equal_sets_are_equal_however_they_were_written() -> None:
    assert IndexSet.parse("2-3,4") == IndexSet.parse("2,3-4") == IndexSet.interval(2, 4)
    assert hash(IndexSet.parse("2-3")) == hash(IndexSet.parse("2,3"))


def test_empty() -> None:
    assert IndexSet.interval(0, -1) == EMPTY
    assert EMPTY.is_empty
    assert not EMPTY
    assert not IndexSet.interval(0, 0).is_empty


def test_negative_indexes_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        IndexSet.of([3, -1])


def test_a_hundred_thousand_indexes_in_one_run_are_one_interval() -> None:
    assert IndexSet.parse("0-99999").intervals == ((0, 99_999),)
    assert len(IndexSet.parse("0-99999")) == 100_000


def test_a_long_text_is_read_as_any_other() -> None:
    scattered = IndexSet.of(range(0, 1_000, 2))
    text = scattered.format()
    assert IndexSet.parse(text) == IndexSet.parse(text) == scattered
    for _ in range(2):
        with pytest.raises(ValueError, match="malformed indexes"):
            IndexSet.parse(text + ",0")


def test_the_last_index() -> None:
    assert IndexSet.of([3, 7]).last == 7
    assert EMPTY.last == -1


def test_what_changes_nothing_gives_the_set_itself() -> None:
    scattered = IndexSet.of(range(0, 100, 2))
    assert scattered | IndexSet.of([4, 6]) is scattered
    assert scattered & IndexSet.interval(0, 98) is scattered
    assert scattered - IndexSet.of([101]) is scattered


@given(SETS)
def test_text_is_read_back(indexes: frozenset[int]) -> None:
    assert IndexSet.parse(IndexSet.of(indexes).format()) == IndexSet.of(indexes)


@given(SETS)
def test_normal_form(indexes: frozenset[int]) -> None:
    intervals = IndexSet.of(indexes).intervals
    assert all(first <= last for first, last in intervals)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(intervals))


@given(SETS, SETS)
def test_algebra_is_that_of_sets(one: frozenset[int], other: frozenset[int]) -> None:
    a, b = IndexSet.of(one), IndexSet.of(other)
    assert a | b == IndexSet.of(one | other)
    assert a & b == IndexSet.of(one & other)
    assert a - b == IndexSet.of(one - other)
    assert a.includes(b) == (other <= one)
    assert len(a) == len(one)
    assert list(a.indexes()) == sorted(one)
    assert [index for index in range(62) if index in a] == sorted(one)


@given(SETS, st.integers(-1, 70))
def test_lowest_and_highest(indexes: frozenset[int], count: int) -> None:
    ordered = sorted(indexes)
    wanted = max(0, count)
    assert IndexSet.of(indexes).lowest(count) == IndexSet.of(ordered[:wanted])
    assert IndexSet.of(indexes).highest(count) == IndexSet.of(
        ordered[len(ordered) - min(wanted, len(ordered)) :]
    )


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_intervals_in_any_order_are_joined(intervals: list[tuple[int, int]]) -> None:
    indexes = {index for first, last in intervals for index in range(first, last + 1)}
    assert IndexSet.from_intervals(intervals) == IndexSet.of(indexes)
