import asyncio
import contextlib
import dataclasses
import datetime
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.health import Health, HealthReason
from dispatcher.clusters.kubeconfig import Credentials
from dispatcher.clusters.permissions import MIRROR_ACCESS
from dispatcher.clusters.reflector import WatchSettings
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.clusters.worker import ProbeSettings, WorkerConnection
from tests.protocol.fake_server import (
    JOBS,
    KUBE_SYSTEM,
    REVIEWS,
    Answer,
    FakeApiServer,
    running,
    status,
    until,
)

PROBE = ProbeSettings(
    interval=0.02, retry=0.01, retry_cap=0.03, recheck_failed=0.1, close_grace=0.1, restart=0.05
)
IMPATIENT = dataclasses.replace(PROBE, timeout=0.1)
WATCH = WatchSettings(backoff_first=0.002, backoff_cap=0.05)


class Clock:
    """Each look is a second later."""

    def __init__(self) -> None:
        self.now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def __call__(self) -> datetime.datetime:
        self.now += datetime.timedelta(seconds=1)
        return self.now


def client(server: FakeApiServer, token: str = "t") -> ApiServer:
    return ApiServer.from_credentials(Credentials(server=server.url, token=token), allow_http=True)


@contextlib.asynccontextmanager
async def connected(
    server: FakeApiServer, **changes: Any
) -> AsyncIterator[tuple[WorkerConnection, list[Health]]]:
    told: list[Health] = []
    options: dict[str, Any] = {
        "probe": PROBE,
        "watch": WATCH,
        "on_health": told.append,
        "rng": random.Random(1),
    } | changes
    connection = WorkerConnection(
        "w", client(server), ObjectCache(), label_selector="o=x", now=Clock(), **options
    )
    connection.start()
    try:
        yield connection, told
    finally:
        await connection.stop()


def reason_is(connection: WorkerConnection, reason: HealthReason) -> Callable[[], bool]:
    return lambda: connection.health.reason is reason


def ready(connection: WorkerConnection) -> Callable[[], bool]:
    return lambda: connection.health.ready


async def test_it_becomes_ready_when_all_is_known(server: FakeApiServer) -> None:
    server.job("a")
    async with connected(server) as (connection, told):
        await until(ready(connection))
        assert connection.health.reason is HealthReason.CONNECTED
        assert connection.cluster_uid == "cluster-1"
        assert connection.server_version == "v1.36.3"
        assert connection.cache.get("ns", "a") is not None
        assert [health.ready for health in told].count(True) == 1
        assert server.count("POST", REVIEWS) == len(MIRROR_ACCESS), (
            "the permissions were asked for before that"
        )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(status(401, "Unauthorized"), HealthReason.UNAUTHORIZED, id="401"),
        pytest.param(status(403, "Forbidden"), HealthReason.FORBIDDEN, id="403"),
        pytest.param(status(503, "ServiceUnavailable"), HealthReason.SERVER_ERROR, id="503"),
        pytest.param(Answer(200, raw=b"<html>"), HealthReason.NOT_KUBERNETES, id="a web page"),
        pytest.param(status(404, "NotFound"), HealthReason.NOT_KUBERNETES, id="no kube-system"),
        pytest.param(Answer(hang=True), HealthReason.TIMEOUT, id="hung"),
    ],
)
async def test_a_failing_cluster_is_not_ready_and_recovers(
    server: FakeApiServer, answer: Answer, reason: HealthReason
) -> None:
    probe = IMPATIENT if answer.hang else PROBE
    async with connected(server, probe=probe) as (connection, told):
        await until(ready(connection))
        was_ready_since = connection.health.since
        before = server.count("GET", KUBE_SYSTEM)
        server.stage("GET", KUBE_SYSTEM, answer, standing=True)
        await until(reason_is(connection, reason))
        assert not connection.health.ready
        assert connection.health.since > was_ready_since
        assert server.count("GET", KUBE_SYSTEM) - before >= 3, "one failed probe is no outage"
        server.unstage()
        await until(ready(connection))
        assert len(told) <= 6, "told on changes, not per probe"


