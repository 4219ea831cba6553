"""Every metric of the dispatcher, in one place. No label holds a Job's name or UID.

``docs/metrics.md`` is generated from here. Gauges that describe a state are set when ``/metrics`` is asked
(:mod:`dispatcher.operator.state_metrics`); on the path of a Job only counters and histograms without a look-up of
labels are touched.
"""

from collections.abc import Callable

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

import dispatcher

# They double the counters' series, and Prometheus 2 has no use for them.
disable_created_metrics()  # type: ignore[no-untyped-call]

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
JOB_LATENCY_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)

BUILD_INFO = Gauge("job_dispatcher_build_info", "Version of the running dispatcher.", ["version"])
BUILD_INFO.labels(dispatcher.__version__).set(1)

# Jobs.
JOBS = Gauge(
    "job_dispatcher_jobs",
    "Jobs by phase: Pending (not yet divided), Waiting (cannot be dispatched), Running, Suspended, Complete, "
    "Failed, Terminating (being deleted).",
    ["phase"],
)
JOBS_WAITING = Gauge(
    "job_dispatcher_jobs_waiting",
    "Jobs of which all or a part waits, by the reason on their Dispatched or FullyPlaced condition.",
    ["reason"],
)
LONGEST_WAIT = Gauge(
    "job_dispatcher_longest_wait_seconds", "How long the Job that waits longest has waited; 0 when none does."
)
DISPATCH_SECONDS = Histogram(
    "job_dispatcher_dispatch_duration_seconds",
    "Time from the creation of a Job until all its first mirrors are made. It counts from when the dispatcher saw "
    "the Job, or from creationTimestamp (whole seconds) if that is over 2 s earlier.",
    buckets=JOB_LATENCY_BUCKETS,
)
WRITEBACK_SECONDS = Histogram(
    "job_dispatcher_writeback_duration_seconds",
    "Time from the first change of a mirror that was not yet on the Job until the Job's status is written.",
    buckets=JOB_LATENCY_BUCKETS,
)
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
EVENTS = Counter(
    "job_dispatcher_events_total",
    "Kubernetes Events by outcome: posted, failed, aggregated (the same as the Job's last one, or over the "
    "Job's limit), dropped (too many waited to be posted).",
    ["outcome"],
)

# Worker clusters.
SHARES = Gauge(
    "job_dispatcher_shares",
    "Shares of Jobs by cluster and state: Pending (no mirror seen yet) or the state in the placement.",
    ["cluster", "state"],
)
ACTIVE_PODS = Gauge(
    "job_dispatcher_active_pods", "Active pods of our mirrors, as last reported.", ["cluster"]
)
ASSIGNED_PODS = Gauge(
    "job_dispatcher_assigned_parallelism", "Parallelism of the live shares on the cluster.", ["cluster"]
)
CAPACITY_PODS = Gauge(
    "job_dispatcher_capacity_pods",
    "spec.capacity.parallelism of the WorkerCluster; absent where it has no bound.",
    ["cluster"],
)
COMPLETIONS = Counter(
    "job_dispatcher_completions_total", "Completions that the cluster's pods have reached.", ["cluster"]
)
POD_FAILURES = Counter("job_dispatcher_pod_failures_total", "Failed pods on the cluster.", ["cluster"])
CLUSTER_READY = Gauge(
    "job_dispatcher_cluster_ready", "1 while Jobs can be dispatched to the cluster, else 0.", ["cluster"]
)
CLUSTER_NOT_READY = Gauge(
    "job_dispatcher_cluster_not_ready",
    "1 with the reason of the WorkerCluster's Ready condition while it is not ready; absent while it is.",
    ["cluster", "reason"],
)
CLUSTER_MIRRORS = Gauge("job_dispatcher_cluster_mirrors", "Our mirrors on the cluster.", ["cluster"])
WATCH_IDLE = Gauge(
    "job_dispatcher_watch_idle_seconds",
    "Time since the last event, bookmark or list of the cluster's watch; cluster is empty for the management cluster.",
    ["cluster"],
)
WATCH_RECONNECTS = Counter(
    "job_dispatcher_watch_reconnects_total",
    "Watches on the cluster's mirrors that were opened after the first one.",
    ["cluster"],
)
PROBE_SECONDS = Histogram(
    "job_dispatcher_cluster_probe_duration_seconds",
    "Duration of the cluster's health probe, answered or not.",
    ["cluster"],
    buckets=LATENCY_BUCKETS,
)
FAILOVERS = Counter(
    "job_dispatcher_failovers_total", "Shares that were given up because this cluster was lost.", ["cluster"]
)
MOVED_COMPLETIONS = Counter(
    "job_dispatcher_moved_completions_total",
    "Completions that went to other clusters when a share left this one.",
    ["cluster"],
)
ORPHANS_REMOVED = Counter(
    "job_dispatcher_orphans_removed_total", "Mirrors removed because their Job was gone.", ["cluster"]
)
CREDENTIALS_EXPIRY = Gauge(
    "job_dispatcher_credentials_expiry_timestamp_seconds",
    "When the token or client certificate for the cluster ends, in Unix time; absent where it has no end.",
    ["cluster"],
)
CREDENTIALS_RENEWED = Gauge(
    "job_dispatcher_credentials_renewed",
    "1 while the dispatcher renews the cluster's token by itself; absent where a person has to.",
    ["cluster"],
)
TOKEN_RENEWALS = Counter(
    "job_dispatcher_token_renewals_total",
    "Tries to renew the token for a cluster, by outcome: renewed or failed.",
    ["cluster", "outcome"],
)

