"""Bounded clusters: what Jobs hold there, who gets what is free, and that the bound always holds."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher.core import capacity, names
from dispatcher.core.actions import Claim, Decision, WriteJob
from dispatcher.core.decision import decide
from dispatcher.core.explanation import explain
from dispatcher.core.job import read_job, timestamp
from dispatcher.core.mirror import Mirror, read_mirror
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster, Observation, Rules
from dispatcher.core.placement import Placement, Share, ShareState, format_placement, parse_placement
from dispatcher.core.policy import Division, Policy, read_policy
from dispatcher.operator.room import PATIENCE, RoomAccount, pod_priority

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
Manifest = dict[str, Any]
A, B, C = ClusterName("a"), ClusterName("b"), ClusterName("c")


def job_manifest(name: str = "pi", **spec: Any) -> Manifest:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"namespace": "team", "name": name, "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": {"parallelism": 9, "completions": 18, "template": {"spec": {}}} | spec,
        "status": {},
    }


def clusters(**capacities: int | None) -> dict[ClusterName, Cluster]:
    return {
        ClusterName(name): Cluster(ClusterName(name), f"uid-{name}", True, capacity=bound)
        for name, bound in capacities.items()
    }


def observe(manifest: Manifest, room: Mapping[ClusterName, int], **fields: Any) -> Observation:
    found = {"clusters": clusters(**dict.fromkeys(room, 100))} | fields
    return Observation(job=read_job(manifest), now=NOW, rules=Rules("origin"), room=room, **found)


def written(decision: Decision) -> Manifest:
    return dict(next(action for action in decision.actions if isinstance(action, WriteJob)).manifest)


def placement_of(manifest: Manifest) -> Placement:
    return parse_placement(manifest["metadata"]["annotations"][names.PLACEMENT_ANNOTATION])


def condition(manifest: Manifest, kind: str) -> Manifest:
    return next((c for c in manifest["status"].get("conditions", ()) if c["type"] == kind), {})


def parts(manifest: Manifest) -> dict[str, tuple[int, int | None]]:
    return {s.cluster: (s.parallelism, s.completions) for s in placement_of(manifest).shares}


def test_what_does_not_fit_waits_with_its_completions() -> None:
    decision = decide(observe(job_manifest(), {A: 2, B: 1}))
    job = written(decision)
    assert parts(job) == {"a": (2, 4), "b": (1, 2)}
    waiting = condition(job, names.FULLY_PLACED)
    assert waiting["status"] == "False"
    assert waiting["message"] == (
        "6 of 9 parallelism and 12 of 18 completions not placed: no room on a (capacity 100), b (capacity 100)"
    )
    assert decision.claim == Claim(6, frozenset({A, B}))


def test_room_for_all_divides_as_without_capacities() -> None:
    bounded = written(decide(observe(job_manifest(), {A: 50, B: 50, C: 50})))
    free = written(decide(observe(job_manifest(), {}, clusters=clusters(a=None, b=None, c=None))))
    assert parts(bounded) == parts(free) == {"a": (3, 6), "b": (3, 6), "c": (3, 6)}


def test_no_room_at_all_is_a_reason_and_starts_no_clock() -> None:
    decision = decide(observe(job_manifest(), {A: 0, B: 0}))
    job = written(decision)
    dispatched = condition(job, names.DISPATCHED)
    assert (dispatched["status"], dispatched["reason"]) == ("False", "WaitingForRoom")
    assert "no room on a (capacity 100), b (capacity 100)" in dispatched["message"]
    assert "startTime" not in job["status"]
    assert decision.claim == Claim(9, frozenset({A, B}))


def test_more_pods_than_completions_need_no_more_room_than_they_use() -> None:
    decision = decide(observe(job_manifest(parallelism=100, completions=5), {A: 3, B: 3}))
    placed = placement_of(written(decision))
    assert sum(share.completions or 0 for share in placed.shares) == 5
    assert decision.claim is None


def test_a_queue_takes_what_there_is_and_grows() -> None:
    first = written(decide(observe(job_manifest(completions=None, parallelism=6), {A: 2, B: 0})))
    assert parts(first) == {"a": (2, None)}
    first["status"]["conditions"] = []
    grown = written(decide(observe(first, {A: 0, B: 3})))
    assert parts(grown) == {"a": (2, None), "b": (3, None)}


def test_a_whole_job_starts_on_the_roomiest_cluster_and_grows_there() -> None:
    manifest = job_manifest(template={"spec": {"subdomain": "mesh"}}, parallelism=4, completions=4)
    job = written(decide(observe(manifest, {A: 1, B: 4})))
    assert parts(job) == {"b": (4, 4)}
    job = written(decide(observe(manifest, {A: 0, B: 1})))
    assert parts(job) == {"b": (1, 4)}
    grown = written(decide(observe(job, {A: 4, B: 2})))
    assert parts(grown) == {"b": (3, 4)}


def test_a_resumed_job_gets_what_is_free_then() -> None:
    job = written(decide(observe(job_manifest(), {A: 9})))
    job["status"]["conditions"] = [{"type": "Suspended", "status": "True"}]
    resumed = decide(observe(job, {A: 2}))
    assert parts(written(resumed)) == {"a": (2, 18)}
    assert resumed.claim == Claim(7, frozenset({A}))


def share(parallelism: int, completions: int | None, **fields: Any) -> Share:
    return replace(Share(0, A, "uid-a", "pi", parallelism, completions), **fields)


def mirror(parallelism: int, completions: int | None, *, suspend: bool = False, **status: Any) -> Mirror:
    spec: Manifest = {"parallelism": parallelism, "suspend": suspend, "template": {}}
    if completions is not None:
        spec["completions"] = completions
    manifest = {"metadata": {"name": "pi", "uid": "m"}, "spec": spec, "status": status}
    return read_mirror(manifest, A)


HELD = [
    ("to be made", share(5, 10), None, 5),
    ("few completions", share(5, 3), None, 3),
    ("winding down", share(5, 10), mirror(5, 10, succeeded=8, active=2), 2),
    ("not yet lowered", share(2, 10), mirror(5, 10, active=5), 5),
    ("lowered, still ending", share(2, 10), mirror(2, 10, active=2, terminating=3), 5),
    ("raised", share(7, 10), mirror(2, 10, active=2), 7),
    ("a queue", share(3, None), mirror(3, None, active=3), 3),
    ("finished", share(5, 10), mirror(5, 10, conditions=[{"type": "Complete", "status": "True"}]), 0),
    ("draining", share(5, 10, state=ShareState.DRAINING), mirror(5, 10, suspend=True, active=1), 1),
    ("lost", share(5, 10, state=ShareState.LOST), None, 0),
]


def test_what_a_share_holds() -> None:
    job = read_job(job_manifest())
    for what, one, seen, expected in HELD:
        found = capacity.held(job, Placement("u", (one,), 1), {0: seen} if seen else {})
        assert found == ({A: expected} if expected else {}), what


class Book:
    """An account over made-up Jobs, whose clusters run nothing."""

    def __init__(self, **capacities: int | None) -> None:
        self.jobs: dict[tuple[str, str], Manifest] = {}
        self.clusters = clusters(**capacities)
        self.woken: list[str] = []
        self.now = NOW
        self.others: set[str] = set()
        """UIDs of Jobs that another process decides on."""
        self.account = RoomAccount(
            jobs=lambda: list(self.jobs.values()),
            find_job=self.jobs.get,
            find_mirrors=lambda _uid, _namespace: (),
            clusters=lambda: self.clusters,
            priority=lambda manifest: pod_priority(manifest, {"high": 10}),
            wake=lambda key: self.woken.append(key[1]),
            owns=lambda uid: uid not in self.others,
            now=lambda: self.now,
        )
        self.account.complete()
        self.account.clusters_changed()

    def add(self, name: str, *, age: int = 0, priority: str = "", **spec: Any) -> None:
        template: Manifest = {"spec": {"priorityClassName": priority} if priority else {}}
        manifest = job_manifest(name, template=template, **spec)
        manifest["metadata"]["creationTimestamp"] = f"2026-01-01T11:{59 - age:02}:00Z"
        self.jobs["team", name] = manifest

    def decide(self, name: str, *, lose_write: bool = False) -> Decision:
        """Decide, book, and write."""
        key = ("team", name)
        manifest = self.jobs[key]
        found = Observation(
            read_job(manifest),
            self.now,
            Rules("origin"),
            clusters=self.clusters,
            room=self.account.room(key, manifest),
        )
        decision = decide(found)
        self.account.book(key, manifest, decision)
        self.check()
        if not lose_write:
            self.write(name, decision)
        return decision

    def write(self, name: str, decision: Decision) -> None:
        key = ("team", name)
        for action in decision.actions:
            if isinstance(action, WriteJob):
                self.jobs[key] = dict(action.manifest)
        self.account.changed(key)
        self.account.written(key)
        self.check()

    def end(self, name: str) -> None:
        job = self.jobs["team", name]
        job["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
        self.account.changed(("team", name))

    def held(self) -> dict[ClusterName, int]:
        totals: dict[ClusterName, int] = {}
        for manifest in self.jobs.values():
            text = manifest["metadata"].get("annotations", {}).get(names.PLACEMENT_ANNOTATION)
            if text:
                for name, pods in capacity.held(read_job(manifest), parse_placement(text), {}).items():
                    totals[name] = totals.get(name, 0) + pods
        return totals

    def check(self) -> None:
        for name, pods in self.held().items():
            bound = self.clusters[name].capacity
            assert bound is None or pods <= bound


def test_writes_under_way_count() -> None:
    book = Book(a=10)
    book.add("first", parallelism=8, completions=8)
    book.add("second", parallelism=8, completions=8)
    first = book.decide("first", lose_write=True)
    second = book.decide("second", lose_write=True)
    book.write("first", first)
    book.write("second", second)
    assert book.held() == {A: 10}


def test_freed_room_goes_by_priority_then_age() -> None:
    book = Book(a=4)
    book.add("running", parallelism=4, completions=4)
    book.decide("running")
    for name, age, priority in (("young", 1, ""), ("old", 9, ""), ("urgent", 0, "high")):
        book.add(name, age=age, priority=priority, parallelism=3, completions=3)
        assert book.decide(name).claim == Claim(3, frozenset({A}))
    assert [key[1] for key, _claim in book.account.line()] == ["urgent", "old", "young"]
    book.woken.clear()
    book.end("running")
    assert book.woken == ["urgent", "old"]  # three for one, and one for the next: that is all there is
    assert book.decide("young").claim is not None  # what the others wait for is not free for it
    book.decide("urgent")
    book.decide("old")
    assert book.held() == {A: 4}
    assert parts(book.jobs["team", "urgent"]) == {"a": (3, 3)}
    assert parts(book.jobs["team", "old"]) == {"a": (1, 1)}


def test_a_huge_job_does_not_hold_up_small_ones_that_fit_elsewhere() -> None:
    book = Book(a=4, b=4)
    only_a = '{"clusters": {"a": {"weight": 1}}}'
    book.add("huge", age=9, parallelism=100, completions=100)
    book.jobs["team", "huge"]["metadata"]["annotations"] = {names.PREFERENCES_ANNOTATION: only_a}
    book.decide("huge")
    book.add("small", parallelism=2, completions=2)
    book.decide("small")
    assert parts(book.jobs["team", "small"]) == {"b": (2, 2)}


def pods_of(book: Book, name: str) -> int:
    manifest = book.jobs["team", name]
    if names.PLACEMENT_ANNOTATION not in manifest["metadata"].get("annotations", {}):
        return 0
    return sum(share.parallelism for share in placement_of(manifest).active)


@pytest.mark.parametrize("priority", ["", "high"])
def test_a_big_job_is_not_starved_by_a_stream_of_small_ones(priority: str) -> None:
    """Each minute one small Job ends and two come, of the big one's priority or of a higher one."""
    book = Book(a=4, b=4)
    running = []
    for number in range(8):
        book.add(f"first-{number}", age=30, parallelism=1, completions=1)
        book.decide(f"first-{number}")
        running.append(f"first-{number}")
    book.add("big", age=20, parallelism=8, completions=8)
    book.decide("big")
    for minute in range(120):
        book.now = NOW + timedelta(minutes=minute)
        for half in (1, 2):
            book.add(f"small-{minute}-{half}", priority=priority, parallelism=1, completions=1)
            book.decide(f"small-{minute}-{half}")
        book.woken.clear()
        book.end(running.pop(0))
        for name in book.woken:
            book.decide(name)
            if name != "big":
                running.append(name)
        if pods_of(book, "big") == 8:
            break
    assert pods_of(book, "big") == 8
    patience = PATIENCE.total_seconds() / 60 if priority else 0
    assert minute <= patience + 8, "a minute for each of its pods, once it is its turn"