async def test_one_failed_probe_is_no_outage(server: FakeApiServer) -> None:
    async with connected(server) as (connection, told):
        await until(ready(connection))
        server.stage("GET", KUBE_SYSTEM, status(503), status(503))
        seen = server.count("GET", KUBE_SYSTEM)
        await until(lambda: server.count("GET", KUBE_SYSTEM) > seen + 4)
        assert connection.health.ready
        assert [health.ready for health in told].count(True) == 1


async def test_throttling_is_put_up_with_for_longer(server: FakeApiServer) -> None:
    async with connected(server) as (connection, _):
        await until(ready(connection))
        server.stage("GET", KUBE_SYSTEM, status(429, "TooManyRequests"), standing=True)
        seen = server.count("GET", KUBE_SYSTEM)
        await until(lambda: server.count("GET", KUBE_SYSTEM) > seen + 6)
        assert connection.health.ready


async def test_a_server_that_stops_and_starts(server: FakeApiServer) -> None:
    server.job("a")
    async with connected(server) as (connection, _):
        await until(ready(connection))
        await server.stop()
        await until(lambda: connection.health.reason is HealthReason.CONNECTION_REFUSED)
        assert len(connection.cache) == 1, "what was known stays"
        missed = server.job("b")
        server.on_watch = lambda watch: watch.send("ADDED", missed)
        await server.start()
        await until(ready(connection))
        await until(lambda: len(connection.cache) == 2)
        assert server.count("GET", JOBS) == 1, "it resumed where it was"


async def test_another_cluster_is_refused_and_nothing_is_deleted(server: FakeApiServer) -> None:
    server.job("a")
    async with connected(server) as (connection, _):
        await until(ready(connection))
        deleted: list[object] = []
        connection.cache.on_delete = lambda last, final: deleted.append(last)
        server.objects.clear()
        server.uid = "cluster-2"
        lists = server.count("GET", JOBS)
        await until(reason_is(connection, HealthReason.CLUSTER_CHANGED))
        assert "cluster-1" in connection.health.message
        assert "cluster-2" in connection.health.message
        probes = server.count("GET", KUBE_SYSTEM)
        await until(lambda: server.count("GET", KUBE_SYSTEM) > probes + 4)
        assert server.count("GET", JOBS) == lists, "the other cluster's list would delete everything"
        assert len(connection.cache) == 1
        assert deleted == []
        server.uid = "cluster-1"
        server.job("a", status={"n": 1})
        await until(ready(connection))
        await until(lambda: (connection.cache.get("ns", "a") or {}).get("status") == {"n": 1})


async def test_another_cluster_behind_the_address_is_noticed_before_a_list(server: FakeApiServer) -> None:
    """The reflector comes back sooner than the probe."""
    slow = ProbeSettings(interval=1000.0, retry=1000.0)
    server.job("a")
    async with connected(server, probe=slow) as (connection, _):
        await until(ready(connection))
        server.objects.clear()
        server.uid = "cluster-2"
        connection.reflector.invalidate()
        await until(reason_is(connection, HealthReason.CLUSTER_CHANGED))
        assert len(connection.cache) == 1


async def test_an_expected_cluster_that_is_another_from_the_start(server: FakeApiServer) -> None:
    async with connected(server, expected_uid="cluster-0") as (connection, _):
        await until(reason_is(connection, HealthReason.CLUSTER_CHANGED))
        assert server.count("GET", JOBS) == 0
        assert connection.cluster_uid == "cluster-0"


async def test_missing_permissions_are_named_and_asked_for_again(server: FakeApiServer) -> None:
    server.denied = {("delete", "jobs"), ("patch", "jobs/status")}
    async with connected(server) as (connection, _):
        await until(reason_is(connection, HealthReason.MISSING_PERMISSIONS))
        assert "delete jobs.batch, patch jobs.batch/status" in connection.health.message
        server.denied = set()
        await until(ready(connection))


async def test_a_refused_review_is_no_missing_permission(server: FakeApiServer) -> None:
    server.stage("POST", REVIEWS, status(403, "Forbidden"), standing=True)
    async with connected(server) as (connection, _):
        await until(ready(connection))


async def test_an_old_server_is_refused(server: FakeApiServer) -> None:
    server.git_version = "v1.30.9+k3s1"
    async with connected(server) as (connection, _):
        await until(reason_is(connection, HealthReason.VERSION_TOO_OLD))
        assert "v1.30.9+k3s1" in connection.health.message


