"""Replicas and the API server with their Leases, in virtual time; who may write for a Job is watched at every step."""

import asyncio
import contextlib
import copy
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from dispatcher.clusters.reply import Outcome, Reply, unreachable
from dispatcher.operator.lease_book import LeaseBook
from dispatcher.operator.lease_times import LeaseTimes
from dispatcher.operator.leases import LeaseLost, Leases

ORIGIN = "abc"
TIMES = LeaseTimes()
UIDS = tuple(f"job-{number}" for number in range(24))
Manifest = dict[str, Any]


class LeaseServer:
    """The Leases as an API server keeps them: resourceVersions, conflicts."""

    def __init__(self) -> None:
        self.leases: dict[str, Manifest] = {}
        self._versions = itertools.count(1)

    def carry_out(self, method: str, path: str, body: Manifest | None) -> Reply:
        """One request, now."""
        if method == "GET":
            return Reply(Outcome.OK, 200, {"items": copy.deepcopy(list(self.leases.values()))})
        assert body is not None
        name = body["metadata"]["name"]
        stored = self.leases.get(name)
        if method == "POST":
            if stored is not None:
                return Reply(Outcome.ALREADY_EXISTS, 409, reason="AlreadyExists")
        elif stored is None:
            return Reply(Outcome.NOT_FOUND, 404, reason="NotFound")
        elif stored["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            return Reply(Outcome.CONFLICT, 409, reason="Conflict")
        return Reply(Outcome.OK, 200, self.put(body))

    def put(self, manifest: Manifest) -> Manifest:
        """Store it as the newest version."""
        kept = copy.deepcopy(manifest)
        kept["metadata"]["resourceVersion"] = str(next(self._versions))
        self.leases[kept["metadata"]["name"]] = kept
        return copy.deepcopy(kept)

    def edit(self, shard: int = 0, **spec: Any) -> None:
        """What a person does with kubectl edit."""
        lease = self.leases[lease_name(shard)]
        self.put({**lease, "spec": lease["spec"] | spec})

    def holder(self, shard: int = 0) -> str:
        """Of one Lease; empty when nobody has it."""
        lease = self.leases.get(lease_name(shard))
        return str(lease["spec"].get("holderIdentity") or "") if lease else ""


def lease_name(shard: int) -> str:
    return f"job-dispatcher-{ORIGIN}" + (f"-{shard}" if shard else "")


class Connection:
    """One replica's way to the server: slow, cut, or with answers that get lost."""

    def __init__(self, server: LeaseServer) -> None:
        self._server = server
        self.there = 0.005
        """Seconds until a request is carried out."""
        self.back = 0.005
        self.back_of_writes = 0.0
        """How much longer the answers to writes take than those to reads."""
        self.cut = False
        self.answers_lost = False
        self.running = asyncio.Event()
        self.running.set()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Any = None,
        body: Manifest | None = None,
        timeout: float | None = None,
    ) -> Reply:
        await self.running.wait()
        body = copy.deepcopy(body)
        reply = unreachable("Timeout", "no answer in time")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.sleep(self.there)
                if self.cut:
                    await asyncio.sleep(3600)
                found = self._server.carry_out(method, path, body)
                if self.answers_lost and method != "GET":
                    await asyncio.sleep(3600)
                await asyncio.sleep(self.back + (0.0 if method == "GET" else self.back_of_writes))
                reply = found
        await self.running.wait()
        return reply


class Replica:
    """One process' Leases and how it fares."""

    def __init__(
        self, server: LeaseServer, identity: str, *, shards: int = 1, wall_clock_off: timedelta = timedelta()
    ) -> None:
        self.connection = Connection(server)
        self.identity = identity
        self.alive = True
        self.woken: list[int] = []
        self.prepare_seconds = 0.05
        self.drain_seconds = 0.05
        api: Any = self.connection
        book = LeaseBook(
            api,
            namespace="system",
            origin=ORIGIN,
            identity=identity,
            times=TIMES,
            shards=shards,
            now=lambda: datetime(2026, 1, 1, tzinfo=UTC) + wall_clock_off,
        )
        self.leases = Leases(
            book, times=TIMES, prepare=self._prepare, drained=self._drained, woken=self.woken.append
        )
        self.electing = asyncio.create_task(self.leases.run(), name=identity)

    async def _prepare(self, _shard: int) -> None:
        await asyncio.sleep(self.prepare_seconds)
        await self.connection.running.wait()

    async def _drained(self, _shard: int) -> None:
        await asyncio.sleep(self.drain_seconds)
        await self.connection.running.wait()

    @property
    def is_ready(self) -> bool:
        """What its readiness probe says of the Leases."""
        return not self.leases.standing_by

    @property
    def acts(self) -> bool:
        """Whether the process could send anything now."""
        return self.alive and self.connection.running.is_set()

    def owned(self) -> set[str]:
        """UIDs of the Jobs that it may write for now."""
        return {uid for uid in UIDS if self.acts and self.leases.owns(uid)}

    def held(self) -> set[int]:
        """Shards that it may write for now."""
        return {shard for shard in range(self.leases.shards) if self.acts and self.leases.holds(shard)}

    def freeze(self) -> None:
        """SIGSTOP: nothing is sent or read; what was sent is on its way."""
        self.connection.running.clear()

    def thaw(self) -> None:
        """SIGCONT."""
        self.connection.running.set()

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.connection.running.clear()

    async def stop(self) -> None:
        """SIGTERM, with no write under way, which a paused process gets when it goes on."""
        self.thaw()
        self.leases.hold_back()
        self.electing.cancel()
        await asyncio.wait([self.electing])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self.leases.release()
        self.alive = False

    async def lost(self) -> str:
        """What it says when it ends because another one holds what it held."""
        try:
            async with asyncio.timeout(60):
                await self.electing
        except LeaseLost as error:
            self.alive = False
            return str(error)
        raise AssertionError("it goes on")


class Fleet:
    """All replicas of one dispatcher."""

    def __init__(self) -> None:
        self.server = LeaseServer()
        self.replicas: list[Replica] = []
        self.owned_twice: list[str] = []

    def start(self, *, shards: int = 1, wall_clock_off: timedelta = timedelta()) -> Replica:
        """One more."""
        identity = f"replica-{len(self.replicas)}"
        self.replicas.append(Replica(self.server, identity, shards=shards, wall_clock_off=wall_clock_off))
        return self.replicas[-1]

    def observe(self) -> None:
        """Note each Job that two replicas may write for."""
        acting = [replica for replica in self.replicas if replica.acts and replica.leases.holds_any()]
        if len(acting) < 2:
            return
        seen: dict[str, str] = {}
        for replica in acting:
            for uid in replica.owned():
                if uid in seen:
                    self.owned_twice.append(f"{uid} is owned by {seen[uid]} and {replica.identity}")
                seen[uid] = replica.identity

    def all_owned(self) -> bool:
        """Whether each Job has one that may write for it."""
        return set().union(*(replica.owned() for replica in self.replicas)) == set(UIDS)

    async def end(self) -> None:
        """Nothing goes on in the background, and no task's exception is left to the garbage collector."""
        others = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        for task in others:
            task.cancel()
        electing = {replica.electing for replica in self.replicas}
        await asyncio.gather(*others, *electing, return_exceptions=True)


async def until(met: Callable[[], bool], *, seconds: float = 60.0) -> float:
    """The moment at which a condition is met, at most 50 ms late."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not met():
        assert loop.time() < end, "it has not come"
        await asyncio.sleep(0.05)
    return loop.time()
