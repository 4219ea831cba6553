"""Who may act on which Jobs: one Lease per shard, one shard without ``--shards``.

Safe against clock differences: a replica counts a Lease as expired when *it* has seen no change of it for the
Lease's duration, by its own clock, and every change is a PUT with the resourceVersion that was read. The holder
stops by itself, ``duration - renew_deadline`` seconds before anybody else may begin: :meth:`Leases.owns` is asked
before each write, and says no from ``renew_deadline`` after the last renewal that succeeded was *sent*.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn

from dispatcher import metrics
from dispatcher.clusters.fencing import permitted
from dispatcher.clusters.reply import Outcome
from dispatcher.core.manifest import bucket
from dispatcher.operator import lease_times, shard_balance
from dispatcher.operator.lease_book import LeaseBook, Records
from dispatcher.operator.lease_record import LeaseRecord
from dispatcher.operator.lease_times import LeaseTimes
from dispatcher.operator.shard_agreement import ShardAgreement

logger = logging.getLogger(__name__)

FIRST_GO = 3
"""Retry periods that a shard which was handed over is left to the replica that wanted it."""


@dataclass(slots=True)
class _Held:
    """A Lease that is ours. ``open``: the caches were brought up to date, and it is not being handed over.
    ``returned``: it is being given back, and no write is under way: who has it now is no concern of ours.
    """

    deadline: float
    open: bool = False
    leaving: bool = False
    returned: bool = False
    task: asyncio.Task[None] | None = None


class LeaseLost(Exception):
    """Another replica holds what this one held: it took it while this one was paused or cut off."""


class Leases:
    """Takes, renews and hands over the Leases of one dispatcher.

    ``prepare(shard)`` is awaited once a Lease is ours and before anything is written because of it;
    ``drained(shard)`` before it is given back: no write of the shard's Jobs may be under way after that.
    ``woken(shard)`` is called when the shard's Jobs may be acted on from now on.
    """

    def __init__(
        self,
        book: LeaseBook,
        *,
        times: LeaseTimes,
        prepare: Callable[[int], Awaitable[None]],
        drained: Callable[[int], Awaitable[None]],
        woken: Callable[[int], None],
    ) -> None:
        self._book = book
        self._times = times
        self._prepare = prepare
        self._drained = drained
        self._woken = woken
        self.identity = book.identity
        self.shards = book.shards
        self._agreement = ShardAgreement(book, times)
        self._held: dict[int, _Held] = {}
        self._runs_out: list[float] = []
        self._stopping = False
        self.primary = asyncio.Event()
        """Set while shard 0 is ours: what there is only one of runs with it."""
        self._not_primary = asyncio.Event()
        for shard in range(self.shards):
            metrics.LEADER.labels(str(shard)).set_function(functools.partial(self._gauge, shard))

    @property
    def standing_by(self) -> str:
        """Why this replica takes no Lease; empty when it may."""
        return self._agreement.standing_by

    def shard_of(self, job_uid: str) -> int:
        """The shard that a Job belongs to."""
        return bucket(job_uid) % self.shards

    def _gauge(self, shard: int) -> float:
        return float(self.holds(shard))

    def holds_any(self) -> bool:
        """Whether any shard may be written for at this very moment."""
        return any(self.holds(shard) for shard in self._held)

    def holds(self, shard: int) -> bool:
        """Whether the shard may be written for at this very moment."""
        held = self._held.get(shard)
        return held is not None and held.open and lease_times.uptime() < held.deadline

    def owns(self, job_uid: str) -> bool:
        """Whether this Job may be written for at this very moment."""
        return self.holds(self.shard_of(job_uid))

    async def run(self) -> None:
        """Take and keep Leases for as long as the process runs. Raises :class:`LeaseLost`."""
        while True:
            soon = await self._turn()
            await asyncio.sleep(self._pause() if not soon else 0.05)

    async def while_primary(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run what only one replica may do, whenever shard 0 is ours; its writes are fenced by that Lease."""
        with permitted(lambda: self.holds(0)):
            while True:
                await self.primary.wait()
                task = asyncio.create_task(work())
                ended = asyncio.create_task(self._not_primary.wait())
                try:
                    await asyncio.wait([task, ended], return_when=asyncio.FIRST_COMPLETED)
                    if task.done():
                        task.result()
                        return
                finally:
                    for started in (task, ended):
                        started.cancel()

    def hold_back(self) -> None:
        """Take and renew nothing more; what is held may be written for until it runs out or is released."""
        self._stopping = True

    async def release(self) -> None:
        """Give back everything at a clean end; no write may be under way any more."""
        self._stopping = True
        for held in self._held.values():
            held.open = False
            if held.task is not None:
                held.task.cancel()
        if self._held:
            records = await self._book.look()
            for shard in list(self._held):
                record = records.get(shard) if records is not None else None
                if record is not None and record.holder == self.identity:
                    await self._give_back(shard, record)

    def abandon(self) -> None:
        """Write nothing more, and let the Leases run out: a write under way may still be carried out."""
        self._stopping = True
        for held in self._held.values():
            held.open = False

    async def _turn(self) -> bool:
        """One look at all Leases and what follows. Returns whether to look again at once."""
        records = await self._book.look()
        if records is None or self._stopping:
            return False
        self._runs_out = [
            record.duration - self._book.unchanged_for(shard)
            for shard, record in records.items()
            if shard not in self._held and self._book.is_live(shard, record)
        ]
        agreed = await self._agreement.settle(records, holding=bool(self._held))
        for shard in list(self._held):
            if not agreed:
                self._leave(shard)
        tended = range(self.shards) if agreed else list(self._held)
        soon = await asyncio.gather(*(self._tend(shard, records.get(shard), records) for shard in tended))
        if agreed and not self._stopping:
            wanted = shard_balance.to_ask_for(self._book, records, self._held)
            if wanted is not None:
                await self._book.ask_for(wanted, records[wanted])
        return any(soon)

    def _leave(self, shard: int) -> None:
        """Begin to hand a shard over."""
        held = self._held[shard]
        if not held.leaving:
            held.leaving, held.open = True, False
            if held.task is not None:
                held.task.cancel()
            held.task = asyncio.create_task(self._hand_over(shard))

    async def _tend(self, shard: int, record: LeaseRecord | None, records: Records) -> bool:
        held = self._held.get(shard)
        if held is not None:
            if record is None or record.holder != self.identity:
                if held.returned:
                    return False  # this look was faster than the answer to our own write
                self._lose(shard, record)
            leaving = any(other.leaving for other in self._held.values())
            if not leaving and shard_balance.is_asked_for(shard, self._book, records, held=len(self._held)):
                self._leave(shard)
            return await self._renew(shard, record, held)
        if record is None:
            return await self._create(shard)
        if record.holder and record.holder != self.identity and self._book.is_live(shard, record):
            return False
        if (
            not record.holder
            and record.wanted_by not in ("", self.identity)
            and self._book.unchanged_for(shard) < FIRST_GO * self._times.retry_period
        ):
            return False
        return await self._acquire(shard, record)

    async def _create(self, shard: int) -> bool:
        sent = lease_times.uptime()
        reply = await self._book.create(shard)
        if reply.outcome is Outcome.ALREADY_EXISTS:
            return True
        if reply.ok:
            if shard == 0:
                self._agreement.made_first()
            self._take(shard, sent)
        return False

    async def _acquire(self, shard: int, record: LeaseRecord) -> bool:
        sent = lease_times.uptime()
        if (await self._book.acquire(shard, record)).ok:
            self._take(shard, sent)
        return False

    async def _renew(self, shard: int, record: LeaseRecord, held: _Held) -> bool:
        sent = lease_times.uptime()
        reply = await self._book.renew(shard, record)
        if reply.outcome is Outcome.CONFLICT:
            return True  # somebody asks for it, or has it: look again
        if reply.ok and shard in self._held:
            was_late = lease_times.uptime() >= held.deadline
            held.deadline = sent + self._times.renew_deadline
            if was_late and held.open:
                # Nobody else has held it meanwhile: the record was still ours, at the version that was read.
                logger.info("goes on: the Lease could be renewed again", extra={"shard": shard})
                self._woken(shard)
        return False

    def _take(self, shard: int, sent: float) -> None:
        held = self._held[shard] = _Held(sent + self._times.renew_deadline)
        metrics.LEASE_TRANSITIONS.labels(str(shard), "acquired").inc()
        logger.info("holds the Lease", extra={"shard": shard, "identity": self.identity})
        held.task = asyncio.create_task(self._begin(shard, held))

    async def _begin(self, shard: int, held: _Held) -> None:
        await self._prepare(shard)
        # What others took, or agreed on, before the Lease became ours is seen by this look.
        while (records := await self._book.look()) is None or not self._agreement.stands(records):  # noqa: ASYNC110
            await asyncio.sleep(self._times.retry_period)
        if self._held.get(shard) is held and not held.leaving and not self._stopping:
            held.open = True
            if shard == 0:
                self._not_primary.clear()
                self.primary.set()
            logger.info("acts on the shard's Jobs", extra={"shard": shard})
            self._woken(shard)

    def _lose(self, shard: int, record: LeaseRecord | None) -> NoReturn:
        self._held.pop(shard).open = False
        metrics.LEASE_TRANSITIONS.labels(str(shard), "lost").inc()
        holder = record.holder if record is not None else ""
        raise LeaseLost(f"the Lease of shard {shard} is held by {holder or 'nobody'} now")

    async def _hand_over(self, shard: int) -> None:
        """Nothing is sent any more; what is under way ends; then the Lease is given back."""
        if shard == 0:
            self.primary.clear()
            self._not_primary.set()
        await self._drained(shard)
        while shard in self._held and not self._stopping:
            records = await self._book.look()
            record = records.get(shard) if records is not None else None
            if record is not None and record.holder != self.identity:
                self._held.pop(shard, None)
            elif record is not None and await self._give_back(shard, record):
                return
            await asyncio.sleep(0.1)

    async def _give_back(self, shard: int, record: LeaseRecord) -> bool:
        self._held[shard].returned = True
        reply = await self._book.give_back(shard, record)
        if reply.ok:
            self._held.pop(shard, None)
            metrics.LEASE_TRANSITIONS.labels(str(shard), "released").inc()
            logger.info("gave the Lease back", extra={"shard": shard})
        return reply.ok

    def _pause(self) -> float:
        """Until the next look: a retry period, or less if somebody's Lease runs out before."""
        return max(0.02, min([self._times.retry_period, *self._runs_out]))