@settings(max_examples=4, deadline=None)
@given(st.randoms(use_true_random=False))
def test_nobody_waits_for_ever(random: Any) -> None:
    """Jobs of all sizes and priorities come as fast as they end: each gets all of its pods in bounded time."""
    book = Book(a=4, b=6)
    waits: dict[str, int] = {}
    most = 0
    for minute in range(150):
        book.now = NOW + timedelta(minutes=minute)
        if len(waits) < 12:
            name = f"job-{minute}"
            size = random.choice([1, 1, 2, 3, 8, 20])
            book.add(name, priority=random.choice(["", "high"]), parallelism=size, completions=size)
            book.jobs["team", name]["metadata"]["creationTimestamp"] = timestamp(book.now)
            waits[name] = minute
            book.decide(name)
        book.woken.clear()
        for name in random.sample(sorted(waits), len(waits)):
            job = book.jobs["team", name]
            if book.held() and names.PLACEMENT_ANNOTATION in job["metadata"].get("annotations", {}):
                done: dict[str, int] = {name: job["status"].get("succeeded", 0)}
                if random.random() < 0.5:
                    _work(book, name, done)
            if ("team", name) not in book.jobs:
                most = max(most, minute - waits.pop(name))
        for name in dict.fromkeys([*book.woken, *waits]):
            if ("team", name) in book.jobs:
                book.decide(name)
    assert most < 100
    assert all(149 - since < 100 for since in waits.values())


