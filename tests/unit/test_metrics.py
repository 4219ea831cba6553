"""What is counted, and that a user's annotation cannot make labels."""

import json
import weakref
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from dispatcher import metrics
from dispatcher.clusters.expiry import certificate_expiry, token_expiry
from dispatcher.core import names
from dispatcher.operator import job_tally
from dispatcher.operator.health import Health
from dispatcher.operator.health_echo import WatchEcho
from dispatcher.operator.job_tally import OTHER, UNREGISTERED, JobTally, summarize
from dispatcher.operator.latency import Latencies
from dispatcher.operator.moves import count_moves

STARTED = datetime(2026, 1, 1, 12, tzinfo=UTC)
AFTER, BEFORE = "2026-01-01T12:00:01Z", "2026-01-01T11:59:59Z"


def share(cluster: str = "a", *, number: int = 0, state: str = "Active", **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "cluster": cluster,
        "clusterUID": "u",
        "mirror": f"m{number}",
        "mirrorUID": "x",
        "parallelism": 2,
        "completions": 5,
        "state": state,
        **more,
    }


def job(
    *shares: dict[str, Any],
    uid: str = "1",
    created: str = AFTER,
    conditions: tuple[dict[str, str], ...] = (),
    retired: dict[str, Any] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"namespace": "n", "name": f"j{uid}", "uid": uid, "creationTimestamp": created}
    if shares or retired:
        placement = {
            "version": 1,
            "jobUID": uid,
            "nextShare": 9,
            "shares": shares,
            "retired": retired or {},
        }
        metadata["annotations"] = {names.PLACEMENT_ANNOTATION: json.dumps(placement, separators=(",", ":"))}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": list(conditions)}}


class Referable(dict[str, Any]):
    """A dict that a weak reference can name."""


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


@pytest.mark.parametrize(
    ("manifest", "phase"),
    [
        (job(), "Pending"),
        (job(share()), "Running"),
        (job(share(), suspend=True), "Suspended"),
        (job(conditions=({"type": "Dispatched", "status": "False", "reason": "NoShare"},)), "Waiting"),
        (job(share(), conditions=({"type": "Complete", "status": "True"},)), "Complete"),
        (job(share(), conditions=({"type": "Failed", "status": "True"},)), "Failed"),
    ],
)
def test_a_job_is_in_one_phase(manifest: dict[str, Any], phase: str) -> None:
    assert summarize(manifest).phase == phase
    manifest["metadata"]["deletionTimestamp"] = AFTER
    assert summarize(manifest).phase == "Terminating"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"shares": 3}', '{"shares": [{}]}', "null", '{"shares":[[]]}']
)
def test_any_annotation_can_be_read(text: str) -> None:
    manifest = job()
    manifest["metadata"]["annotations"] = {names.PLACEMENT_ANNOTATION: text}
    assert summarize(manifest).shares == ()


async def test_completions_are_counted_once_and_never_fall() -> None:
    tally = JobTally(started=STARTED)
    first, later = job(share(counts=[1, 0, 2, 2, 0])), job(share(counts=[3, 1, 1, 1, 0]))
    tally.job_changed(None, first)
    await tally.count_changes()
    assert (tally.completions["a"], tally.active["a"], tally.assigned["a"]) == (1, 2, 2)
    for _again in range(2):
        tally.job_changed(first, later)
        await tally.count_changes()
    assert (tally.completions["a"], tally.failures["a"], tally.active["a"]) == (3, 1, 1)
    moved = job(share("b", number=1), retired={"a": [3, 1]})
    tally.job_changed(later, moved)
    tally.job_changed(moved, None)
    assert (tally.completions["a"], tally.failures["a"]) == (3, 1)
    assert not +tally.phases
    assert not +tally.shares


def test_nothing_of_an_ended_job_is_held_on_to_while_nobody_asks() -> None:
    tally = JobTally(started=STARTED)
    runs = job(share(counts=[0, 0, 1, 1, 0]))
    ended = Referable(
        job(share(counts=[1, 0, 0, 0, 0]), conditions=({"type": "Complete", "status": "True"},))
    )
    seen = weakref.ref(ended)
    tally.job_changed(None, runs)
    tally.job_changed(runs, ended)
    del ended
    assert seen() is None
    assert (tally.completions["a"], +tally.phases) == (1, {"Complete": 1})


async def test_what_was_reached_before_the_start_is_not_new() -> None:
    tally = JobTally(started=STARTED)
    tally.job_changed(None, job(share(counts=[4, 0, 0, 0, 0]), created=BEFORE))
    await tally.count_changes()
    assert tally.completions["a"] == 0


