"""Kubernetes Federation's replica planner: how many of a number of replicas each cluster gets.

"Replicas" are parallelism or completions here; :mod:`dispatcher.core.division` plans both. The results are
those of Federation v1 (``federation/pkg/federation-controller/util/planner``), case for case.
"""

import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from types import MappingProxyType
from typing import Final

from dispatcher.core.names import ClusterName
from dispatcher.core.preferences import Preferences

Counts = Mapping[ClusterName, int]
"""A non-negative number of replicas for each of some clusters."""

NONE: Final[Counts] = MappingProxyType({})

_FNV_OFFSET: Final = 0x811C9DC5
_FNV_PRIME: Final = 0x01000193


@dataclass(frozen=True, slots=True)
class Plan:
    """What each cluster gets."""

    plan: dict[ClusterName, int]
    """Every cluster that was asked about, in that order; 0 where there is no work."""
    overflow: dict[ClusterName, int]
    """What a cluster would have got, had it the capacity; only amounts above 0."""

    @property
    def placed(self) -> int:
        """The sum of the plan; less than the total where maxima, weights or capacity leave no room."""
        return sum(self.plan.values())


@dataclass(slots=True)
class _Candidate:
    """A cluster while replicas are handed out."""

    name: ClusterName
    minimum: int
    maximum: int | None
    weight: int
    capacity: int | None
    limit: int | None
    """The lower of maximum and capacity; ``None`` when there is neither."""
    planned: int = 0
    already_given: int = 0
    """How much of ``planned`` the cluster got for having it already, not yet set off against its due."""


def plan(
    total: int,
    *,
    clusters: Sequence[ClusterName],
    preferences: Preferences,
    key: str,
    existing: Counts = NONE,
    capacity: Counts = NONE,
) -> Plan:
    """Divide ``total`` replicas.

    Args:
        total: replicas to place, those that exist included; at least 0.
        clusters: the clusters that may get work, each once.
        preferences: minima, maxima and weights. A minimum above the total is met as far as it goes.
        key: ``namespace/name`` of the Job; decides which of equal clusters get the odd replicas.
        existing: what each cluster has. It keeps that if the total allows, unless the preferences rebalance.
        capacity: the most that a cluster can take; absent means unknown, therefore unbounded.

    Raises:
        ValueError: the total or a capacity is negative.
    """
    if total < 0 or any(limit < 0 for limit in capacity.values()):
        raise ValueError("replicas and capacities must not be negative")
    candidates = _in_order(clusters, preferences, key, capacity)
    left = _give_minima(total, candidates)
    if existing and not preferences.rebalance:
        left = _keep_existing(left, candidates, existing)
    left, overflow = _give_by_weight(left, candidates)
    if not preferences.rebalance:
        overflow = {name: min(amount, left) for name, amount in overflow.items() if left > 0}
    planned = dict.fromkeys(clusters, 0)
    planned.update((candidate.name, candidate.planned) for candidate in candidates)
    return Plan(planned, overflow)


def order(clusters: Sequence[ClusterName], preferences: Preferences, *, key: str) -> list[ClusterName]:
    """The clusters that have preferences, first those that get odd replicas first."""
    return [candidate.name for candidate in _in_order(clusters, preferences, key, NONE)]


def _in_order(
    clusters: Sequence[ClusterName], preferences: Preferences, key: str, capacity: Counts
) -> list[_Candidate]:
    """The clusters that have preferences, by weight descending, then by hash ascending."""
    hashes = _hashes(clusters, key)
    ranked: list[tuple[int, int, ClusterName, _Candidate]] = []
    for name, hash_ in zip(clusters, hashes, strict=True):
        own = preferences.of(name)
        if own is not None:
            maximum, room = own.max_replicas, capacity.get(name)
            limit = maximum if room is None else room if maximum is None else min(maximum, room)
            candidate = _Candidate(name, own.min_replicas, maximum, own.weight, room, limit)
            ranked.append((-own.weight, hash_, name, candidate))
    # Upstream leaves open what equal hashes do; by name it is the same in every process.
    ranked.sort(key=itemgetter(0, 1, 2))
    return [candidate for *_, candidate in ranked]


def _give_minima(left: int, candidates: list[_Candidate]) -> int:
    for candidate in candidates:
        candidate.planned = min(candidate.minimum, left)
        if candidate.capacity is not None:
            candidate.planned = min(candidate.planned, candidate.capacity)
        left -= candidate.planned
    return left