def test_a_job_that_goes_gives_its_place_up() -> None:
    book = Book(a=2)
    for name in ("running", "waiting", "last"):
        book.add(name, parallelism=2, completions=2)
        book.decide(name)
    del book.jobs["team", "waiting"]
    book.account.changed(("team", "waiting"))
    assert [key[1] for key, _claim in book.account.line()] == ["last"]
    book.woken.clear()
    del book.jobs["team", "running"]
    book.account.changed(("team", "running"))
    assert book.woken == ["last"]


def test_a_job_that_another_process_decides_on_keeps_nothing_back() -> None:
    book = Book(a=2)
    for name in ("running", "waiting", "last"):
        book.add(name, parallelism=2, completions=2)
        book.decide(name)
    book.others.add("uid-waiting")
    assert [key[1] for key, _claim in book.account.line()] == ["last"]
    book.end("running")
    book.decide("last")
    assert parts(book.jobs["team", "last"]) == {"a": (2, 2)}


def test_nothing_is_given_before_all_jobs_are_known() -> None:
    book = Book(a=2)
    book.account = RoomAccount(
        jobs=list,
        find_job=lambda _key: None,
        find_mirrors=lambda _uid, _namespace: (),
        clusters=lambda: book.clusters,
        priority=lambda _manifest: 0,
        wake=lambda _key: None,
        owns=lambda _uid: True,
        now=lambda: NOW,
    )
    book.account.clusters_changed()
    assert book.account.room(("team", "x"), job_manifest()) == {A: 0}
    book.account.complete()
    assert book.account.room(("team", "x"), job_manifest()) == {A: 2}


