"""Sets of completion indexes, in the form in which a Job's status writes them."""

import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Final, Self

Interval = tuple[int, int]
"""First and last index, both inclusive, ``0 <= first <= last``."""

_INTERVAL: Final = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")
_LONG_TEXT: Final = 200
"""Characters. Longer texts are remembered with the set that they stand for: reading one costs far more."""
_REMEMBERED: Final = 2_000_000
"""Characters of all texts that are remembered; their sets take about twenty times as much memory."""


@dataclass(frozen=True)
class IndexSet:
    """An immutable set of non-negative integers.

    A Job may have 100,000 indexes, most of them in few runs; every operation takes time in proportion to the
    number of intervals, not of indexes, and only where the two sets overlap. One that changes nothing gives the set
    itself. The constructor trusts its argument; anything not yet in the normal form goes through
    :meth:`from_intervals`.
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
    def parse(cls, text: str | None) -> "IndexSet":
        """Read ``status.completedIndexes`` or ``status.failedIndexes``, for example ``"1,3-5,7"``.

        Raises:
            ValueError: text that the API server refuses in these fields: anything but ``a`` and ``a-b`` with
                ``a < b``, separated by commas, strictly increasing. ``None`` and ``""`` are the empty set.
        """
        if not text:
            return cls()
        known = _texts.find(text)
        if known is not None:
            return known
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
        parsed = cls(_joined(intervals))
        _texts.remember(text, parsed)
        return parsed

    def format(self) -> str:
        """The text that the Job controller writes: a run of two as ``2,3``, a longer one as ``2-4``."""
        return self._text

    @cached_property
    def _text(self) -> str:
        text = ",".join(
            str(first) if first == last else f"{first}{',' if last == first + 1 else '-'}{last}"
            for first, last in self.intervals
        )
        _texts.remember(text, self)  # the API server sends it back
        return text

    @property
    def is_empty(self) -> bool:
        return not self.intervals

    @property
    def last(self) -> int:
        """The largest index, -1 of the empty set."""
        return self.intervals[-1][1] if self.intervals else -1

    def __len__(self) -> int:
        return self._size

    @cached_property
    def _size(self) -> int:
        return sum(last - first + 1 for first, last in self.intervals)

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        after = bisect_right(self.intervals, index, key=itemgetter(0))
        return after > 0 and index <= self.intervals[after - 1][1]

    def includes(self, other: "IndexSet") -> bool:
        """Whether every index of the other set is in this one."""
        for first, last in other.intervals:
            after = bisect_right(self.intervals, first, key=itemgetter(0))
            if after == 0 or self.intervals[after - 1][1] < last:
                return False
        return True

    def indexes(self) -> Iterator[int]:
        """Every single index, ascending."""
        for first, last in self.intervals:
            yield from range(first, last + 1)

    def __or__(self, other: "IndexSet") -> "IndexSet":
        if len(other.intervals) > len(self.intervals):
            return other | self
        if not other.intervals:
            return self
        mine, theirs = self.intervals, other.intervals
        # What touches the other set's span, neighbours included; the rest stays as it is.
        begin, end = _touching(mine, theirs[0][0] - 1, theirs[-1][1] + 1)
        if mine[begin:end] == theirs:
            return self
        # Two ascending runs: sorting merges them in linear time.
        joined = _joined(sorted(mine[begin:end] + theirs))
        return self if joined == mine[begin:end] else IndexSet(mine[:begin] + joined + mine[end:])

    def __and__(self, other: "IndexSet") -> "IndexSet":
        if not self.intervals or not other.intervals:
            return EMPTY
        mine = _within(self.intervals, other.intervals[0][0], other.intervals[-1][1])
        theirs = _within(other.intervals, self.intervals[0][0], self.intervals[-1][1])
        if len(other.intervals) == 1 or mine == theirs:
            return self if len(mine) == len(self.intervals) and mine == self.intervals else IndexSet(mine)
        if len(self.intervals) == 1:
            return IndexSet(theirs)
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
        if not self.intervals or not other.intervals:
            return self
        if self.intervals == other.intervals:
            return EMPTY
        begin, end = _touching(self.intervals, other.intervals[0][0], other.intervals[-1][1])
        mine = self.intervals[begin:end]
        if not mine:
            return self
        theirs = _within(other.intervals, mine[0][0], mine[-1][1])
        if not theirs:
            return self
        rest: list[Interval] = []
        their_at = 0
        for first, last in mine:
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
        return IndexSet(self.intervals[:begin] + tuple(rest) + self.intervals[end:])

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


def _touching(intervals: tuple[Interval, ...], first: int, last: int) -> tuple[int, int]:
    """From which to before which position intervals have an index in ``first`` … ``last``."""
    begin = bisect_left(intervals, first, key=itemgetter(1))
    return begin, bisect_right(intervals, last, lo=begin, key=itemgetter(0))


def _within(intervals: tuple[Interval, ...], first: int, last: int) -> tuple[Interval, ...]:
    """What of the intervals lies in ``first`` … ``last``."""
    begin, end = _touching(intervals, first, last)
    if begin == end:
        return ()
    lowest, highest = intervals[begin], intervals[end - 1]
    if first <= lowest[0] and highest[1] <= last:
        return intervals[begin:end]
    if begin + 1 == end:
        return ((max(first, lowest[0]), min(last, lowest[1])),)
    return (
        (max(first, lowest[0]), lowest[1]),
        *intervals[begin + 1 : end - 1],
        (highest[0], min(last, highest[1])),
    )


class _Texts:
    """Long texts and their sets, those used last: a Job's are looked at again with every change of a mirror."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, IndexSet] = OrderedDict()
        self._characters = 0

    def find(self, text: str) -> IndexSet | None:
        if len(text) < _LONG_TEXT or text not in self._known:
            return None
        self._known.move_to_end(text)
        return self._known[text]

    def remember(self, text: str, indexes: IndexSet) -> None:
        if len(text) < _LONG_TEXT or text in self._known:
            return
        self._known[text] = indexes
        self._characters += len(text)
        while self._characters > _REMEMBERED:
            oldest, _ = self._known.popitem(last=False)
            self._characters -= len(oldest)


_texts: Final = _Texts()


EMPTY: Final = IndexSet()
