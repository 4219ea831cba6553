from dataclasses import replace
from typing import Any

import pytest

from dispatcher.clusters.health import (
    Evidence,
    Finding,
    HealthReason,
    ProbeFailures,
    Tolerance,
    finding_of,
    judge,
)
from dispatcher.clusters.prerequisites import version_finding
from dispatcher.clusters.reply import Outcome, Reply

GOOD = Evidence(probed=True, synced=True)
TOO_OLD = Finding(HealthReason.VERSION_TOO_OLD, "old")
CHANGED = Finding(HealthReason.CLUSTER_CHANGED, "another")


def failing(reason: HealthReason, count: int, seconds: float = 0.0) -> ProbeFailures:
    return ProbeFailures(Finding(reason, "failing"), count, seconds)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({}, HealthReason.CONNECTED, id="all is well"),
        pytest.param({"probed": False}, HealthReason.CONNECTING, id="no answer yet"),
        pytest.param(
            {"probed": False, "failures": failing(HealthReason.TIMEOUT, 1)},
            HealthReason.TIMEOUT,
            id="first probe failed",
        ),
        pytest.param(
            {"failures": failing(HealthReason.TIMEOUT, 2)}, HealthReason.CONNECTED, id="two failed probes"
        ),
        pytest.param(
            {"failures": failing(HealthReason.TIMEOUT, 3)}, HealthReason.TIMEOUT, id="three failed probes"
        ),
        pytest.param(
            {"failures": failing(HealthReason.THROTTLED, 20, 29.0)},
            HealthReason.CONNECTED,
            id="throttled for 29 s",
        ),
        pytest.param(
            {"failures": failing(HealthReason.THROTTLED, 20, 30.0)},
            HealthReason.THROTTLED,
            id="throttled for 30 s",
        ),
        pytest.param({"standing": [TOO_OLD]}, HealthReason.VERSION_TOO_OLD, id="old"),
        pytest.param({"synced": False}, HealthReason.NOT_SYNCED, id="not listed"),
        pytest.param({"watch_down_seconds": 20.0}, HealthReason.CONNECTED, id="no watch for 20 s"),
        pytest.param({"watch_down_seconds": 20.1}, HealthReason.WATCH_STALE, id="no watch for longer"),
        pytest.param({"internal_error": "a bug"}, HealthReason.INTERNAL_ERROR, id="our own error"),
        pytest.param(
            {"identity": CHANGED, "standing": [TOO_OLD], "synced": False, "probed": False},
            HealthReason.CLUSTER_CHANGED,
            id="another cluster is worse than all else",
        ),
        pytest.param(
            {"standing": [TOO_OLD], "failures": failing(HealthReason.TIMEOUT, 3)},
            HealthReason.TIMEOUT,
            id="no answer is worse than what was found before",
        ),
    ],
)
def test_the_worst_is_told(changes: dict[str, Any], reason: HealthReason) -> None:
    assert judge(replace(GOOD, **changes), Tolerance()).reason is reason


def test_the_watchs_own_error_is_told() -> None:
    stale = replace(GOOD, watch_down_seconds=99.0, watch_error="Forbidden: no watch for you")
    assert "no watch for you" in judge(stale, Tolerance()).message


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(Outcome.UNAUTHORIZED), HealthReason.UNAUTHORIZED),
        (Reply(Outcome.FORBIDDEN), HealthReason.FORBIDDEN),
        (Reply(Outcome.THROTTLED), HealthReason.THROTTLED),
        (Reply(Outcome.SERVER_ERROR, 500, reason="InternalError"), HealthReason.SERVER_ERROR),
        (Reply(Outcome.SERVER_ERROR, 200, reason="NotKubernetes"), HealthReason.NOT_KUBERNETES),
        (Reply(Outcome.SERVER_ERROR, 404, reason="NotServed"), HealthReason.NOT_KUBERNETES),
        (Reply(Outcome.NOT_FOUND, 404), HealthReason.NOT_KUBERNETES),
        (Reply(Outcome.UNREACHABLE, reason="ConnectionRefused"), HealthReason.CONNECTION_REFUSED),
        (Reply(Outcome.UNREACHABLE, reason="CertificateInvalid"), HealthReason.CERTIFICATE_INVALID),
        (Reply(Outcome.UNREACHABLE, reason="ReplyTooLarge"), HealthReason.CONNECTION_FAILED),
    ],
    ids=str,
)
def test_each_failed_probe_has_its_reason_and_a_message(reply: Reply, reason: HealthReason) -> None:
    finding = finding_of(reply)
    assert finding.reason is reason
    assert finding.message


@pytest.mark.parametrize(
    ("version", "too_old"),
    [
        ("v1.30.9", True),
        ("v1.30.4+k3s1", True),
        ("v1.31.0", False),
        ("v1.31.0-alpha.1", False),
        ("v1.36.3-gke.100", False),
        ("1.9.3", True),
        ("v2.0.0", False),
        ("v0.0.0-master+$Format:%H$", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_versions(version: str, too_old: bool) -> None:
    finding = version_finding(version)
    assert (finding is not None) == too_old
    if finding is not None:
        assert version in finding.message