SIZES = st.tuples(st.integers(1, 12), st.integers(1, 30))


@settings(max_examples=25, deadline=None)
@given(st.lists(SIZES, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_bounds_hold_and_everything_is_placed(sizes: list[tuple[int, int]], random: Any) -> None:
    book = Book(a=3, b=5, c=7)
    for number, (parallelism, completions) in enumerate(sizes):
        book.add(f"job-{number}", age=number, parallelism=parallelism, completions=completions)
    done: dict[str, int] = {}
    for _step in range(2000):
        open_jobs = [name for _namespace, name in book.jobs]
        if not open_jobs:
            break
        name = random.choice(open_jobs)
        book.decide(name)
        _work(book, name, done)
    assert not book.jobs
    assert done == {f"job-{n}": completions for n, (_parallelism, completions) in enumerate(sizes)}


def _work(book: Book, name: str, done: dict[str, int]) -> None:
    """The Job's shares end; one that has nothing left is taken away."""
    key = ("team", name)
    job = book.jobs[key]
    text = job["metadata"].get("annotations", {}).get(names.PLACEMENT_ANNOTATION)
    if text is None:
        return
    placement = parse_placement(text)
    for one in placement.active:
        if one.parallelism:
            done[name] = done.get(name, 0) + (one.completions or 0)
            counts = replace(one.counts, succeeded=one.completions or 0)
            placement = placement.retire(replace(one, counts=counts))
    job["metadata"]["annotations"][names.PLACEMENT_ANNOTATION] = format_placement(placement)
    job["status"]["succeeded"] = done.get(name, 0)
    if done.get(name) == job["spec"]["completions"]:
        del book.jobs[key]
    book.account.changed(key)


def test_available_divides_by_what_is_free() -> None:
    policy = Policy(name="p", division=Division.AVAILABLE)
    found = observe(job_manifest(), {A: 10, B: 20}, policy=policy)
    assert parts(written(decide(found))) == {"a": (3, 6), "b": (6, 12)}
    half = observe(job_manifest(), {A: 12}, policy=policy, clusters=clusters(a=12, c=None))
    assert parts(written(decide(half))) == {"a": (4, 9), "c": (5, 9)} or parts(written(decide(half))) == {
        "a": (5, 9),
        "c": (4, 9),
    }
    full = decide(observe(job_manifest(), {A: 0, B: 0}, policy=policy))
    assert condition(written(full), names.DISPATCHED)["reason"] == "WaitingForRoom"


def test_every_cluster_is_explained() -> None:
    policy = Policy(name="p", cluster_selector={"matchLabels": {"gpu": "yes"}})
    found = observe(job_manifest(), {A: 4}, policy=policy, clusters=clusters(a=4, b=None))
    placement = Placement("uid-pi", (share(3, 6),), 1)
    explained = explain(found, placement)
    assert explained.rules == ("DispatchPolicy p, division Even",)
    first, second = explained.clusters
    assert first.excluded == "ClusterSelector: not selected by DispatchPolicy p"
    assert (first.part, first.capacity, first.free) == ("parallelism 3, completions 6", 4, 4)
    assert (second.part, second.capacity, second.free) == ("", None, None)


DOCUMENTED = [
    ({}, ("a", "b", "c"), {"a": (3, 6), "b": (3, 6), "c": (3, 6)}),
    (
        {"division": "Weighted", "clusters": {"a": {"weight": 1}, "b": {"weight": 2}}},
        ("a", "b"),
        {"a": (3, 6), "b": (6, 12)},
    ),
    ({"clusters": {"a": {"maxReplicas": 2}}}, ("a",), {"a": (2, 2)}),
]


def test_the_examples_of_the_documentation() -> None:
    """docs/policies.md; the last one waits with what one cluster may not have."""
    for spec, where, expected in DOCUMENTED:
        policy = read_policy({"metadata": {"name": "p"}, "spec": spec})
        found = clusters(**dict.fromkeys(where))
        assert parts(written(decide(observe(job_manifest(), {}, clusters=found, policy=policy)))) == expected
    policy = read_policy({"metadata": {"name": "p"}, "spec": DOCUMENTED[2][0]})
    three = clusters(a=None, b=None, c=None)
    divided = parts(written(decide(observe(job_manifest(), {}, clusters=three, policy=policy))))
    assert divided["a"] == (2, 2)
    assert sum(pods for pods, _completions in divided.values()) == 9
    assert sum(completions or 0 for _pods, completions in divided.values()) == 18
