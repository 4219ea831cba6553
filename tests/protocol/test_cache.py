import tracemalloc
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.clusters.cache import ObjectCache
from tests.protocol.fake_server import make_job

Calls = list[tuple[Any, ...]]


def recording(**options: Any) -> tuple[ObjectCache, Calls]:
    """A cache, and what it tells: ("changed", old version, new version), ("deleted", uid, version, final)."""
    calls: Calls = []

    def version(item: dict[str, Any] | None) -> int | None:
        return None if item is None else int(item["metadata"]["resourceVersion"])

    cache = ObjectCache(
        on_change=lambda old, new: calls.append(("changed", version(old), version(new))),
        on_delete=lambda last, final: calls.append(
            ("deleted", last["metadata"]["uid"], version(last), final)
        ),
        **options,
    )
    return cache, calls


def test_a_newer_state_replaces_an_older_one_and_never_the_other_way() -> None:
    cache, calls = recording()
    assert cache.put(make_job("a", 5))
    assert cache.put(make_job("a", 7))
    assert not cache.put(make_job("a", 6)), "a late watch event does not turn a write's reply back"
    assert not cache.put(make_job("a", 7)), "the same state again is no change"
    assert cache.get("ns", "a") == make_job("a", 7)
    assert calls == [("changed", None, 5), ("changed", 5, 7)]


def test_versions_compare_as_numbers() -> None:
    cache, _ = recording()
    cache.put(make_job("a", 9))
    assert cache.put(make_job("a", 10))
    assert cache.highest_version == 10


def test_a_deleted_event_brings_the_last_state() -> None:
    cache, calls = recording()
    cache.put(make_job("a", 5))
    assert cache.delete(make_job("a", 9, status={"succeeded": 3}))
    assert ("ns", "a") not in cache
    assert not cache.put(make_job("a", 8)), "a late event of what is gone"
    assert not cache.delete(make_job("a", 9)), "told once"
    assert calls == [("changed", None, 5), ("deleted", "uid-a", 9, True), ("changed", 5, None)]


def test_an_object_that_left_the_selector_may_come_back() -> None:
    cache, calls = recording()
    cache.put(make_job("a", 5))
    cache.delete(make_job("a", 6))
    assert cache.put(make_job("a", 7)), "the label was put back: same UID, later version"
    assert not cache.delete(make_job("a", 6)), "the earlier leaving, told late"
    assert cache.get("ns", "a") is not None
    cache.delete(make_job("a", 8))
    assert calls[-2:] == [("deleted", "uid-a", 8, True), ("changed", 7, None)]


def test_what_is_gone_stays_gone_and_its_final_state_is_still_told() -> None:
    cache, calls = recording()
    cache.put(make_job("a", 5))
    cache.gone("ns", "a", "uid-a")
    assert calls[1:] == [("deleted", "uid-a", 5, False), ("changed", 5, None)]
    assert not cache.put(make_job("a", 6))
    assert not cache.put(make_job("a", 600)), "a UID never comes back"
    assert cache.delete(make_job("a", 8))
    assert not cache.delete(make_job("a", 8))
    assert calls[3:] == [("deleted", "uid-a", 8, True)]


def test_gone_of_another_uid_leaves_the_present_object() -> None:
    cache, calls = recording()
    cache.put(make_job("a", 5, uid="new"))
    cache.gone("ns", "a", "old")
    assert ("ns", "a") in cache
    assert not cache.put(make_job("a", 6, uid="old"))
    assert len(calls) == 1


def test_a_name_used_again_is_another_object() -> None:
    cache, calls = recording()
    cache.put(make_job("a", 5, uid="old"))
    cache.put(make_job("a", 9, uid="new"))
    assert calls[1:] == [("deleted", "old", 5, False), ("changed", 5, None), ("changed", None, 9)]
    assert not cache.put(make_job("a", 6, uid="old"))
    cache.delete(make_job("a", 8, uid="old", status={"succeeded": 1}))
    assert calls[4:] == [("deleted", "old", 8, True)], "its final state is told, the new one is not touched"
    assert cache.get("ns", "a") == make_job("a", 9, uid="new")


def test_a_deleted_event_of_something_unknown_is_told() -> None:
    cache, calls = recording()
    cache.delete(make_job("a", 8))
    assert calls == [("deleted", "uid-a", 8, True)]
    assert not cache.put(make_job("a", 7))


def test_a_list_removes_what_it_does_not_hold_unless_that_is_newer() -> None:
    cache, calls = recording()
    for name, version in (("stays", 3), ("went", 4), ("made-meanwhile", 12)):
        cache.put(make_job(name, version))
    calls.clear()
    cache.replace_all([make_job("stays", 3), make_job("new", 7)], 10)
    assert {item["metadata"]["name"] for item in cache} == {"stays", "new", "made-meanwhile"}
    assert calls == [("changed", None, 7), ("deleted", "uid-went", 4, False), ("changed", 4, None)]


def test_a_list_is_older_than_what_is_known_of_an_object() -> None:
    cache, _ = recording()
    cache.put(make_job("a", 12))
    cache.replace_all([make_job("a", 8)], 10)
    assert cache.get("ns", "a") == make_job("a", 12)


def test_a_store_that_went_back_in_time_is_believed() -> None:
    cache, calls = recording()
    cache.put(make_job("a", 50))
    cache.put(make_job("b", 51))
    cache.gone("ns", "c", "uid-c")
    calls.clear()
    cache.rewind(20)
    cache.replace_all([make_job("a", 10), make_job("c", 15)], 20)
    assert {item["metadata"]["name"] for item in cache} == {"a", "c"}
    assert cache.highest_version == 20
    assert ("deleted", "uid-b", 51, False) in calls


