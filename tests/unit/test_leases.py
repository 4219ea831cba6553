"""Who may write, when: renewals that fail, machines that sleep, slow servers, records that others changed.

The loops of :class:`Leases` run as they are, in virtual time. That no Job is owned by two replicas is watched at every
step of every test here.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, TypeAlias

import pytest

from dispatcher.operator import lease_times
from tests.unit import virtual_time
from tests.unit.lease_scene import TIMES, UIDS, Fleet, Replica, lease_name, until

Course: TypeAlias = Callable[[Fleet], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_times, "uptime", lambda: asyncio.get_running_loop().time())


def play(course: Course, *, meddling: bool = False) -> None:
    """Run it, and see that no Job was owned twice (but where somebody else frees a Lease that is held)."""
    fleet = Fleet()

    async def whole() -> None:
        try:
            await course(fleet)
        finally:
            await fleet.end()

    virtual_time.run(whole, fleet.observe)
    assert meddling or not fleet.owned_twice, fleet.owned_twice[:5]


def now() -> float:
    return asyncio.get_running_loop().time()


async def leading(fleet: Fleet) -> tuple[Replica, Replica]:
    """One that holds the only Lease for a while, and one that waits."""
    first = fleet.start()
    await until(lambda: first.held() == {0})
    second = fleet.start()
    await asyncio.sleep(20)
    assert (first.held(), second.held()) == ({0}, set())
    return first, second


def test_a_lease_is_renewed_for_as_long_as_the_process_runs() -> None:
    async def course(fleet: Fleet) -> None:
        only = fleet.start()
        await until(lambda: only.held() == {0})
        for _ in range(600):
            assert only.owned() == set(UIDS)
            await asyncio.sleep(0.5)
        assert fleet.server.leases[lease_name(0)]["spec"]["leaseTransitions"] == 0
        assert only.woken == [0], "its Jobs are looked at once"

    play(course)


def test_nothing_is_written_before_the_caches_are_up_to_date() -> None:
    async def course(fleet: Fleet) -> None:
        only = fleet.start()
        only.prepare_seconds = 40
        await until(lambda: fleet.server.holder() == only.identity)
        await asyncio.sleep(39)
        assert (only.held(), only.woken) == (set(), [])
        assert fleet.server.holder() == only.identity, "renewed meanwhile"
        await until(lambda: only.held() == {0}, seconds=2)

    play(course)


def test_after_a_kill_another_one_acts_when_the_lease_has_run_out() -> None:
    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        first.kill()
        killed = now()
        took = await until(lambda: second.held() == {0}) - killed
        assert TIMES.duration - TIMES.retry_period <= took <= TIMES.duration + 2 * TIMES.retry_period

    play(course)


def test_after_a_clean_end_another_one_acts_at_its_next_look() -> None:
    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        ended = now()
        await first.stop()
        assert await until(lambda: second.held() == {0}) - ended <= TIMES.retry_period + 0.2

    play(course)


@pytest.mark.parametrize("way", ["cut", "answers_lost"])
def test_renewals_that_fail_stop_the_holder_before_another_one_may_begin(way: str) -> None:
    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        setattr(first.connection, way, True)
        since = now()
        stopped = await until(lambda: not first.held())
        assert TIMES.renew_deadline - TIMES.retry_period <= stopped - since <= TIMES.renew_deadline + 0.1
        if way == "cut":
            began = await until(lambda: bool(second.held()))
            assert began - stopped >= TIMES.duration - TIMES.renew_deadline - 0.1
        else:  # what it wrote arrived: the Lease is not free for anybody
            await asyncio.sleep(120)
            assert not second.held()
        setattr(first.connection, way, False)
        if way == "cut":
            assert second.identity in await first.lost()
        else:
            await until(lambda: first.held() == {0})

    play(course)


def test_a_holder_that_could_not_renew_for_a_while_goes_on_and_looks_at_its_jobs_again() -> None:
    async def course(fleet: Fleet) -> None:
        only = fleet.start()
        await until(lambda: only.held() == {0})
        only.connection.cut = True
        await until(lambda: not only.held())
        await asyncio.sleep(300)
        only.connection.cut = False
        await until(lambda: only.held() == {0}, seconds=TIMES.renew_deadline + 2 * TIMES.retry_period)
        assert only.woken == [0, 0]

    play(course)


@pytest.mark.parametrize("seconds", [0.5, 2.0])
def test_a_slow_server_takes_from_the_holders_time_but_not_the_lease(seconds: float) -> None:
    """What counts is when a renewal was sent, not when its answer came."""

    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        for replica in (first, second):
            replica.connection.there = replica.connection.back = seconds / 2
        await asyncio.sleep(10)
        for _ in range(600):
            assert first.held() == {0}
            assert not second.held()
            await asyncio.sleep(0.1)

    play(course)


def test_a_server_that_is_slower_than_the_deadline_leaves_gaps_and_never_two_holders() -> None:
    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        for replica in (first, second):
            replica.connection.back = TIMES.renew_deadline + 1
        await until(lambda: not first.held())
        await asyncio.sleep(120)
        for replica in (first, second):
            replica.connection.back = 0.01
        await until(lambda: any(replica.held() for replica in fleet.replicas if not replica.electing.done()))

    play(course)


@pytest.mark.parametrize("seconds", [0.9, 6.5, 9.5, 300.0])
def test_a_process_that_was_paused_asks_before_it_writes(seconds: float) -> None:
    """The clock goes on while the process, or the whole machine, sleeps."""

    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        first.freeze()
        await asyncio.sleep(seconds)
        first.thaw()
        if seconds < TIMES.renew_deadline - TIMES.retry_period:
            assert first.held() == {0}
        if seconds > TIMES.renew_deadline:
            assert not first.held(), "at once, before it has looked at anything"
        if seconds > TIMES.duration + 2:
            assert second.identity in await first.lost()
        else:
            await until(lambda: first.held() == {0})
            await asyncio.sleep(30)
            assert not second.held()

    play(course)


@pytest.mark.parametrize("off", [timedelta(days=-400), timedelta(days=400)])
def test_wall_clocks_do_not_count(off: timedelta) -> None:
    async def course(fleet: Fleet) -> None:
        first = fleet.start(wall_clock_off=off)
        await until(lambda: first.held() == {0})
        second = fleet.start()
        for _ in range(300):
            assert first.held() == {0}
            await asyncio.sleep(0.2)
        first.kill()
        killed = now()
        assert await until(lambda: second.held() == {0}) - killed <= TIMES.duration + 2 * TIMES.retry_period

    play(course)


def test_a_record_that_another_one_has_taken_ends_the_process() -> None:
    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        fleet.server.edit(holderIdentity="somebody-else")
        edited = now()
        assert "held by somebody-else now" in await first.lost()
        assert now() - edited <= 2 * TIMES.retry_period
        # It renews nothing: its Lease runs out like any other.
        await until(lambda: second.held() == {0})

    play(course)


@pytest.mark.parametrize("deleted", [True, False])
def test_a_record_that_somebody_frees_is_taken_and_the_holder_ends_at_its_next_look(deleted: bool) -> None:
    async def course(fleet: Fleet) -> None:
        first, second = await leading(fleet)
        if deleted:
            del fleet.server.leases[lease_name(0)]
        else:
            fleet.server.edit(holderIdentity="")
        freed = now()
        await first.lost()
        assert now() - freed <= 2 * TIMES.retry_period
        await until(lambda: second.held() == {0})

    play(course, meddling=True)


def test_what_somebody_writes_beside_the_record_costs_no_more_than_another_look() -> None:
    async def course(fleet: Fleet) -> None:
        only = fleet.start()
        await until(lambda: only.held() == {0})
        for _ in range(200):
            fleet.server.edit()
            await asyncio.sleep(0.3)
            assert only.held() == {0}

    play(course)


def test_what_is_held_back_runs_out_and_what_is_abandoned_ends_at_once() -> None:
    async def course(fleet: Fleet) -> None:
        first = fleet.start()
        await until(lambda: first.held() == {0})
        first.leases.hold_back()
        await asyncio.sleep(1)
        assert first.held() == {0}, "what is under way may end"
        await asyncio.sleep(TIMES.renew_deadline)
        assert not first.held()
        second = fleet.start()
        await until(lambda: second.held() == {0})
        second.leases.abandon()
        assert not second.held()
        assert fleet.server.holder() == second.identity, "a write that was cut off may still be carried out"

    play(course)


def test_shards_are_held_evenly_whoever_comes_and_goes() -> None:
    async def course(fleet: Fleet) -> None:
        def even() -> bool:
            held = [len(replica.held()) for replica in fleet.replicas if replica.alive]
            return sum(held) == 7 and max(held) - min(held) <= 1

        first = fleet.start(shards=7)
        await until(lambda: len(first.held()) == 7)
        second, third = fleet.start(shards=7), fleet.start(shards=7)
        await until(even, seconds=60)
        await second.stop()
        await until(even, seconds=60)
        third.kill()
        await until(lambda: len(first.held()) == 7, seconds=TIMES.duration + 3)

    play(course)


def test_a_shard_is_given_back_when_its_writes_have_ended_and_not_before() -> None:
    async def course(fleet: Fleet) -> None:
        first = fleet.start(shards=2)
        first.drain_seconds = 30
        await until(lambda: first.held() == {0, 1})
        second = fleet.start(shards=2)
        await until(lambda: len(first.held()) == 1)
        for _ in range(290):
            assert not second.held()
            await asyncio.sleep(0.1)
        await until(lambda: len(second.held()) == 1, seconds=5)

    play(course)


def test_a_look_that_is_faster_than_the_answer_to_giving_back_is_no_loss() -> None:
    async def course(fleet: Fleet) -> None:
        first = fleet.start(shards=2)
        first.drain_seconds = TIMES.retry_period / 2
        await until(lambda: first.held() == {0, 1})
        second = fleet.start(shards=2)
        await until(lambda: len(first.held()) == 1)
        first.connection.back_of_writes = 2 * TIMES.retry_period
        await until(lambda: len(second.held()) == 1)
        await asyncio.sleep(4 * TIMES.retry_period)
        assert not first.electing.done(), first.electing.exception()
        assert first.held() | second.held() == {0, 1}

    play(course)


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (4, 6), (6, 4)])
def test_another_number_of_shards_by_a_rolling_update(before: int, after: int) -> None:
    """As a Deployment does it: one with the new number comes; once it is ready, one with the old number goes."""

    async def course(fleet: Fleet) -> None:
        old = [fleet.start(shards=before), fleet.start(shards=before)]
        await until(fleet.all_owned)
        await asyncio.sleep(20)
        for replica in old:
            new = fleet.start(shards=after)
            started = now()
            await until(lambda new=new: new.is_ready)  # type: ignore[misc]
            await until(fleet.all_owned)
            assert now() - started <= 5 * TIMES.retry_period
            assert not any(it.owned() for it in old), "those with the old number stand by"
            await replica.stop()
        await until(fleet.all_owned)
        await until(lambda: after == 1 or all(replica.held() for replica in fleet.replicas[2:]))

    play(course)


def test_replicas_with_the_old_number_stand_by_while_there_is_one_with_the_new() -> None:
    async def course(fleet: Fleet) -> None:
        old = fleet.start(shards=2)
        await until(fleet.all_owned)
        new = fleet.start(shards=3)
        await until(lambda: new.held() == {0, 1, 2}, seconds=10)
        assert "--shards 3" in old.leases.standing_by
        await asyncio.sleep(120)
        assert new.held() == {0, 1, 2}
        assert not old.held()
        await new.stop()
        left = now()
        assert await until(lambda: old.held() == {0, 1}) - left >= TIMES.duration, "time for another new one"
        assert old.is_ready

    play(course)


def test_a_new_number_waits_for_what_the_old_ones_have_under_way() -> None:
    async def course(fleet: Fleet) -> None:
        slow, quick = fleet.start(shards=2), fleet.start(shards=2)
        await until(lambda: len(slow.held()) == len(quick.held()) == 1)
        slow.drain_seconds = 90
        new = fleet.start(shards=3)
        await asyncio.sleep(80)
        assert not any(replica.held() for replica in fleet.replicas)
        assert "still held" in new.leases.standing_by
        await until(lambda: new.held() == {0, 1, 2}, seconds=20)

    play(course)


@pytest.mark.parametrize("seed", range(24))
def test_whatever_happens_no_job_is_owned_twice_and_in_the_end_all_are_owned(seed: int) -> None:
    chance = random.Random(seed)

    async def course(fleet: Fleet) -> None:
        shards = chance.randint(1, 5)
        fleet.start(shards=shards)
        for _ in range(40):
            await asyncio.sleep(chance.choice([0.01, 0.3, 2.0, 5.0, 12.0]))
            living = [it for it in fleet.replicas if it.alive and not it.electing.done()]
            event = chance.random()
            if len(living) < 2 or (event < 0.15 and len(living) < 4):
                if chance.random() < 0.25:
                    shards = chance.randint(1, 5)
                fleet.start(shards=shards)
                continue
            one = chance.choice(living)
            if event < 0.25:
                one.kill()
            elif event < 0.35:
                await one.stop()
            elif event < 0.5:
                one.freeze() if one.acts else one.thaw()
            elif event < 0.6:
                one.connection.cut = not one.connection.cut
            elif event < 0.7:
                one.connection.answers_lost = not one.connection.answers_lost
            elif event < 0.9:
                one.connection.there = chance.choice([0.005, 0.5, 3.0, 9.0])
                one.connection.back = chance.choice([0.005, 0.5, 3.0])
            else:
                one.drain_seconds, one.prepare_seconds = (
                    chance.choice([0.05, 4.0]),
                    chance.choice([0.05, 8.0]),
                )
        for replica in fleet.replicas:
            if replica.alive:
                replica.thaw()
                replica.connection.cut = replica.connection.answers_lost = False
                replica.connection.there = replica.connection.back = 0.005
                replica.drain_seconds = replica.prepare_seconds = 0.05
        fleet.start(shards=shards)
        await until(fleet.all_owned, seconds=90)
        await asyncio.sleep(30)
        assert fleet.all_owned()

    play(course)
