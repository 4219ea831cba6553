"""By how many shards Jobs are divided: one number for all replicas at a time, kept on shard 0's Lease."""

import logging

from dispatcher.operator import lease_times
from dispatcher.operator.lease_book import LeaseBook, Records
from dispatcher.operator.lease_times import LeaseTimes

logger = logging.getLogger(__name__)

NOT_LOOKED = "the Leases have not been read yet"


class ShardAgreement:
    """Whether this replica's number is the one that counts.

    A replica that starts puts its own there. Those with another number see it at their next look, hand all they hold
    over and stand by. Nothing is acted on while somebody holds a Lease under another number.
    """

    def __init__(self, book: LeaseBook, times: LeaseTimes) -> None:
        self._book = book
        self._times = times
        self._put_ours = False
        self._deserted_since: float | None = None
        self.standing_by = NOT_LOOKED
        """Why this replica takes no Lease; empty when it may."""

    def made_first(self) -> None:
        """This replica has made shard 0's Lease, with its own number."""
        self._put_ours = True

    async def settle(self, records: Records, *, holding: bool) -> bool:
        """Whether Leases may be taken and kept. May change the number. ``holding``: this replica has some."""
        first = records.get(0)
        if first is None:
            self._stand_by("")
            return True
        if first.agreed_shards == self._book.shards:
            self._put_ours = True
            foreign = self._is_divided_otherwise(records)
            self._stand_by("the Leases of another number of --shards are still held" if foreign else "")
            return not foreign
        if not self._put_ours or self._is_deserted(records, holding=holding):
            self._put_ours = (await self._book.recount(first)).ok
            return False
        self._stand_by(f"another replica was started with --shards {first.agreed_shards}")
        return False

    def stands(self, records: Records) -> bool:
        """Whether our number is agreed on, and nobody holds a Lease under another one."""
        first = records.get(0)
        agreed = first is None or first.agreed_shards == self._book.shards
        return agreed and not self._is_divided_otherwise(records)

    def _is_divided_otherwise(self, records: Records) -> bool:
        return any(
            self._book.is_live(shard, record) and record.shards != self._book.shards
            for shard, record in records.items()
        )

    def _is_deserted(self, records: Records, *, holding: bool) -> bool:
        """Whether nobody has held any Lease for so long that those who agreed on that number must be gone."""
        now = lease_times.uptime()
        if holding or any(self._book.is_live(shard, record) for shard, record in records.items()):
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = now
        return self._deserted_since is not None and now - self._deserted_since >= self._times.duration

    def _stand_by(self, why: str) -> None:
        if why not in ("", self.standing_by):
            logger.warning("takes no Lease", extra={"reason": why})
        self.standing_by = why
