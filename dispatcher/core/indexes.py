"""Sets of completion indexes, in the form in which a Job's status writes them."""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Final, Self

Interval = tuple[int, int]
"""First and last index, both inclusive, ``0 <= first <= last``."""

_INTERVAL: Final = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")


@dataclass(frozen=True, slots=True)
class IndexSet:
    """An immutable set of non-negative integers.

    A Job may have 100,000 indexes, most of them in few runs; every operation takes time in proportion to the
    number of intervals, not of indexes. The constructor trusts its argument; anything not yet in the normal
    form goes through :meth:`from_intervals`.
    """

    intervals: tuple[Interval, ...] = ()
    """Ascending, disjoint and never adjacent: two equal sets have equal intervals."""

    @classmethod
    def interval(cls, first: int, last: int) -> Self:
        """All of ``first`` … ``last``; the empty set when ``last < first`` (completions 0: ``0, -1``)."""
        return cls.from_intervals(((first, last),))

    @classmethod
    def from_intervals(cls, intervals: Iterable[Interval]) -> Self:
        """The union of intervals in any order; those that end before they begin are empty.

        Raises:
            ValueError: an index is negative.
        """
        given = sorted(interval for interval in intervals if interval[0] <= interval[1])
        if given and given[0][0] < 0:
            raise ValueError(f"index {given[0][0]} is negative")
        return cls(_joined(given))

    @classmethod
    def of(cls, indexes: Iterable[int]) -> Self:
        """The set of single indexes."""
        return cls.from_intervals((index, index) for index in indexes)

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """Read ``status.completedIndexes`` or ``status.failedIndexes``, for example ``"1,3-5,7"``.

        Raises:
            ValueError: text that the API server refuses in these fields: anything but ``a`` and ``a-b`` with
                ``a < b``, separated by commas, strictly increasing. ``None`` and ``""`` are the empty set.
        """
        if not text:
            return cls()
        intervals: list[Interval] = []
        previous = -1
        for item in text.split(","):
            match = _INTERVAL.fullmatch(item)
            if match is None:
                raise ValueError(f"malformed indexes: {item[:40]!r} is neither an index nor a range a-b")
            first = int(match[1])
            last = first if match[2] is None else int(match[2])
            if first <= previous or (match[2] is not None and last <= first):
                raise ValueError(f"malformed indexes: {item[:40]!r} is not in increasing order")
            intervals.append((first, last))
            previous = last
        return cls(_joined(intervals))

    def format(self) -> str:
        """The text that the Job controller writes: a run of two as ``2,3``, a longer one as ``2-4``."""
        return ",".join(
            str(first) if first == last else f"{first}{',' if last == first + 1 else '-'}{last}"
            for first, last in self.intervals
        )

    @property
    def is_empty(self) -> bool:
        return not self.intervals

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self.intervals)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        after = bisect_right(self.intervals, index, key=itemgetter(0))
        return after > 0 and index <= self.intervals[after - 1][1]

    def indexes(self) -> Iterator[int]:
        """Every single index, ascending."""
        for first, last in self.intervals:
            yield from range(first, last + 1)

    def __or__(self, other: "IndexSet") -> "IndexSet":
        if not other.intervals:
            return self
        if not self.intervals:
            return other
        # Two ascending runs: sorting merges them in linear time.
        return IndexSet(_joined(sorted(self.intervals + other.intervals)))

    def __and__(self, other: "IndexSet") -> "IndexSet":
        mine, theirs = self.intervals, other.intervals
        common: list[Interval] = []
        at = their_at = 0
        while at < len(mine) and their_at < len(theirs):
            first = max(mine[at][0], theirs[their_at][0])
            last = min(mine[at][1], theirs[their_at][1])
            if first <= last:
                common.append((first, last))
            if mine[at][1] < theirs[their_at][1]:
                at += 1
            else:
                their_at += 1
        return IndexSet(tuple(common))

    def __sub__(self, other: "IndexSet") -> "IndexSet":
        theirs = other.intervals
        rest: list[Interval] = []
        their_at = 0
        for first, last in self.intervals:
            while their_at < len(theirs) and theirs[their_at][1] < first:
                their_at += 1
            at = their_at
            while at < len(theirs) and theirs[at][0] <= last:
                if first < theirs[at][0]:
                    rest.append((first, theirs[at][0] - 1))
                first = theirs[at][1] + 1
                at += 1
            # The last one looked at may reach into the next interval.
            their_at = max(their_at, at - 1)
            if first <= last:
                rest.append((first, last))
        return IndexSet(tuple(rest))

    def lowest(self, count: int) -> "IndexSet":
        """The ``count`` smallest indexes, or all when there are fewer."""
        kept: list[Interval] = []
        for first, last in self.intervals:
            if count <= 0:
                break
            last = min(last, first + count - 1)
            kept.append((first, last))
            count -= last - first + 1
        return IndexSet(tuple(kept))

    def highest(self, count: int) -> "IndexSet":
        """The ``count`` largest indexes, or all when there are fewer."""
        kept: list[Interval] = []
        for first, last in reversed(self.intervals):
            if count <= 0:
                break
            first = max(first, last - count + 1)
            kept.append((first, last))
            count -= last - first + 1
        return IndexSet(tuple(reversed(kept)))


def _joined(ascending: Iterable[Interval]) -> tuple[Interval, ...]:
    """Join intervals, sorted by their first index, that overlap or touch."""
    joined: list[Interval] = []
    for first, last in ascending:
        if joined and first <= joined[-1][1] + 1:
            if last > joined[-1][1]:
                joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)


EMPTY: Final = IndexSet()