async def test_mirrors_that_can_not_be_listed_are_told(server: FakeApiServer) -> None:
    server.stage("GET", JOBS, status(403, "Forbidden", "jobs is forbidden"), standing=True)
    async with connected(server) as (connection, _):
        await until(lambda: "jobs is forbidden" in connection.health.message)
        assert connection.health.reason is HealthReason.NOT_SYNCED


async def test_a_noted_failure_is_probed_at_once(server: FakeApiServer) -> None:
    slow = ProbeSettings(interval=1000.0, retry=0.02, retry_cap=0.02)
    async with connected(server, probe=slow) as (connection, _):
        await until(ready(connection))
        server.stage("GET", KUBE_SYSTEM, status(503), standing=True)
        connection.note_failure(Reply(Outcome.CONFLICT))
        connection.note_failure(Reply(Outcome.UNREACHABLE))
        await until(reason_is(connection, HealthReason.SERVER_ERROR))


async def test_rotated_credentials_change_nothing_else(server: FakeApiServer) -> None:
    server.job("a")
    async with connected(server) as (connection, told):
        await until(ready(connection))
        told.clear()
        old = connection.api
        await connection.replace(client(server, token="fresh"))
        assert connection.api is not old
        await until(lambda: server.count("GET", JOBS) == 2)
        lists = [
            seen.headers["Authorization"] for seen in server.seen if (seen.method, seen.path) == ("GET", JOBS)
        ]
        assert lists[-1] == "Bearer fresh"
        await until(lambda: connection.reflector.connected)
        assert told == [], "no change of health"
        assert len(connection.cache) == 1
        assert (await old.get(KUBE_SYSTEM)).reason == "ClientClosed"


async def test_of_two_rotations_the_later_one_counts(server: FakeApiServer) -> None:
    async with connected(server) as (connection, _):
        await until(ready(connection))
        first, second = client(server, token="first"), client(server, token="second")
        server.stage("GET", KUBE_SYSTEM, Answer(hang=True))
        rotation = asyncio.create_task(connection.replace(first))
        await until(lambda: any(seen.headers["Authorization"] == "Bearer first" for seen in server.seen))
        await connection.replace(second)
        await rotation
        assert connection.api is second
        assert (await first.get(KUBE_SYSTEM)).reason == "ClientClosed"


async def test_rotated_credentials_that_do_not_work_are_told_at_once(server: FakeApiServer) -> None:
    async with connected(server) as (connection, _):
        await until(ready(connection))
        server.stage("GET", KUBE_SYSTEM, status(401, "Unauthorized"), standing=True)
        await connection.replace(client(server))
        assert connection.health.reason is HealthReason.UNAUTHORIZED


async def test_rotated_credentials_that_lead_elsewhere_are_told_at_once(server: FakeApiServer) -> None:
    server.job("a")
    async with connected(server) as (connection, _), running() as other:
        other.uid = "cluster-2"
        await until(ready(connection))
        await connection.replace(client(other))
        assert connection.health.reason is HealthReason.CLUSTER_CHANGED
        assert len(connection.cache) == 1
        assert other.count("GET", JOBS) == 0


async def test_an_error_of_our_own_is_data(
    server: FakeApiServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    async with connected(server) as (connection, _):
        await until(ready(connection))
        monkeypatch.setattr(connection, "_probe", fail)
        await until(reason_is(connection, HealthReason.INTERNAL_ERROR))
        assert "RuntimeError: a bug" in caplog.text
        monkeypatch.undo()
        connection.retry_now()
        await until(ready(connection))


async def test_one_cluster_hangs_and_the_other_does_not(server: FakeApiServer) -> None:
    async with running() as hung:
        hung.stage("GET", KUBE_SYSTEM, Answer(hang=True), standing=True)
        hung.stage("GET", JOBS, Answer(hang=True), standing=True)
        async with connected(hung, probe=IMPATIENT) as (bad, _), connected(server) as (good, _):
            await until(ready(good))
            await until(reason_is(bad, HealthReason.TIMEOUT))
            loop = asyncio.get_running_loop()
            times = []
            for _ in range(50):
                started = loop.time()
                assert (await good.api.get(KUBE_SYSTEM)).ok
                times.append(loop.time() - started)
            assert sorted(times)[25] < IMPATIENT.timeout
