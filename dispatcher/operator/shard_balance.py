"""How many shards which replica holds, and who gives one up: equally many each, give or take one."""

from collections import Counter
from collections.abc import Collection

from dispatcher.operator.lease_book import LeaseBook, Records


def holdings(book: LeaseBook, records: Records) -> Counter[str]:
    """How many shards each replica holds, by its identity."""
    return Counter(
        record.holder
        for shard, record in records.items()
        if shard < book.shards and book.is_live(shard, record)
    )


def is_asked_for(shard: int, book: LeaseBook, records: Records, *, held: int) -> bool:
    """Whether a replica that holds two fewer than our ``held`` asks for this shard of ours."""
    by = records[shard].wanted_by
    return by not in ("", book.identity) and held - holdings(book, records)[by] >= 2


def to_ask_for(book: LeaseBook, records: Records, held: Collection[int]) -> int | None:
    """A shard of the replica that holds most, if it holds two more than the ``held`` ones of ours; else None."""
    counts = holdings(book, records)
    most = max(((count, holder) for holder, count in counts.items() if holder != book.identity), default=None)
    if most is None or most[0] - len(held) < 2:
        return None
    theirs = {s: r for s, r in records.items() if r.holder == most[1] and s < book.shards}
    if any(record.wanted_by == book.identity for record in theirs.values()):
        return None
    # The highest first, so that shard 0, with which the single tasks run, moves last.
    return max((s for s, r in theirs.items() if not r.wanted_by), default=None)
