"""Two dispatchers and one Lease: who writes, how quickly the other takes over, and what a late writer can do."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from dispatcher.core import names
from dispatcher.operator.faults import PAUSE_VARIABLE
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import Planes, count, is_complete, is_dispatched, make_job
from tests.integration.test_restarts import COMPLETIONS, NAMESPACE, check_completed

pytestmark = pytest.mark.lab

QUICK = (
    "--leader-elect-lease-duration=3",
    "--leader-elect-renew-deadline=2",
    "--leader-elect-retry-period=0.3",
)
LEADER = 'job_dispatcher_leader{shard="0"}'


@pytest.fixture
async def planes(lab: Lab) -> AsyncIterator[Planes]:
    clients = [ApiServer(await load_kubeconfig_file(plane.kubeconfig)) for plane in lab.planes]
    yield Planes(clients[0], clients[1:], namespace=NAMESPACE)
    for client in clients:
        await client.close()


async def until(met: Callable[[], bool], *, what: str, seconds: float = 60.0) -> None:
    """Wait for a condition that another process brings about."""
    try:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(met):  # noqa: ASYNC110 - another process tells nobody
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"{what} has not come within {seconds} s") from None


def leads(controller: Controller, sample: str = LEADER) -> Callable[[], bool]:
    return lambda: controller.metric(sample) == 1


async def start(lab: Lab, managed_by: str, *options: str, pause: str = "") -> Controller:
    environment = {PAUSE_VARIABLE: pause} if pause else {}
    return await asyncio.to_thread(
        Controller.start,
        lab,
        managed_by=managed_by,
        environment=environment,
        options=("--leader-elect", "--orphan-interval=600", *options),
    )


async def end(*controllers: Controller) -> None:
    for controller in controllers:
        controller.resume()
        await asyncio.to_thread(controller.stop)


async def dispatch(planes: Planes, name: str, managed_by: str, *, script: Any = None) -> None:
    job = make_job(
        name,
        managed_by=managed_by,
        namespace=NAMESPACE,
        script=script,
        parallelism=2,
        completions=COMPLETIONS,
        completionMode="Indexed",
    )
    assert (await jobs.create_job(planes.management, NAMESPACE, job)).ok


async def remove(planes: Planes, name: str) -> None:
    await planes.delete(name)
    await planes.job_when(name, lambda job: job is None)


@pytest.mark.parametrize(("way", "most"), [("stop", 8.0), ("kill", 30.0)])
async def test_a_takeover_with_default_timings(lab: Lab, planes: Planes, way: str, most: float) -> None:
    """From the end of the leader's process to the first Job that the other one has placed.

    Promised are 2 s and 15 s; a busy machine gets more, but too little for a Lease to run out after a stop.
    """
    managed_by = f"jobdispatcher.io/takeover-{way}"
    first = await start(lab, managed_by)
    await until(leads(first), what="the first leads")
    second = await start(lab, managed_by)
    assert second.metric(LEADER) == 0, "one leads at a time"
    try:
        await dispatch(planes, f"before-{way}", managed_by)
        await planes.job_when(f"before-{way}", is_complete)
        await asyncio.to_thread(first.stop if way == "stop" else first.kill)
        ended = time.monotonic()
        await dispatch(planes, f"after-{way}", managed_by)
        await planes.job_when(f"after-{way}", is_dispatched)
        took = time.monotonic() - ended
        assert took <= most
        await planes.job_when(f"after-{way}", is_complete)
        await remove(planes, f"before-{way}")
        await remove(planes, f"after-{way}")
    finally:
        await end(first, second)


async def paused_and_woken(lab: Lab, planes: Planes, at: str, wake: str) -> None:
    """A leader is paused at one write; the other takes over; the first wakes up then, or when the Job is gone."""
    name = f"late-{at.replace('#', '-').replace(':', '-')}-{wake}"
    managed_by = f"jobdispatcher.io/{name}"
    first = await start(lab, managed_by, *QUICK, pause=at)
    second = None
    try:
        await until(leads(first), what="the first leads")
        second = await start(lab, managed_by, *QUICK)
        await dispatch(planes, name, managed_by)
        deleted = at.startswith(("delete", "finalizer"))
        if deleted:
            await planes.job_when(name, is_complete)
            await planes.delete(name)
        await until(lambda: first.is_paused, what=f"pause at {at}")
        await until(leads(second), what="the takeover")
        if wake == "early":
            first.resume()
        if not deleted:
            await check_completed(planes, await planes.job_when(name, is_complete))
        await remove(planes, name)
        if at.startswith("finalizer"):  # what it sends now is about a Job that is gone; this one has its name
            await dispatch(planes, name, managed_by)
            await planes.job_when(name, is_dispatched)
            first.resume()
            await check_completed(planes, await planes.job_when(name, is_complete))
            await until(lambda: not first.is_running, what="the end of the one that lost the Lease")
            again = await planes.job_when(name, is_complete)
            assert names.FINALIZER in again["metadata"]["finalizers"], "it is held by its own"
            await remove(planes, name)
        first.resume()
        await until(lambda: not first.is_running, what="the end of the one that lost the Lease")
        assert second.metric(LEADER) == 1
        await no_mirror_stays(planes, name)
        assert "job_dispatcher_status_writes_rejected_total{" not in second.metrics()
    finally:
        await end(first, *([second] if second is not None else []))


async def no_mirror_stays(planes: Planes, name: str) -> None:
    """A late POST may bring one back; it goes by itself at once."""

    async def there() -> list[Any]:
        found = [await jobs.get_job(api, NAMESPACE, name) for api in planes.workers]
        return [reply for reply in found if reply.ok]

    await asyncio.sleep(0.3)  # for what the woken one may still have sent
    async with asyncio.timeout(10.0):
        while await there():  # noqa: ASYNC110 - another process tells nobody
            await asyncio.sleep(0.05)


KINDS = ("status#1", "create#1", "seed#1", "patch#1", "status#2", "delete#1", "finalizer#1")


@pytest.mark.parametrize("wake", ["early", "late"])
async def test_a_write_that_is_sent_much_too_late_does_no_harm(lab: Lab, planes: Planes, wake: str) -> None:
    """Paused after the last question whether it may write: the write goes out when it wakes up."""
    for group in (KINDS[:4], KINDS[4:]):
        await asyncio.gather(*(paused_and_woken(lab, planes, f"{kind}:sending", wake) for kind in group))


async def test_one_that_wakes_up_late_sends_nothing(lab: Lab, planes: Planes) -> None:
    """Paused before that question: it is answered no, so that a mirror of a Job long gone is not even made."""
    await asyncio.gather(
        *(paused_and_woken(lab, planes, f"{kind}:before", "late") for kind in ("create#1", "patch#1"))
    )


async def test_a_late_mirror_of_a_share_that_has_one_is_removed_at_once(lab: Lab, planes: Planes) -> None:
    """What the POST of a process that is no more leaves, should it be carried out after all."""
    name, managed_by = "late-copy", "jobdispatcher.io/late-copy"
    controller = await start(lab, managed_by, *QUICK)
    try:
        running = make_job(
            name, managed_by=managed_by, namespace=NAMESPACE, script=[{"exit": None}], parallelism=2
        )
        job = await planes.create(running | {"spec": {**running["spec"], "completions": 2}})
        placed = await planes.job_when(name, lambda found: count(found, "ready") == 2)
        mirror = (await planes.mirrors(job["metadata"]["uid"]))[0]
        record = json.loads(mirror["metadata"]["annotations"][names.SHARE_ANNOTATION])
        assert record["epoch"] == int(job["metadata"]["resourceVersion"]), "the Job as it was decided on"
        copy = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": "late-copy-again",
                "namespace": NAMESPACE,
                "labels": {
                    k: v for k, v in mirror["metadata"]["labels"].items() if k.startswith(names.PREFIX)
                },
                "annotations": mirror["metadata"]["annotations"],
            },
            "spec": running["spec"] | {"managedBy": None},
        }
        assert (await jobs.create_job(planes.workers[2], NAMESPACE, copy)).ok
        async with asyncio.timeout(10.0):
            while (await jobs.get_job(planes.workers[2], NAMESPACE, "late-copy-again")).ok:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert len(await planes.mirrors(job["metadata"]["uid"])) == len(placement_shares(placed))
        await remove(planes, name)
    finally:
        await end(controller)


def placement_shares(job: dict[str, Any]) -> list[dict[str, Any]]:
    shares: list[dict[str, Any]] = json.loads(job["metadata"]["annotations"][names.PLACEMENT_ANNOTATION])[
        "shares"
    ]
    return shares


SHARDS = 4
JOBS = 12


async def test_shards_are_held_evenly_and_handed_over_with_nothing_written_twice(
    lab: Lab, planes: Planes
) -> None:
    managed_by = "jobdispatcher.io/shards"
    options = (*QUICK, f"--shards={SHARDS}")

    def held(controller: Controller) -> int:
        return sum(controller.metric(f'job_dispatcher_leader{{shard="{n}"}}') == 1 for n in range(SHARDS))

    job_names = [f"shard-{number}" for number in range(JOBS)]
    first = await start(lab, managed_by, *options)
    second = None
    try:
        await until(lambda: held(first) == SHARDS, what="the first holds all")
        for name in job_names[: JOBS // 2]:
            await dispatch(planes, name, managed_by)
        second = await start(lab, managed_by, *options)
        for name in job_names[JOBS // 2 :]:  # while shards go over
            await dispatch(planes, name, managed_by)
        await until(lambda: (held(first), held(second)) == (SHARDS // 2, SHARDS // 2), what="an even share")
        for name in job_names:
            await check_completed(planes, await planes.job_when(name, is_complete))
        acted = [controller.metric("job_dispatcher_status_writes_total") for controller in (first, second)]
        assert all(acted), "both have acted"
        await asyncio.to_thread(first.stop)
        await until(lambda: held(second) == SHARDS, what="the second holds all", seconds=8)
        for name in job_names:
            await planes.delete(name)
        for name in job_names:
            await planes.job_when(name, lambda job: job is None)
        assert "job_dispatcher_status_writes_rejected_total{" not in second.metrics()
    finally:
        await end(first, *([second] if second is not None else []))


async def test_another_number_of_shards_by_a_rolling_update_while_jobs_run(lab: Lab, planes: Planes) -> None:
    """Those with the new number come one by one; each old one goes when the new one beside it is ready."""
    managed_by = "jobdispatcher.io/reshard"
    before, after = 2, 3
    job_names: list[str] = []
    running: list[Controller] = []

    async def begin(shards: int) -> Controller:
        running.append(await start(lab, managed_by, *QUICK, f"--shards={shards}"))
        return running[-1]

    async def some_jobs() -> None:
        for _ in range(3):
            job_names.append(f"reshard-{len(job_names)}")
            await dispatch(planes, job_names[-1], managed_by, script=[{"after": "3s", "exit": 0}])

    def held(controller: Controller) -> int:
        return sum(controller.metric(f'job_dispatcher_leader{{shard="{n}"}}') == 1 for n in range(after))

    try:
        old = [await begin(before)]
        await until(lambda: held(old[0]) == before, what="the first holds all")
        old.append(await begin(before))
        await until(lambda: [held(it) for it in old] == [1, 1], what="an even share")
        await some_jobs()
        for number, replica in enumerate(old):
            starting = asyncio.create_task(begin(after))
            await some_jobs()  # while all of them change hands
            new = await starting
            await until(lambda new=new: held(new) > 0, what="a new one acts")  # type: ignore[misc]
            assert not any(held(it) for it in old[number:]), "those with the old number stand by"
            await some_jobs()
            await asyncio.to_thread(replica.stop)
        new_ones = running[len(old) :]
        await until(
            lambda: sorted(held(it) for it in new_ones) == [1, 2], what="an even share of the new ones"
        )
        await some_jobs()
        uids = []
        for name in job_names:
            job = await planes.job_when(name, is_complete)
            await check_completed(planes, job)
            uids.append(job["metadata"]["uid"])
        for name in job_names:
            await planes.delete(name)
        for name in job_names:
            await planes.job_when(name, lambda job: job is None)
        assert not [mirror for uid in uids for mirror in await planes.mirrors(uid)]
        for controller in new_ones:
            assert "job_dispatcher_status_writes_rejected_total{" not in controller.metrics()
    finally:
        await end(*running)
