"""What a watch made of lists sends, without a cluster."""

import json
from typing import Any

import pytest

from dispatcher.view.pod_watch import PodWatch, read_watch
from dispatcher.view.status import Refused


def item(uid: str, version: int) -> dict[str, Any]:
    """A pod of a list."""
    return {"metadata": {"uid": uid, "name": uid, "resourceVersion": str(version)}}


class Lists:
    """One list after the other; a refusal when there are no more."""

    def __init__(self, *lists: list[dict[str, Any]], table: bool = False) -> None:
        self._lists = list(lists)
        self._table = table

    async def __call__(self) -> dict[str, Any]:
        if not self._lists:
            raise Refused(503, "cluster east cannot be read")
        items = self._lists.pop(0)
        if self._table:
            rows = [{"cells": [entry["metadata"]["uid"]], "object": entry} for entry in items]
            columns = [{"name": "Name"}]
            return {"kind": "Table", "columnDefinitions": columns, "metadata": {}, "rows": rows}
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}


def said(events: list[bytes]) -> list[tuple[str, str]]:
    """Kind of event and pod."""
    read = [json.loads(event) for event in events]
    return [(event["type"], event["object"]["metadata"].get("uid", "")) for event in read]


async def test_what_was_listed_does_not_come_again() -> None:
    lists = Lists(
        [item("a", 5), item("b", 12)], [item("a", 13), item("c", 14)], [item("a", 13), item("c", 14)]
    )
    watch = PodWatch(lists, after=10)
    assert said(await watch.news()) == [("ADDED", "b")]
    assert said(await watch.news()) == [("MODIFIED", "a"), ("ADDED", "c"), ("DELETED", "b")]
    assert await watch.news() == []


async def test_without_a_version_everything_comes() -> None:
    assert said(await PodWatch(Lists([item("a", 5)]), after=None).news()) == [("ADDED", "a")]


async def test_a_table_comes_in_rows() -> None:
    watch = PodWatch(Lists([], [item("a", 5)], table=True), after=3)
    assert await watch.news() == []
    (event,) = map(json.loads, await watch.news())
    assert event["object"]["columnDefinitions"] == [{"name": "Name"}]
    assert [row["cells"] for row in event["object"]["rows"]] == [["a"]]
    assert event["object"]["metadata"] == {"resourceVersion": "5"}


async def test_a_cluster_that_goes_away_ends_the_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.view.pod_watch.LOOK_SECONDS", 0.0)
    written: list[bytes] = []

    class Writer:
        async def write(self, data: bytes) -> None:
            written.append(data)

    watch = PodWatch(Lists([item("a", 5)], [item("a", 6)]), after=None)
    await watch.serve(Writer(), await watch.news(), seconds=60.0)
    *pods, error = [json.loads(line) for line in b"".join(written).splitlines()]
    assert [event["type"] for event in pods] == ["ADDED", "MODIFIED"]
    assert (error["type"], error["object"]["code"]) == ("ERROR", 503)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"resourceVersion": "x"}, 400),
        ({"timeoutSeconds": "-1"}, 400),
        ({"sendInitialEvents": "true"}, 422),
    ],
)
def test_what_makes_no_sense_is_refused(query: dict[str, str], code: int) -> None:
    with pytest.raises(Refused) as refused:
        read_watch(query)
    assert refused.value.code == code


def test_from_where_and_for_how_long() -> None:
    assert (read_watch({"resourceVersion": "0"}).after, read_watch({"resourceVersion": "7"}).after) == (
        None,
        7,
    )
    assert read_watch({"timeoutSeconds": "20"}).seconds == 20
    assert read_watch({"timeoutSeconds": "999999"}).seconds == read_watch({}).seconds == 1800
