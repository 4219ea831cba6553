"""Every metric of the dispatcher, in one place. No label holds a Job's name or UID."""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram

import dispatcher

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)

BUILD_INFO = Gauge("job_dispatcher_build_info", "Version of the running dispatcher.", ["version"])
BUILD_INFO.labels(dispatcher.__version__).set(1)

STATUS_WRITES = Counter(
    "job_dispatcher_status_writes_total", "Writes of a Job's status and placement that were accepted."
)
STATUS_WRITES_REJECTED = Counter(
    "job_dispatcher_status_writes_rejected_total",
    "Answers 400, 403 and 422 to a status write; any is a fault of the dispatcher or its permissions.",
    ["code"],
)
STATUS_WRITE_CONFLICTS = Counter(
    "job_dispatcher_status_write_conflicts_total",
    "Answers 409 to a status write: the Job had changed meanwhile and is looked at again.",
)
API_REQUESTS = Counter(
    "job_dispatcher_api_requests_total",
    "Requests to API servers; cluster is empty for the management cluster, code 0 for no answer.",
    ["cluster", "verb", "resource", "code"],
)
API_REQUEST_SECONDS = Histogram(
    "job_dispatcher_api_request_duration_seconds",
    "Duration of requests to API servers.",
    ["cluster", "verb"],
    buckets=LATENCY_BUCKETS,
)
RECONCILE_SECONDS = Histogram(
    "job_dispatcher_reconcile_duration_seconds",
    "Time from taking a Job's key from the queue until nothing is left to do at once.",
    buckets=LATENCY_BUCKETS,
)
QUEUE_DEPTH = Gauge("job_dispatcher_queue_depth", "Jobs that wait to be looked at.")
CLUSTER_READY = Gauge(
    "job_dispatcher_cluster_ready", "1 while Jobs can be dispatched to the cluster, else 0.", ["cluster"]
)
LEADER = Gauge(
    "job_dispatcher_leader", "1 while this process holds the shard's Lease and may write, else 0.", ["shard"]
)
LEASE_TRANSITIONS = Counter(
    "job_dispatcher_lease_transitions_total",
    "Changes of this process' hold on a shard's Lease, by event: acquired, released or lost.",
    ["shard", "event"],
)
ORPHANS_REMOVED = Counter(
    "job_dispatcher_orphans_removed_total", "Mirrors removed because their Job was gone.", ["cluster"]
)
TOKEN_EXPIRY = Gauge(
    "job_dispatcher_token_expiry_timestamp_seconds", "When the token for a cluster ends.", ["cluster"]
)
TOKEN_RENEWALS = Counter(
    "job_dispatcher_token_renewals_total",
    "Tries to renew the token for a cluster, by outcome: renewed or failed.",
    ["cluster", "outcome"],
)


def status_write(code: int) -> None:
    """Count the answer to a status write by its HTTP code; 0 (no answer) is counted as a request only."""
    if 200 <= code < 300:
        STATUS_WRITES.inc()
    elif code == 409:
        STATUS_WRITE_CONFLICTS.inc()
    elif code in (400, 403, 422):
        STATUS_WRITES_REJECTED.labels(str(code)).inc()


def observe_requests(cluster: str) -> Callable[[str, str, int, float], None]:
    """The client's hook that counts one cluster's requests."""

    def observe(method: str, resource: str, code: int, seconds: float) -> None:
        API_REQUESTS.labels(cluster, method, resource, str(code)).inc()
        API_REQUEST_SECONDS.labels(cluster, method).observe(seconds)

    return observe