async def test_a_job_of_the_second_of_the_start_is_new() -> None:
    tally = JobTally(started=STARTED + timedelta(seconds=1, milliseconds=600))
    tally.job_changed(None, job(share(counts=[4, 0, 0, 0, 0]), created=AFTER))
    await tally.count_changes()
    assert tally.completions["a"] == 4


async def test_users_cannot_make_labels() -> None:
    tally = JobTally(started=STARTED)
    for number in range(100):
        reason = f"R{'x' * (number % 35)}" if number % 2 else f"bad reason {number}"
        conditions = ({"type": "Dispatched", "status": "False", "reason": reason},)
        named = share(f"made-up-{number}", state=f"S{number}", counts=[1, 0, 1, 1, 0])
        tally.job_changed(None, job(named, uid=str(number), conditions=conditions))
    await tally.count_changes()
    job_tally.publish(tally, frozenset({"a"}), STARTED)
    [shares] = metrics.SHARES.collect()
    labels = {tuple(s.labels.values()) for s in shares.samples if s.value}
    assert labels == {(UNREGISTERED, OTHER)}
    assert value("job_dispatcher_shares", cluster=UNREGISTERED, state=OTHER) == 100
    assert value("job_dispatcher_active_pods", cluster="a") == 0
    assert len(tally.reasons()) <= 31
    assert tally.reasons().total() == 100


async def test_the_longest_wait_ends_with_the_wait() -> None:
    tally = JobTally(started=STARTED)
    since = {
        "type": "FullyPlaced",
        "status": "False",
        "reason": "WaitingForRoom",
        "lastTransitionTime": AFTER,
    }
    waits, runs = job(share(), conditions=(since,)), job(share())
    tally.job_changed(None, waits)
    await tally.count_changes()
    now = STARTED + timedelta(seconds=31)
    assert (tally.longest_wait(now), dict(tally.reasons())) == (30, {"WaitingForRoom": 1})
    tally.job_changed(waits, runs)
    await tally.count_changes()
    assert (tally.longest_wait(now), dict(tally.reasons())) == (0, {})


def test_a_lost_share_counts_once_with_what_it_leaves() -> None:
    def now() -> tuple[float, float]:
        return (
            value("job_dispatcher_failovers_total", cluster="lost") or 0,
            value("job_dispatcher_moved_completions_total", cluster="lost") or 0,
        )

    runs = job(share("lost", counts=[2, 0, 2, 2, 0]))
    lost = job(share("lost", state="Lost", counts=[2, 0, 0, 0, 0]), share("a", number=1, completions=3))
    count_moves(runs, runs)
    assert now() == (0, 0)
    count_moves(runs, lost)
    assert now() == (1, 3)
    count_moves(lost, lost)
    count_moves(lost, job(share("lost", state="Removing", counts=[2, 0, 0, 0, 0])))
    assert now() == (1, 3)


def test_an_answer_to_a_status_write_is_counted_by_its_kind() -> None:
    def now() -> list[float]:
        name = "job_dispatcher_status_writes_rejected_total"
        rejected = [value(name, code=code) or 0 for code in ("400", "403", "422", "409", "500", "0")]
        return [*rejected, value("job_dispatcher_status_write_conflicts_total") or 0]

    before = now()
    for code in (200, 400, 403, 422, 409, 500, 0):
        metrics.status_write(code)
    assert [after - was for after, was in zip(now(), before, strict=True)] == [1, 1, 1, 0, 0, 0, 1]


def test_a_removed_cluster_leaves_no_series() -> None:
    metrics.cluster_registered("short-lived")
    metrics.observe_requests("short-lived")("GET", "jobs", 200, 0.1)
    metrics.PROBE_SECONDS.labels("short-lived").observe(0.1)
    metrics.cluster_removed("short-lived")
    found = [
        s.name for m in REGISTRY.collect() for s in m.samples if s.labels.get("cluster") == "short-lived"
    ]
    assert found == []


def test_dispatch_latency_is_observed_with_the_last_mirror() -> None:
    latencies, new = Latencies(), job()
    now = datetime.now(UTC).isoformat()
    new["metadata"]["creationTimestamp"] = now
    latencies.job_seen(new)
    placed = job(share("a"), share("b", number=1))
    before = value("job_dispatcher_dispatch_duration_seconds_count") or 0
    latencies.mirror_made(placed, lambda cluster, _namespace, _name: cluster == "a")
    assert value("job_dispatcher_dispatch_duration_seconds_count") == before
    for _again in range(2):
        latencies.mirror_made(placed, lambda *_: True)
        assert value("job_dispatcher_dispatch_duration_seconds_count") == before + 1


