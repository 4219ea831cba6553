from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.division import (
    Division,
    LiveShare,
    Part,
    divide,
    divide_indexes,
    spread_parallelism,
)
from dispatcher.core.indexes import EMPTY, IndexSet
from dispatcher.core.names import ClusterName
from dispatcher.core.preferences import EVEN, EVERY_OTHER_CLUSTER, ClusterPreferences, Preferences

K8S = [ClusterName("k8s-1"), ClusterName("k8s-2")]
THREE = [ClusterName("A"), ClusterName("B"), ClusterName("C")]


def pods_and_work(division: Division) -> dict[str, tuple[int, int | None]]:
    return {name: (part.parallelism, part.completions) for name, part in division.parts.items()}


def with_star(**own: int) -> Preferences:
    return Preferences(clusters={EVERY_OTHER_CLUSTER: ClusterPreferences(**{"weight": 1, **own})})


@pytest.mark.parametrize(
    ("job", "parallelism", "completions", "expected"),
    [
        ("job1", 2, 7, {"k8s-1": (1, 4), "k8s-2": (1, 3)}),
        ("job2", 2, None, {"k8s-1": (1, None), "k8s-2": (1, None)}),
        ("job3", 7, 2, {"k8s-1": (4, 1), "k8s-2": (3, 1)}),
    ],
)
def test_federations_own_cases(
    job: str, parallelism: int, completions: int | None, expected: dict[str, tuple[int, int | None]]
) -> None:
    division = divide(key=f"default/{job}", parallelism=parallelism, completions=completions, clusters=K8S)
    assert pods_and_work(division) == expected
    assert not division.reason


def test_the_example_of_federations_guide() -> None:
    division = divide(key="default/job", parallelism=9, completions=18, clusters=THREE)
    assert pods_and_work(division) == {"A": (3, 6), "B": (3, 6), "C": (3, 6)}


def test_one_pod_at_a_time_keeps_all_work_on_one_cluster() -> None:
    division = divide(key="default/job", parallelism=1, completions=7, clusters=K8S)
    assert list(division.parts.values()) == [Part(1, 7)]


def test_fewer_completions_than_clusters_leave_no_parallelism_without_work() -> None:
    division = divide(key="default/job", parallelism=3, completions=2, clusters=THREE)
    assert sorted(pods_and_work(division).values()) == [(1, 1), (2, 1)]


@pytest.mark.parametrize("completions", [7, 2, 1])
def test_parallelism_0_still_plans_completions(completions: int) -> None:
    division = divide(key="default/job", parallelism=0, completions=completions, clusters=THREE)
    assert sum(part.completions or 0 for part in division.parts.values()) == completions
    assert {part.parallelism for part in division.parts.values()} == {0}
    assert len(division.parts) == min(3, completions)


def test_nothing_to_do_is_no_part() -> None:
    assert divide(key="", parallelism=3, completions=0, clusters=THREE) == Division({})
    assert divide(key="", parallelism=0, completions=None, clusters=THREE) == Division({})


def test_a_work_queue_has_no_part_without_parallelism() -> None:
    division = divide(key="", parallelism=2, completions=None, clusters=THREE)
    assert sorted(division.parts.values(), key=str) == [Part(1, None), Part(1, None)]


def test_no_cluster() -> None:
    division = divide(key="", parallelism=3, completions=6, clusters=[])
    assert division.parts == {}
    assert (division.unplaced_parallelism, division.unplaced_completions) == (3, 6)
    assert division.reason == "3 of 3 parallelism and 6 of 6 completions not placed: there is no cluster"


def test_work_above_all_maxima_waits_and_says_why() -> None:
    division = divide(
        key="", parallelism=9, completions=18, clusters=THREE, preferences=with_star(max_replicas=2)
    )
    assert pods_and_work(division) == {"A": (2, 2), "B": (2, 2), "C": (2, 2)}
    assert (division.unplaced_parallelism, division.unplaced_completions) == (3, 12)
    assert division.reason == (
        "3 of 9 parallelism and 12 of 18 completions not placed: maxReplicas 2 reached (A, B, C)"
    )