# Requests to API servers.
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

# The controller itself.
RECONCILE_SECONDS = Histogram(
    "job_dispatcher_reconcile_duration_seconds",
    "Time from taking a Job's key from the queue until nothing is left to do at once.",
    buckets=LATENCY_BUCKETS,
)
RECONCILES = Counter(
    "job_dispatcher_reconciles_total",
    "Looks at a Job by result: changed (something was asked for), unchanged, gone (the Job is), "
    "put_off (the management cluster has a passing trouble), error.",
    ["result"],
)
QUEUE_DEPTH = Gauge("job_dispatcher_queue_depth", "Jobs that wait to be looked at.")
QUEUE_RUNNING = Gauge("job_dispatcher_queue_running", "Jobs that are looked at now.")
QUEUE_OLDEST = Gauge(
    "job_dispatcher_queue_oldest_seconds",
    "How long the oldest key in the queue has waited; 0 when it is empty.",
)
REPORT_INTERVAL = Gauge(
    "job_dispatcher_report_interval_seconds",
    "How long new counters of a Job wait after its last write: 1, up to 5 while writes of Jobs take long.",
)
QUEUE_RETRIES = Counter(
    "job_dispatcher_queue_retries_total", "Keys that came back after a pause because work on them failed."
)
LOOP_LAG = Gauge(
    "job_dispatcher_event_loop_lag_seconds", "The longest delay of the event loop in the last ten seconds."
)
LEADER = Gauge(
    "job_dispatcher_leader", "1 while this process holds the shard's Lease and may write, else 0.", ["shard"]
)
LEASE_TRANSITIONS = Counter(
    "job_dispatcher_lease_transitions_total",
    "Changes of this process' hold on a shard's Lease, by event: acquired, released or lost.",
    ["shard", "event"],
)

_CHANGED = RECONCILES.labels("changed")
_UNCHANGED = RECONCILES.labels("unchanged")
_GONE = RECONCILES.labels("gone")
_ERROR = RECONCILES.labels("error")
_PUT_OFF = RECONCILES.labels("put_off")
EVENT_POSTED = EVENTS.labels("posted")
EVENT_FAILED = EVENTS.labels("failed")
EVENT_AGGREGATED = EVENTS.labels("aggregated")
EVENT_DROPPED = EVENTS.labels("dropped")


def status_write(code: int) -> None:
    """Count the answer to a status write by its HTTP code; 0 (no answer) is counted as a request only."""
    if 200 <= code < 300:
        STATUS_WRITES.inc()
    elif code == 409:
        STATUS_WRITE_CONFLICTS.inc()
    elif code in (400, 403, 422):
        STATUS_WRITES_REJECTED.labels(str(code)).inc()


def reconciled(seconds: float, *, changed: bool) -> None:
    """Count one look at a Job; ``changed``: whether it asked for something."""
    RECONCILE_SECONDS.observe(seconds)
    (_CHANGED if changed else _UNCHANGED).inc()


def reconcile_found_nothing() -> None:
    """Count a look at a key whose Job is gone."""
    _GONE.inc()


def reconcile_failed() -> None:
    """Count a look at a Job that ended in an error; its key comes back after a pause."""
    _ERROR.inc()
    QUEUE_RETRIES.inc()


def reconcile_put_off() -> None:
    """Count a look at a Job that waits for the management cluster; its key comes back after a pause."""
    _PUT_OFF.inc()
    QUEUE_RETRIES.inc()


def share_lost(cluster: str) -> None:
    """A share was given up because its cluster was lost."""
    FAILOVERS.labels(cluster).inc()


def completions_moved(cluster: str, completions: int) -> None:
    """So many completions of a share that left ``cluster`` went to other clusters."""
    MOVED_COMPLETIONS.labels(cluster).inc(completions)


def cluster_registered(cluster: str) -> None:
    """Show the cluster's counters from 0 on, so that their first increase is seen as one."""
    for counter in _BY_CLUSTER:
        counter.labels(cluster)


def cluster_removed(cluster: str) -> None:
    """Drop all series of a cluster that is not registered any more."""
    for metric in (*_BY_CLUSTER, PROBE_SECONDS, API_REQUESTS, API_REQUEST_SECONDS, TOKEN_RENEWALS):
        metric.remove_by_labels({"cluster": cluster})


def observe_requests(cluster: str) -> Callable[[str, str, int, float], None]:
    """The client's hook that counts one cluster's requests. ``resource`` and ``code`` have few values each."""
    counters: dict[tuple[str, str, int], Counter] = {}
    durations: dict[str, Histogram] = {}

    def observe(method: str, resource: str, code: int, seconds: float) -> None:
        counter = counters.get((method, resource, code))
        if counter is None:
            counter = API_REQUESTS.labels(cluster, method, resource, str(code))
            counters[(method, resource, code)] = counter
        counter.inc()
        duration = durations.get(method)
        if duration is None:
            duration = durations[method] = API_REQUEST_SECONDS.labels(cluster, method)
        duration.observe(seconds)

    return observe


_BY_CLUSTER = (COMPLETIONS, POD_FAILURES, WATCH_RECONNECTS, FAILOVERS, MOVED_COMPLETIONS, ORPHANS_REMOVED)