def test_packed_objects_are_what_they_were_and_are_told_apart() -> None:
    calls: list[Any] = []
    cache = ObjectCache(
        packs=lambda item: bool(item.get("status", {}).get("done")),
        index=lambda item: str(item["metadata"]["uid"]),
        on_change=lambda old, new: calls.append((old, new)),
    )
    runs, other = make_job("a", 1), make_job("b", 2)
    done = {**make_job("a", 3), "status": {"done": True, "text": "ü", "count": 2**40}}
    for item in (runs, other, done):
        cache.put(item)
    assert cache.get("ns", "a") == done
    assert cache.in_group("uid-a") == [done]
    assert sorted(item["metadata"]["name"] for item in cache) == ["a", "b"]
    assert cache.unpacked() == [other]
    again = {**make_job("a", 4), "status": {}}
    cache.put(again)
    assert calls[-2:] == [(runs, done), (done, again)]
    assert len(cache.unpacked()) == 2
    cache.put({**done, "metadata": {**done["metadata"], "resourceVersion": "5"}})
    cache.gone("ns", "a", "uid-a")
    assert calls[-1][0]["status"] == done["status"]


def test_packed_objects_take_little_memory() -> None:
    def grown(cache: ObjectCache) -> int:
        texts = [
            orjson.dumps(
                {**make_job(f"{number:04}", number + 1), "status": dict.fromkeys("abcdefgh", number)}
            )
            for number in range(500)
        ]
        tracemalloc.start()
        try:
            for text in texts:
                cache.put(orjson.loads(text))
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    assert grown(ObjectCache(packs=lambda _item: True)) < 0.6 * grown(ObjectCache())


def test_groups_follow_the_index() -> None:
    cache = ObjectCache(index=lambda item: item["metadata"].get("labels", {}).get("job"))

    def labelled(name: str, version: int, group: str) -> dict[str, Any]:
        item = make_job(name, version)
        item["metadata"]["labels"] = {"job": group}
        return item

    cache.put(labelled("a", 1, "x"))
    cache.put(labelled("b", 2, "x"))
    cache.put(make_job("none", 3))
    assert [item["metadata"]["name"] for item in cache.in_group("x")] == ["a", "b"]
    cache.put(labelled("a", 4, "y"))
    assert [item["metadata"]["name"] for item in cache.in_group("x")] == ["b"]
    cache.delete(labelled("b", 5, "x"))
    assert cache.in_group("x") == []
    assert cache.groups() == ["y"]


def test_managed_fields_are_dropped_and_the_argument_is_left_alone() -> None:
    cache, _ = recording()
    item = make_job("a", 5)
    item["metadata"]["managedFields"] = [{"manager": "x"}]
    cache.put(item)
    assert cache.get("ns", "a") == make_job("a", 5)
    assert "managedFields" in item["metadata"]


def test_tombstones_are_bounded() -> None:
    cache, _ = recording(tombstones=2)
    for name in ("a", "b", "c"):
        cache.gone("ns", name, f"uid-{name}")
    assert cache.put(make_job("a", 1)), "forgotten"
    assert not cache.put(make_job("b", 1))
    assert not cache.put(make_job("c", 1))


def test_a_listener_that_fails_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("listener")

    cache = ObjectCache(on_change=fail, on_delete=fail)
    cache.put(make_job("a", 1))
    cache.delete(make_job("a", 2))
    assert len(cache) == 0
    assert caplog.text.count("RuntimeError: listener") == 3


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, dict[str, Any]]]:
    """A store's true events in order, and what it holds at the end."""
    live: dict[str, dict[str, Any]] = {}
    events: list[tuple[str, dict[str, Any]]] = []
    incarnation = 0
    for version in range(1, draw(st.integers(1, 25))):
        name = draw(st.sampled_from("abc"))
        if name in live and draw(st.booleans()):
            uid = live.pop(name)["metadata"]["uid"]
            events.append(("DELETED", make_job(name, version, uid=uid)))
            continue
        if name not in live:
            incarnation += 1
        uid = live[name]["metadata"]["uid"] if name in live else f"{name}-{incarnation}"
        live[name] = make_job(name, version, uid=uid)
        events.append(("PUT", live[name]))
    return events, live


@given(history=histories(), data=st.data())
def test_whatever_the_order_the_cache_ends_with_the_truth(
    history: tuple[list[tuple[str, dict[str, Any]]], dict[str, dict[str, Any]]], data: st.DataObject
) -> None:
    """Replies to writes overtake the watch; events come twice; a list with any delay comes in between."""
    events, live = history
    arrivals = list(events) + data.draw(
        st.lists(st.sampled_from(events), max_size=10) if events else st.just([])
    )
    order = data.draw(st.permutations(arrivals))
    cache, calls = recording()
    for kind, item in order:
        cache.put(item) if kind == "PUT" else cache.delete(item)
    cache.replace_all(live.values(), max(len(events), 1))
    assert {item["metadata"]["name"]: item for item in cache} == live
    held: set[int] = set()
    for call in calls:
        if call[0] == "changed":
            _, old, new = call
            assert old is None or old in held, "a change starts from what was told before"
            held -= {old}
            held |= {new} - {None}
    assert held == {int(item["metadata"]["resourceVersion"]) for item in live.values()}