def test_every_reason_is_named() -> None:
    preferences = Preferences(
        clusters={
            THREE[0]: ClusterPreferences(weight=1, max_replicas=1),
            THREE[1]: ClusterPreferences(min_replicas=1),
            ClusterName("D"): ClusterPreferences(weight=5),
            ClusterName("E"): ClusterPreferences(weight=5),
        }
    )
    clusters = [*THREE, ClusterName("D")]
    division = divide(
        key="",
        parallelism=9,
        completions=None,
        clusters=clusters,
        preferences=preferences,
        capacity={ClusterName("D"): 4},
    )
    assert division.unplaced_parallelism == 3
    for reason in (
        "maxReplicas 1 reached (A)",
        "weight 0 gives nothing above minReplicas (B)",
        "not named in the preferences (C)",
        "capacity 4 reached (D)",
    ):
        assert reason in division.reason


def test_a_reason_lists_a_few_clusters() -> None:
    clusters = [ClusterName(f"worker-{number:02}") for number in range(50)]
    division = divide(
        key="", parallelism=99, completions=None, clusters=clusters, preferences=with_star(max_replicas=1)
    )
    assert division.reason.endswith("(worker-00, worker-01, worker-02, worker-03, worker-04 and 45 more)")


def test_a_cluster_that_takes_nothing_leaves_its_parallelism_to_the_rest() -> None:
    preferences = Preferences(
        clusters={
            THREE[0]: ClusterPreferences(weight=1),
            EVERY_OTHER_CLUSTER: ClusterPreferences(max_replicas=0, weight=1),
        }
    )
    division = divide(key="", parallelism=9, completions=18, clusters=THREE, preferences=preferences)
    assert pods_and_work(division) == {"A": (9, 18)}


def test_minima_above_the_size() -> None:
    division = divide(
        key="", parallelism=2, completions=3, clusters=THREE, preferences=with_star(min_replicas=20)
    )
    assert list(division.parts.values()) == [Part(2, 3)]


def test_what_exists_stays() -> None:
    division = divide(
        key="default/job",
        parallelism=4,
        completions=10,
        clusters=K8S,
        existing_parallelism={K8S[0]: 3},
        existing_completions={K8S[0]: 8},
    )
    assert pods_and_work(division) == {"k8s-1": (3, 8), "k8s-2": (1, 2)}


def test_indexes_in_order_of_the_clusters_names() -> None:
    clusters = [ClusterName(name) for name in ("worker-2", "worker-1", "worker-10")]
    division = divide(key="default/job", parallelism=3, completions=10, indexed=True, clusters=clusters)
    intervals = [part.interval for part in division.parts.values() if part.interval]
    assert list(division.parts) == ["worker-1", "worker-10", "worker-2"]
    assert intervals[0][0] == 0
    assert intervals[-1][1] == 9
    assert all(left[1] + 1 == right[0] for left, right in pairwise(intervals))


NAMES = [ClusterName(name) for name in ("A", "B", "C", "D", "E")]
CLUSTERS = st.lists(st.sampled_from(NAMES), unique=True)
OWN = st.builds(
    lambda weight, least, most: ClusterPreferences(weight=weight, min_replicas=least, max_replicas=most),
    st.integers(0, 3),
    st.integers(0, 5),
    st.none() | st.integers(0, 20),
)
PREFERENCES = st.builds(
    lambda clusters, rebalance: Preferences(clusters=clusters, rebalance=rebalance),
    st.dictionaries(st.sampled_from([*NAMES, EVERY_OTHER_CLUSTER]), OWN),
    st.booleans(),
)