def _keep_existing(left: int, candidates: list[_Candidate], existing: Counts) -> int:
    for candidate in candidates:
        target = existing.get(candidate.name, 0)
        if candidate.limit is not None:
            target = min(target, candidate.limit)
        kept = max(0, min(target - candidate.planned, left))
        candidate.planned += kept
        candidate.already_given = kept
        left -= kept
    return left


def _give_by_weight(left: int, candidates: list[_Candidate]) -> tuple[int, dict[ClusterName, int]]:
    """Hand out ``left`` in rounds; return what is still left, and the overflow before it is cut."""
    overflow: dict[ClusterName, int] = {}
    changed = True
    slow = True
    while changed and left > 0:
        weights = sum([candidate.weight for candidate in candidates])
        if weights == 0:
            break
        if slow and any(candidate.already_given for candidate in candidates):
            left = _skip_alike_rounds(left, candidates, weights)
        changed = False
        due = left
        open_candidates = []
        for candidate in candidates:
            weight = candidate.weight
            extra = -(-due * weight // weights)
            if extra > left:
                extra = left
            given = candidate.already_given
            if given and extra:
                changed = True
                if extra <= given:
                    candidate.already_given = given - extra
                    extra = 0
                else:
                    candidate.already_given = 0
                    extra -= given
            reached = candidate.planned + extra
            limit = candidate.limit
            if limit is not None and reached > limit:
                if candidate.maximum is not None and reached > candidate.maximum:
                    reached = candidate.maximum
                if candidate.capacity is not None and reached > candidate.capacity:
                    overflow[candidate.name] = reached - candidate.capacity
                    reached = candidate.capacity
                # Negative where a minimum was above the maximum: what is too much goes back to the others.
                extra = reached - candidate.planned
            elif weight:  # without weight it gets nothing in any round to come
                open_candidates.append(candidate)
            if extra:
                left -= extra
                candidate.planned = reached
                changed = changed or extra > 0
        candidates = open_candidates
        slow = left > due - (due >> 3)
    return left, overflow


def _skip_alike_rounds(left: int, candidates: list[_Candidate], weights: int) -> int:
    """Do at once the coming rounds that are all alike, and return what is left after them.

    While clusters set off what they were given already, a round may place one replica or none, and there
    may be millions of such rounds. Rounds are alike as long as each cluster's due stays the same, each
    either sets off or takes all of it, none reaches its limit, and there is enough for everyone.
    """
    rounds = left + max(candidate.already_given for candidate in candidates)
    dues: list[int] = []
    taken = 0
    lowest = 0
    for candidate in candidates:
        due = -(-left * candidate.weight // weights)
        dues.append(due)
        limit = candidate.limit
        if limit is not None and candidate.planned > limit:
            return left
        if due == 0:
            continue
        # The due stays what it is for every amount left that is above (due - 1) · weights / weight.
        above = (due - 1) * weights // candidate.weight + 1
        if above > lowest:
            lowest = above
        if candidate.already_given:
            possible = candidate.already_given // due
        else:
            taken += due
            possible = rounds if limit is None else (limit - candidate.planned) // due
        if possible < rounds:
            rounds = possible
            if rounds <= 0:
                return left
    if taken:
        rounds = min(rounds, (left - max(lowest, taken + max(dues))) // taken + 1)
    if rounds <= 0:
        return left
    for candidate, due in zip(candidates, dues, strict=True):
        if candidate.already_given:
            candidate.already_given -= rounds * due
        else:
            candidate.planned += rounds * due
    return left - rounds * taken


def _hashes(clusters: Sequence[ClusterName], key: str) -> Sequence[int]:
    """32-bit FNV-1 of each cluster's name followed by the key.

    The key is the same for all, so that each of its bytes is worked in once for all of them: a hash has
    64 bits of one large integer, and a product with the 25-bit prime never reaches into the next.
    """
    states = array("Q", map(_hash_of_name, clusters))
    each = int.from_bytes(array("Q", [1]) * len(clusters), sys.byteorder)
    lanes = int.from_bytes(states, sys.byteorder)
    for byte in key.encode():
        lanes = (lanes * _FNV_PRIME & each * 0xFFFFFFFF) ^ each * byte
    return array("Q", lanes.to_bytes(8 * len(clusters), sys.byteorder))


@lru_cache(maxsize=8192)
def _hash_of_name(name: ClusterName) -> int:
    """The part of the hash that is the same for every Job."""
    state = _FNV_OFFSET
    for byte in name.encode():
        state = (state * _FNV_PRIME & 0xFFFFFFFF) ^ byte
    return state