def test_writeback_latency_counts_what_a_write_answers() -> None:
    latencies, key = Latencies(), ("n", "j")
    before = value("job_dispatcher_writeback_duration_seconds_count") or 0
    assert latencies.take(key) is None
    latencies.mirror_changed(key)
    since = latencies.take(key)
    latencies.decided(key, since, written=False, acts=False, look_again=3600)
    assert latencies.take(key) is None
    latencies.decided(key, since, written=False, acts=False, look_again=1.0)
    assert latencies.take(key) == since
    latencies.decided(key, since, written=True, acts=True, look_again=None)
    assert value("job_dispatcher_writeback_duration_seconds_count") == before + 1


class Watch:
    def __init__(self, last_event_at: float | None) -> None:
        self.last_event_at = last_event_at


class Queue:
    depth, oldest_age, since_last_end = 0, 0.0, 1000.0


async def test_health_fails_when_the_watch_is_old_or_the_work_stands_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asyncio

    queue, watch, echo = Queue(), Watch(None), WatchEcho()
    health = Health(queue=queue, management=watch, echo=echo)  # type: ignore[arg-type]
    assert health.fault() == ""
    now = asyncio.get_running_loop().time()
    watch.last_event_at = now - 170
    assert health.fault() == ""
    watch.last_event_at = now - 190
    assert "nothing was heard" in health.fault()
    watch.last_event_at = now
    queue.depth, queue.oldest_age = 3, 400.0
    assert "3 Jobs wait" in health.fault()
    queue.since_last_end = 1.0
    assert health.fault() == ""
    clock = 1000.0
    monkeypatch.setattr("dispatcher.operator.health_echo.monotonic", lambda: clock)
    echo.wrote("7")
    clock += 200
    assert "watch on Jobs" in health.fault()
    echo.saw(6)
    assert health.fault() == ""
    clock += 200
    assert health.fault()
    echo.saw(8)
    assert health.fault() == ""
    echo.saw(9)
    echo.wrote("9")
    clock += 200
    assert health.fault() == "", "the watch was faster than the answer to the write"


def test_the_end_of_a_token() -> None:
    assert token_expiry("e30.eyJleHAiOjE3NjcyNjg4MDB9.x") == STARTED
    for odd in ("", "opaque", "a.b.c", "e30.e30.x"):
        assert token_expiry(odd) is None


def test_the_end_of_a_certificate() -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "someone")])
    for end in (STARTED, datetime(2060, 5, 6, tzinfo=UTC)):  # UTCTime, GeneralizedTime
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        certificate = (
            builder.not_valid_before(datetime(2020, 1, 1)).not_valid_after(end).sign(key, hashes.SHA256())  # noqa: DTZ001
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        assert certificate_expiry(pem) == end
        assert certificate_expiry(pem[:60] + pem[-60:]) is None
    assert certificate_expiry("no certificate") is None


def test_a_log_line_has_the_id_of_its_look_at_a_job() -> None:
    import contextvars
    import logging

    from dispatcher.clusters import request_id
    from dispatcher.operator.logs import JsonFormatter

    def line() -> dict[str, Any]:
        record = logging.LogRecord("dispatcher.x", logging.DEBUG, "", 1, "request", None, None)
        parsed: dict[str, Any] = json.loads(JsonFormatter().format(record))
        return parsed

    def look() -> tuple[str, dict[str, Any]]:
        return request_id.begin(), line()

    first, second = contextvars.copy_context().run(look), contextvars.copy_context().run(look)
    assert first[0] == first[1]["request_id"] != second[1]["request_id"]
    assert "request_id" not in line()


def test_messages_are_constant() -> None:
    """What changes is in fields, so that lines can be counted by their message."""
    import ast
    from pathlib import Path

    import dispatcher

    methods = {"debug", "info", "warning", "error", "exception", "critical"}
    for path in Path(dispatcher.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in methods
            ):
                called = node.func.value
                if isinstance(called, ast.Name) and called.id in ("logger", "_log", "log"):
                    message = node.args[0]
                    texts = [message.body, message.orelse] if isinstance(message, ast.IfExp) else [message]
                    assert all(isinstance(text, ast.Constant) for text in texts), f"{path}:{node.lineno}"
                    assert len(node.args) == 1, f"{path}:{node.lineno}"