@given(st.integers(0, 40), st.none() | st.integers(0, 40), st.booleans(), CLUSTERS, PREFERENCES)
def test_nothing_is_lost_and_nothing_waits_where_it_cannot_run(
    parallelism: int,
    completions: int | None,
    indexed: bool,
    clusters: list[ClusterName],
    preferences: Preferences,
) -> None:
    division = divide(
        key="default/job",
        parallelism=parallelism,
        completions=completions,
        indexed=indexed,
        clusters=clusters,
        preferences=preferences,
    )
    parts = division.parts
    assert list(parts) == sorted(parts)
    assert set(parts) <= set(clusters)
    assert division.unplaced_parallelism >= 0
    assert division.unplaced_completions >= 0
    assert bool(division.reason) == bool(division.unplaced_parallelism or division.unplaced_completions)
    if completions != 0:
        placed = sum(part.parallelism for part in parts.values())
        assert placed + division.unplaced_parallelism == parallelism
    if completions is None:
        assert all(part.completions is None and part.parallelism > 0 for part in parts.values())
    else:
        work = [part.completions or 0 for part in parts.values()]
        assert sum(work) + division.unplaced_completions == completions
        assert all(amount > 0 for amount in work)
        assert all(part.parallelism > 0 or parallelism == 0 for part in parts.values())
    if indexed and completions is not None:
        assert [part.interval for part in parts.values()] == [
            (sum(work[:place]), sum(work[: place + 1]) - 1) for place in range(len(work))
        ]
    else:
        assert all(part.interval is None for part in parts.values())


@given(st.integers(0, 40), st.integers(0, 40), CLUSTERS.filter(bool))
def test_an_even_spread_places_everything(
    parallelism: int, completions: int, clusters: list[ClusterName]
) -> None:
    division = divide(key="a/b", parallelism=parallelism, completions=completions, clusters=clusters)
    assert division.unplaced_completions == division.unplaced_parallelism == 0


def test_a_remainder_with_gaps_needs_several_pieces() -> None:
    indexes = IndexSet.parse("3-5,9,12-20")
    assert divide_indexes(indexes, {THREE[1]: 8, THREE[0]: 5}) == [
        ("A", (3, 5)),
        ("A", (9, 9)),
        ("A", (12, 12)),
        ("B", (13, 20)),
    ]


def test_gaps_of_finished_indexes_do_not_cut() -> None:
    indexes = IndexSet.parse("3-5,9,12-20")
    assert divide_indexes(indexes, {THREE[0]: 5, THREE[1]: 8}, done=IndexSet.parse("0-2,6-8,21,22")) == [
        ("A", (3, 9)),
        ("A", (12, 12)),
        ("B", (13, 20)),
    ]


INDEXES = st.frozensets(st.integers(0, 40))


@given(INDEXES, INDEXES, st.dictionaries(st.sampled_from(NAMES), st.integers(0, 15)))
def test_pieces_hold_every_index_once(
    outstanding: frozenset[int], finished: frozenset[int], sizes: Mapping[ClusterName, int]
) -> None:
    indexes, done = IndexSet.of(outstanding), IndexSet.of(finished - outstanding)
    for bridges in (EMPTY, done):
        pieces = divide_indexes(indexes, dict(sizes), done=bridges)
        union = EMPTY
        given_: Counter[ClusterName] = Counter()
        for cluster, interval in pieces:
            piece = IndexSet.interval(*interval)
            assert (piece & union).is_empty
            assert (piece - indexes - bridges).is_empty
            assert interval[0] in indexes
            assert interval[1] in indexes
            union = union | piece
            given_[cluster] += len(piece & indexes)
        assert union & indexes == indexes.lowest(sum(sizes.values()))
        if sum(sizes.values()) <= len(indexes):
            assert given_ == {cluster: size for cluster, size in sizes.items() if size}


def live(*shares: tuple[int, int | None], clusters: list[ClusterName] = THREE) -> list[LiveShare]:
    return [
        LiveShare(number, clusters[number % len(clusters)], parallelism, remaining)
        for number, (parallelism, remaining) in enumerate(shares)
    ]


