"""The placement annotation: what is written can be read, and what is not ours is refused as a whole."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dispatcher.core.names import ClusterName
from dispatcher.core.placement import (
    Counts,
    Placement,
    PlacementError,
    Share,
    ShareState,
    format_placement,
    parse_placement,
)

PLACEMENT = Placement(
    "u1",
    (
        Share(0, ClusterName("a"), "uid-a", "pi", 2, 3, (0, 2), "m1", ShareState.FINISHED, Counts(3, 1)),
        Share(2, ClusterName("b"), "uid-b", "pi-1", 1, 2, (3, 4)),
    ),
    next_id=3,
    retired={"c": Counts(1, 2)},
)


def test_a_placement_survives_its_annotation() -> None:
    assert parse_placement(format_placement(PLACEMENT)) == PLACEMENT


def test_a_share_knows_since_when_it_is_in_its_state() -> None:
    first, later = (datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (1, 2))
    persisted = parse_placement(format_placement(PLACEMENT.stamped(first)))
    assert [share.since for share in persisted.shares] == [int(first.timestamp())] * 2
    assert format_placement(persisted.stamped(later)) == format_placement(persisted)
    finished, moved = persisted.shares
    drained = persisted.with_shares([finished, replace(moved, state=ShareState.DRAINING)])
    again = parse_placement(format_placement(drained.stamped(later)))
    assert [share.since for share in again.shares] == [int(first.timestamp()), int(later.timestamp())]


def test_an_old_annotation_says_not_since_when_and_is_left_so() -> None:
    text = format_placement(PLACEMENT)
    assert format_placement(parse_placement(text).stamped(datetime(2026, 1, 1, tzinfo=UTC))) == text


def test_total_counts_live_finished_and_retired_shares() -> None:
    assert PLACEMENT.total() == Counts(4, 3)


def test_a_retired_share_keeps_its_settled_counts() -> None:
    retired = PLACEMENT.retire(PLACEMENT.shares[0])
    assert retired.total() == PLACEMENT.total()
    assert [share.id for share in retired.shares] == [2]


def _changed(**fields: object) -> str:
    return json.dumps({**json.loads(format_placement(PLACEMENT)), **fields})


SHARE = json.loads(format_placement(PLACEMENT))["shares"][1]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[]", id="no-object"),
        pytest.param("{}", id="no-version"),
        pytest.param(_changed(version=2), id="other-version"),
        pytest.param(_changed(jobUID=1), id="uid-no-text"),
        pytest.param(_changed(nextShare=2), id="id-not-below-next"),
        pytest.param(_changed(nextShare=-1), id="negative"),
        pytest.param(_changed(nextShare=True), id="boolean"),
        pytest.param(_changed(shares=[SHARE, SHARE]), id="id-twice"),
        pytest.param(_changed(shares=[{**SHARE, "completions": 5}]), id="completions-against-indexes"),
        pytest.param(_changed(shares=[{**SHARE, "indexes": "1,3"}]), id="two-intervals"),
        pytest.param(_changed(shares=[{**SHARE, "state": "Odd"}]), id="unknown-state"),
        pytest.param(_changed(shares="x"), id="shares-no-list"),
        pytest.param(_changed(retired={"c": [1]}), id="counts-too-short"),
        pytest.param("[" * 100_000, id="nested-too-deeply"),
    ],
)
def test_what_is_no_placement_is_refused(text: str) -> None:
    with pytest.raises(PlacementError):
        parse_placement(text)
