"""Who may act on which Jobs: one Lease per shard, one shard without ``--shards``.

Safe against clock differences: a replica counts a Lease as expired when *it* has seen no change of it for the
Lease's duration, by its own clock, and every change is a PUT with the resourceVersion that was read. The holder
stops by itself, ``duration - renew_deadline`` seconds before anybody else may begin: :meth:`Leases.owns` is asked
before each write, and says no from ``renew_deadline`` after the last renewal that succeeded was *sent*.
"""

import asyncio
import functools
import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from dispatcher import metrics
from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.fencing import permitted
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.manifest import bucket
from dispatcher.operator import lease_record
from dispatcher.operator.lease_record import LeaseRecord, read_lease

logger = logging.getLogger(__name__)

NOT_LOOKED = "the Leases have not been read yet"
FIRST_GO = 3
"""Retry periods that a shard which was handed over is left to the replica that wanted it."""


def uptime() -> float:
    """Seconds on a clock that nobody sets and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """In seconds. Raises ValueError for times that cannot work together."""

    duration: float = 10.0
    """A Lease that was not renewed for so long may be taken."""
    renew_deadline: float = 7.0
    """A holder whose last renewal is so long ago writes nothing more."""
    retry_period: float = 1.0
    """Between two looks."""

    def __post_init__(self) -> None:
        if not self.retry_period > 0:
            raise ValueError("--leader-elect-retry-period must be more than 0")
        if not self.renew_deadline > self.retry_period:
            raise ValueError("--leader-elect-renew-deadline must be more than --leader-elect-retry-period")
        if not self.duration > self.renew_deadline:
            raise ValueError("--leader-elect-lease-duration must be more than --leader-elect-renew-deadline")
        if self.duration < 1:
            raise ValueError("--leader-elect-lease-duration must be at least 1")


@dataclass(slots=True)
class _Held:
    """A Lease that is ours. ``open``: the caches were brought up to date, and it is not being handed over."""

    deadline: float
    open: bool = False
    leaving: bool = False
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
        api: ApiServer,
        *,
        namespace: str,
        origin: str,
        identity: str,
        times: LeaseTimes,
        prepare: Callable[[int], Awaitable[None]],
        drained: Callable[[int], Awaitable[None]],
        woken: Callable[[int], None],
        now: Callable[[], datetime],
        shards: int = 1,
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._origin = origin
        self.identity = identity
        self._times = times
        self._prepare = prepare
        self._drained = drained
        self._woken = woken
        self._now = now
        self.shards = shards
        self._held: dict[int, _Held] = {}
        self._seen: dict[int, tuple[str, float]] = {}
        self._runs_out: dict[int, float] = {}
        self._stopping = False
        self._started = False
        self._deserted_since: float | None = None
        self._trouble = ""
        self.standing_by = NOT_LOOKED
        """Why this replica takes no Lease; empty when it may."""
        self.primary = asyncio.Event()
        """Set while shard 0 is ours: what there is only one of runs with it."""
        self._not_primary = asyncio.Event()
        for shard in range(shards):
            metrics.LEADER.labels(str(shard)).set_function(functools.partial(self._gauge, shard))

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
        return held is not None and held.open and uptime() < held.deadline

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
            records = await self._look()
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
        records = await self._look()
        if records is None or self._stopping:
            return False
        self._observe(records)
        agreed = await self._agree(records)
        for shard in list(self._held):
            if not agreed:
                self._leave(shard)
        wanted = range(self.shards) if agreed else list(self._held)
        soon = await asyncio.gather(*(self._tend(shard, records.get(shard), records) for shard in wanted))
        if agreed and not self._stopping:
            await self._ask_for_more(records)
        return any(soon)

    def _leave(self, shard: int) -> None:
        """Begin to hand a shard over."""
        held = self._held[shard]
        if not held.leaving:
            held.leaving, held.open = True, False
            if held.task is not None:
                held.task.cancel()
            held.task = asyncio.create_task(self._hand_over(shard))

    async def _look(self) -> dict[int, LeaseRecord] | None:
        """All Leases of this dispatcher as they are now; None if there is no answer."""
        path = resource_path(lease_record.API_VERSION, "leases", namespace=self._namespace)
        timeout = max(1.0, self._times.renew_deadline / 3)
        reply = await self._api.request(
            "GET", path, params={"labelSelector": f"{names.ORIGIN_LABEL}={self._origin}"}, timeout=timeout
        )
        if not self._told(reply, "Leases cannot be listed") or reply.body is None:
            return None
        by_name = {item["metadata"]["name"]: read_lease(item) for item in reply.body.get("items", ())}
        shards = max([self.shards, *(record.shards for record in by_name.values())])
        found = {shard: by_name.get(lease_record.lease_name(self._origin, shard)) for shard in range(shards)}
        return {shard: record for shard, record in found.items() if record is not None}

    def _told(self, reply: Reply, what: str) -> bool:
        trouble = "" if reply.ok else f"{what}: {reply}"
        if trouble and not self._trouble:
            logger.warning("trouble with the Leases", extra={"trouble": what, "answer": str(reply)})
        self._trouble = trouble
        return reply.ok

    def _observe(self, records: dict[int, LeaseRecord]) -> None:
        now = uptime()
        for shard, record in records.items():
            if self._seen.get(shard, ("", 0.0))[0] != record.version:
                self._seen[shard] = (record.version, now)

        self._runs_out = {
            shard: record.duration - self._unchanged_for(shard)
            for shard, record in records.items()
            if shard not in self._held and self._is_live(shard, record)
        }

    def _unchanged_for(self, shard: int) -> float:
        return uptime() - self._seen[shard][1]

    def _is_live(self, shard: int, record: LeaseRecord) -> bool:
        return bool(record.holder) and self._unchanged_for(shard) < record.duration

    async def _agree(self, records: dict[int, LeaseRecord]) -> bool:
        """Jobs are divided by one number of shards at a time: the one agreed on shard 0's Lease.

        A replica that starts puts its own there. Those with another number see it at their next look, hand all
        they hold over and stand by. Nothing is acted on while somebody holds a Lease under another number.
        """
        first = records.get(0)
        if first is None:
            self._stand_by("")
            return True
        if first.agreed_shards == self.shards:
            self._started = True
            foreign = self._is_divided_otherwise(records)
            self._stand_by("the Leases of another number of --shards are still held" if foreign else "")
            return not foreign
        if not self._started or self._is_deserted(records):
            self._started = (await self._put(0, lease_record.recounted(first, self.shards))).ok
            return False
        self._stand_by(f"another replica was started with --shards {first.agreed_shards}")
        return False

    def _is_divided_otherwise(self, records: dict[int, LeaseRecord]) -> bool:
        return any(
            self._is_live(shard, record) and record.shards != self.shards for shard, record in records.items()
        )

    def _is_deserted(self, records: dict[int, LeaseRecord]) -> bool:
        """Whether nobody has held any Lease for so long that those who agreed on that number must be gone."""
        if self._held or any(self._is_live(shard, record) for shard, record in records.items()):
            self._deserted_since = None
        elif self._deserted_since is None:
            self._deserted_since = uptime()
        return self._deserted_since is not None and uptime() - self._deserted_since >= self._times.duration

    def _stand_by(self, why: str) -> None:
        if why not in ("", self.standing_by):
            logger.warning("takes no Lease", extra={"reason": why})
        self.standing_by = why

    async def _tend(self, shard: int, record: LeaseRecord | None, records: dict[int, LeaseRecord]) -> bool:
        held = self._held.get(shard)
        if held is not None:
            if record is None or record.holder != self.identity:
                self._lose(shard, record)
            if self._should_leave(shard, record, records):
                self._leave(shard)
            return await self._renew(shard, record, held)
        if record is None:
            return await self._create(shard)
        if record.holder and record.holder != self.identity and self._is_live(shard, record):
            return False
        if (
            not record.holder
            and record.wanted_by not in ("", self.identity)
            and self._unchanged_for(shard) < FIRST_GO * self._times.retry_period
        ):
            return False
        return await self._acquire(shard, record)

    async def _create(self, shard: int) -> bool:
        body = lease_record.new_lease(
            namespace=self._namespace,
            origin=self._origin,
            shard=shard,
            shards=self.shards,
            holder=self.identity,
            duration=math.ceil(self._times.duration),
            now=self._now(),
        )
        sent = uptime()
        path = resource_path(lease_record.API_VERSION, "leases", namespace=self._namespace)
        reply = await self._api.request("POST", path, body=body, timeout=self._times.renew_deadline)
        if reply.outcome is Outcome.ALREADY_EXISTS:
            return True
        if self._told(reply, "the Lease cannot be created"):
            self._started = self._started or shard == 0
            self._take(shard, sent)
        return False

    async def _acquire(self, shard: int, record: LeaseRecord) -> bool:
        sent = uptime()
        reply = await self._put(
            shard,
            lease_record.acquired(
                record,
                holder=self.identity,
                duration=math.ceil(self._times.duration),
                shards=self.shards,
                now=self._now(),
            ),
        )
        if reply.ok:
            self._take(shard, sent)
        return False

    async def _renew(self, shard: int, record: LeaseRecord, held: _Held) -> bool:
        sent = uptime()
        reply = await self._put(
            shard, lease_record.renewed(record, duration=math.ceil(self._times.duration), now=self._now())
        )
        if reply.outcome is Outcome.CONFLICT:
            return True  # somebody asks for it, or has it: look again
        if reply.ok and shard in self._held:
            was_late = uptime() >= held.deadline
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
        while not self._may_open(await self._look()):  # noqa: ASYNC110 - the API server tells it
            await asyncio.sleep(self._times.retry_period)
        if self._held.get(shard) is held and not held.leaving and not self._stopping:
            held.open = True
            if shard == 0:
                self._not_primary.clear()
                self.primary.set()
            logger.info("acts on the shard's Jobs", extra={"shard": shard})
            self._woken(shard)

    def _may_open(self, records: dict[int, LeaseRecord] | None) -> bool:
        if records is None:
            return False
        self._observe(records)
        first = records.get(0)
        agreed = first is None or first.agreed_shards == self.shards
        return agreed and not self._is_divided_otherwise(records)

    def _lose(self, shard: int, record: LeaseRecord | None) -> NoReturn:
        self._held.pop(shard).open = False
        metrics.LEASE_TRANSITIONS.labels(str(shard), "lost").inc()
        holder = record.holder if record is not None else ""
        raise LeaseLost(f"the Lease of shard {shard} is held by {holder or 'nobody'} now")

    def _should_leave(self, shard: int, record: LeaseRecord, records: dict[int, LeaseRecord]) -> bool:
        by = record.wanted_by
        if not by or by == self.identity or any(held.leaving for held in self._held.values()):
            return False
        return len(self._held) - self._holdings(records)[by] >= 2

    def _holdings(self, records: dict[int, LeaseRecord]) -> Counter[str]:
        return Counter(
            record.holder
            for shard, record in records.items()
            if shard < self.shards and self._is_live(shard, record)
        )

    async def _hand_over(self, shard: int) -> None:
        """Nothing is sent any more; what is under way ends; then the Lease is given back."""
        if shard == 0:
            self.primary.clear()
            self._not_primary.set()
        await self._drained(shard)
        while shard in self._held and not self._stopping:
            records = await self._look()
            record = records.get(shard) if records is not None else None
            if record is not None and record.holder != self.identity:
                self._held.pop(shard, None)
            elif record is not None and await self._give_back(shard, record):
                return
            await asyncio.sleep(0.1)

    async def _give_back(self, shard: int, record: LeaseRecord) -> bool:
        reply = await self._put(shard, lease_record.released(record, now=self._now()))
        if reply.ok:
            self._held.pop(shard, None)
            metrics.LEASE_TRANSITIONS.labels(str(shard), "released").inc()
            logger.info("gave the Lease back", extra={"shard": shard})
        return reply.ok

    async def _ask_for_more(self, records: dict[int, LeaseRecord]) -> None:
        """Ask the replica that holds most for a shard, if it holds two more than this one."""
        holdings = self._holdings(records)
        mine = len(self._held)
        most = max(
            ((count, holder) for holder, count in holdings.items() if holder != self.identity), default=None
        )
        if most is None or most[0] - mine < 2:
            return
        theirs = {s: r for s, r in records.items() if r.holder == most[1] and s < self.shards}
        if any(record.wanted_by == self.identity for record in theirs.values()):
            return
        # The highest first, so that shard 0, with which the single tasks run, moves last.
        shard = max((s for s, r in theirs.items() if not r.wanted_by), default=None)
        if shard is not None:
            await self._put(shard, lease_record.wanted(records[shard], self.identity))

    async def _put(self, shard: int, body: dict[str, Any]) -> Reply:
        path = resource_path(
            lease_record.API_VERSION,
            "leases",
            namespace=self._namespace,
            name=lease_record.lease_name(self._origin, shard),
        )
        reply = await self._api.request("PUT", path, body=body, timeout=self._times.renew_deadline)
        if reply.ok and reply.body is not None:
            self._seen[shard] = (read_lease(reply.body).version, uptime())
        elif reply.outcome is not Outcome.CONFLICT:
            self._told(reply, "a Lease cannot be written")
        return reply

    def _pause(self) -> float:
        """Until the next look: a retry period, or less if somebody's Lease runs out before."""
        return max(0.02, min([self._times.retry_period, *self._runs_out.values()]))
