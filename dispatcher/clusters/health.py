"""Whether a cluster can be used, and if not, why: one pure judgement on what probes and watches found."""

import dataclasses
import datetime
import enum
from collections.abc import Mapping, Sequence
from typing import Final

from dispatcher.clusters.reply import Outcome, Reply


class HealthReason(enum.StrEnum):
    """Reasons of a cluster's Ready condition that arise while connected or connecting."""

    CONNECTED = "Connected"
    CONNECTING = "Connecting"
    CONNECTION_REFUSED = "ConnectionRefused"
    CONNECTION_CLOSED = "ConnectionClosed"
    CONNECTION_FAILED = "ConnectionFailed"
    NAME_NOT_RESOLVED = "NameNotResolved"
    PROXY_ERROR = "ProxyError"
    TIMEOUT = "Timeout"
    TLS_ERROR = "TLSError"
    CERTIFICATE_INVALID = "CertificateInvalid"
    CREDENTIALS_UNAVAILABLE = "CredentialsUnavailable"
    UNAUTHORIZED = "Unauthorized"
    FORBIDDEN = "Forbidden"
    THROTTLED = "Throttled"
    SERVER_ERROR = "ServerError"
    NOT_KUBERNETES = "NotKubernetes"
    VERSION_TOO_OLD = "VersionTooOld"
    CLUSTER_CHANGED = "ClusterChanged"
    MISSING_PERMISSIONS = "MissingPermissions"
    NOT_SYNCED = "NotSynced"
    WATCH_STALE = "WatchStale"
    INTERNAL_ERROR = "InternalError"


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """The state of one cluster's connection. ``since``: when ``ready`` last changed, by the injected clock."""

    ready: bool
    reason: HealthReason
    message: str
    since: datetime.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. ``message`` says what to do about it where a person can do something."""

    reason: HealthReason
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeFailures:
    """Probes that failed in a row."""

    first: Finding
    """Of the first one with the present reason: a message that changes each time would be no news."""
    count: int
    seconds: float
    """Since the first of them was sent."""


@dataclasses.dataclass(frozen=True, slots=True)
class Evidence:
    """All that a judgement rests on."""

    probed: bool = False
    """A probe has succeeded at least once on these credentials."""
    failures: ProbeFailures | None = None
    identity: Finding | None = None
    """Another cluster than before answers."""
    standing: Sequence[Finding] = ()
    """Found when connecting and true until the next check: an old version, missing permissions."""
    synced: bool = False
    watch_down_seconds: float = 0.0
    """0 while a watch is open."""
    watch_error: str = ""
    internal_error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Tolerance:
    """How much is put up with before a cluster that was ready is called not ready."""

    probes: int = 3
    """Failed probes in a row; one lost packet is no outage."""
    throttled_seconds: float = 30.0
    """429 means alive; only when nothing else comes for this long is the cluster of no use."""
    watch_seconds: float = 20.0
    """Without an open watch."""


def judge(evidence: Evidence, tolerance: Tolerance) -> Finding:
    """The one thing to tell about a cluster: the worst that is wrong, or ``CONNECTED``.

    What makes acting on the cluster unsafe comes first, then what makes it impossible.
    """
    if evidence.identity is not None:
        return evidence.identity
    if evidence.internal_error:
        return Finding(HealthReason.INTERNAL_ERROR, evidence.internal_error)
    failures = evidence.failures
    if failures is not None and (not evidence.probed or _beyond(failures, tolerance)):
        return failures.first
    if not evidence.probed:
        return Finding(HealthReason.CONNECTING, "no answer from the API server yet")
    if evidence.standing:
        return evidence.standing[0]
    suffix = f": {evidence.watch_error}" if evidence.watch_error else ""
    if not evidence.synced:
        return Finding(HealthReason.NOT_SYNCED, f"the mirrors have not been listed yet{suffix}")
    if evidence.watch_down_seconds > tolerance.watch_seconds:
        return Finding(HealthReason.WATCH_STALE, f"the mirrors can not be watched{suffix}")
    return Finding(HealthReason.CONNECTED, "the API server answers and the mirrors are watched")


def _beyond(failures: ProbeFailures, tolerance: Tolerance) -> bool:
    if failures.first.reason is HealthReason.THROTTLED:
        return failures.seconds >= tolerance.throttled_seconds
    return failures.count >= tolerance.probes


_ADVICE: Final[Mapping[HealthReason, str]] = {
    HealthReason.UNAUTHORIZED: "the credentials are not accepted: put fresh ones into the kubeconfig Secret",
    HealthReason.FORBIDDEN: "the account lacks permissions: grant them on the worker cluster",
    HealthReason.CERTIFICATE_INVALID: "check certificate-authority-data, server and tls-server-name in the kubeconfig",
    HealthReason.NOT_KUBERNETES: "check the server URL in the kubeconfig",
    HealthReason.NAME_NOT_RESOLVED: "check the host in the kubeconfig's server URL",
}


def finding_of(reply: Reply) -> Finding:
    """What a probe's failed reply says about the cluster."""
    reason = _reason(reply)
    advice = _ADVICE.get(reason)
    text = reply.message or reply.reason or reply.outcome.value
    return Finding(reason, f"{advice} ({text})" if advice else text)


def _reason(reply: Reply) -> HealthReason:
    match reply.outcome:
        case Outcome.UNAUTHORIZED:
            return HealthReason.UNAUTHORIZED
        case Outcome.FORBIDDEN:
            return HealthReason.FORBIDDEN
        case Outcome.THROTTLED:
            return HealthReason.THROTTLED
        case Outcome.UNREACHABLE:
            known = reply.reason in HealthReason.__members__.values()
            return HealthReason(reply.reason) if known else HealthReason.CONNECTION_FAILED
        case Outcome.SERVER_ERROR if reply.reason not in ("NotKubernetes", "NotServed"):
            return HealthReason.SERVER_ERROR
        case _:
            # For example a kube-system that is not found: no cluster of Kubernetes is without.
            return HealthReason.NOT_KUBERNETES