@pytest.mark.parametrize(
    ("total", "shares", "expected"),
    [
        # Nothing to change.
        (9, [(3, 6), (3, 6), (3, 6)], [3, 3, 3]),
        (9, [(1, 6), (7, 6), (1, 6)], [1, 7, 1]),
        # The last share finished: its parallelism moves on.
        (9, [(3, 6), (6, 9), (3, 0)], [3, 6]),
        (9, [(3, 6), (3, 6), (3, 0)], [4, 5]),
        # It goes where it is of use.
        (9, [(3, 1), (3, 9), (3, 0)], [3, 6]),
        # More than anybody can use is still handed out: live shares add up.
        (9, [(3, 1), (3, 2), (3, 0)], [4, 5]),
        # The Job's parallelism grew, then shrank.
        (18, [(3, 60), (3, 60), (3, 60)], [6, 6, 6]),
        (10, [(3, 60), (3, 60), (3, 60)], [3, 4, 3]),
        (3, [(3, 60), (3, 60), (3, 60)], [1, 1, 1]),
        (8, [(3, 60), (3, 60), (3, 60)], [2, 3, 3]),
        (2, [(1, 60), (1, 60), (1, 60)], [0, 1, 1]),
        (0, [(3, 60), (3, 60), (3, 60)], [0, 0, 0]),
        # A share without any gets one as soon as there is one for each.
        (3, [(3, 60), (0, 60), (0, 60)], [1, 1, 1]),
        (2, [(2, 60), (0, 60), (0, 60)], [2, 0, 0]),
        (9, [(0, 60), (0, 60), (0, 60)], [3, 3, 3]),
        # A work queue uses whatever it gets.
        (9, [(3, None), (3, None), (3, 0)], [4, 5]),
        # Two shares of one cluster have one cluster's part together.
        (8, [(0, 60), (0, 60), (0, 60), (0, 60)], [1, 3, 3, 1]),
        (9, [], []),
        (9, [(9, 0)], []),
    ],
)
def test_spread(total: int, shares: list[tuple[int, int | None]], expected: list[int]) -> None:
    spread = spread_parallelism(total, live(*shares), key="")
    assert list(spread.values()) == expected


def test_spread_keeps_to_the_maxima() -> None:
    shares = live((2, 50), (2, 50), (5, 0))
    assert spread_parallelism(9, shares, key="", preferences=with_star(max_replicas=3)) == {0: 3, 1: 3}


def test_spread_leaves_a_share_alone_that_a_changed_policy_would_not_have_made() -> None:
    preferences = Preferences(clusters={THREE[0]: ClusterPreferences(weight=1)})
    assert spread_parallelism(9, live((3, 50), (6, 50)), key="", preferences=preferences) == {0: 3, 1: 6}


SHARES = st.lists(
    st.builds(
        lambda cluster, parallelism, remaining: (cluster, parallelism, remaining),
        st.sampled_from(NAMES),
        st.integers(0, 12),
        st.none() | st.integers(0, 30),
    ),
    max_size=8,
).map(lambda drawn: [LiveShare(number, *share) for number, share in enumerate(drawn)])


@given(st.integers(0, 60), SHARES, st.sampled_from([EVEN, with_star(weight=7), with_star(min_replicas=2)]))
def test_spread_adds_up(total: int, shares: list[LiveShare], preferences: Preferences) -> None:
    working = {share.id: share.parallelism for share in shares if share.remaining != 0}
    spread = spread_parallelism(total, shares, key="default/job", preferences=preferences)
    assert set(spread) == set(working)
    if working:
        assert sum(spread.values()) == total
    assert all(amount >= 0 for amount in spread.values())
    if total >= len(working):
        assert all(amount >= 1 for amount in spread.values())
    had = sum(working.values())
    if total >= had and (0 not in working.values() or total < len(working)):
        assert all(spread[id_] >= working[id_] for id_ in working)
    if total <= had and (0 not in working.values() or total < len(working)):
        assert all(spread[id_] <= working[id_] for id_ in working)
    again = [LiveShare(share.id, share.cluster, spread.get(share.id, 0), share.remaining) for share in shares]
    assert spread_parallelism(total, again, key="default/job", preferences=preferences) == spread


@given(st.integers(0, 60), SHARES, PREFERENCES)
def test_spread_never_gives_more_than_there_is_nor_stops_a_share(
    total: int, shares: list[LiveShare], preferences: Preferences
) -> None:
    spread = spread_parallelism(total, shares, key="default/job", preferences=preferences)
    assert sum(spread.values()) <= total
    assert all(amount >= min(1, total // len(spread)) for amount in spread.values())
