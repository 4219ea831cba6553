"""What the API server has of one dispatcher's Leases, since when it is unchanged, and the requests that change it."""

import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.operator import lease_record, lease_times
from dispatcher.operator.lease_record import LeaseRecord, read_lease
from dispatcher.operator.lease_times import LeaseTimes

logger = logging.getLogger(__name__)

Records = dict[int, LeaseRecord]
"""The Leases that are there, by shard."""


class LeaseBook:
    """The Leases of one dispatcher, as one replica (``identity``) reads and writes them."""

    def __init__(
        self,
        api: ApiServer,
        *,
        namespace: str,
        origin: str,
        identity: str,
        times: LeaseTimes,
        shards: int,
        now: Callable[[], datetime],
    ) -> None:
        self._api = api
        self._namespace = namespace
        self._origin = origin
        self.identity = identity
        self._times = times
        self.shards = shards
        self._now = now
        self._seen: dict[int, tuple[str, float]] = {}
        self._trouble = ""

    async def look(self) -> Records | None:
        """All Leases as they are now; None if there is no answer."""
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
        records = {shard: record for shard, record in found.items() if record is not None}
        now = lease_times.uptime()
        for shard, record in records.items():
            if self._seen.get(shard, ("", 0.0))[0] != record.version:
                self._seen[shard] = (record.version, now)
        return records

    def unchanged_for(self, shard: int) -> float:
        """Seconds since this replica saw the Lease change."""
        return lease_times.uptime() - self._seen[shard][1]

    def is_live(self, shard: int, record: LeaseRecord) -> bool:
        """Whether somebody holds the Lease and may still be there."""
        return bool(record.holder) and self.unchanged_for(shard) < record.duration

    async def create(self, shard: int) -> Reply:
        """POST the Lease of a shard that nobody has held so far, held by this replica."""
        body = lease_record.new_lease(
            namespace=self._namespace,
            origin=self._origin,
            shard=shard,
            shards=self.shards,
            holder=self.identity,
            duration=self._duration,
            now=self._now(),
        )
        path = resource_path(lease_record.API_VERSION, "leases", namespace=self._namespace)
        reply = await self._api.request("POST", path, body=body, timeout=self._times.renew_deadline)
        if reply.outcome is not Outcome.ALREADY_EXISTS:
            self._told(reply, "the Lease cannot be created")
        return reply

    async def acquire(self, shard: int, record: LeaseRecord) -> Reply:
        """Take the Lease."""
        changed = lease_record.acquired(
            record, holder=self.identity, duration=self._duration, shards=self.shards, now=self._now()
        )
        return await self._put(shard, changed)

    async def renew(self, shard: int, record: LeaseRecord) -> Reply:
        """Write another renewTime."""
        return await self._put(shard, lease_record.renewed(record, duration=self._duration, now=self._now()))

    async def give_back(self, shard: int, record: LeaseRecord) -> Reply:
        """Leave it without a holder."""
        return await self._put(shard, lease_record.released(record, now=self._now()))

    async def ask_for(self, shard: int, record: LeaseRecord) -> Reply:
        """Ask its holder for it."""
        return await self._put(shard, lease_record.wanted(record, self.identity))

    async def recount(self, first: LeaseRecord) -> Reply:
        """Put this replica's number of shards on shard 0's Lease, for all replicas."""
        return await self._put(0, lease_record.recounted(first, self.shards))

    @property
    def _duration(self) -> int:
        return math.ceil(self._times.duration)

    async def _put(self, shard: int, body: dict[str, Any]) -> Reply:
        path = resource_path(
            lease_record.API_VERSION,
            "leases",
            namespace=self._namespace,
            name=lease_record.lease_name(self._origin, shard),
        )
        reply = await self._api.request("PUT", path, body=body, timeout=self._times.renew_deadline)
        if reply.ok and reply.body is not None:
            self._seen[shard] = (read_lease(reply.body).version, lease_times.uptime())
        elif reply.outcome is not Outcome.CONFLICT:
            self._told(reply, "a Lease cannot be written")
        return reply

    def _told(self, reply: Reply, what: str) -> bool:
        trouble = "" if reply.ok else f"{what}: {reply}"
        if trouble and not self._trouble:
            logger.warning("trouble with the Leases", extra={"trouble": what, "answer": str(reply)})
        self._trouble = trouble
        return reply.ok
