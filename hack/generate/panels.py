"""What is on the dashboards."""
# ruff: noqa: E501 - an expression is read in one piece

from __future__ import annotations

from hack.generate.dashboards import Dashboard, Panel, Query

J = 'job=~"$job"'
C = f'{J},cluster=~"$cluster"'


def quantiles(metric: str, selector: str, *, by: str = "") -> list[Query]:
    """Median, 90 % and 99 % of a histogram."""
    group = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        Query(
            f"histogram_quantile({share}, sum by ({group}) (rate({metric}_bucket{{{selector}}}[$__rate_interval])))",
            f"p{share * 100:g}{legend}",
        )
        for share in (0.5, 0.9, 0.99)
    ]


def rate(metric: str, selector: str, by: str) -> Query:
    """Events a second."""
    legend = " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return Query(f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))", legend)


FLEET = Dashboard(
    "job-dispatcher-fleet",
    "Job Dispatcher / Fleet",
    "Which cluster is in trouble, which Jobs wait and why, how late status is.",
    [
        Panel(
            "Clusters not ready",
            "WorkerClusters that nothing can be dispatched to now.",
            "short",
            [Query(f"count(job_dispatcher_cluster_ready{{{C}}} == 0) or vector(0)")],
            (1, 2),
            "stat",
            4,
        ),
        Panel(
            "Jobs waiting",
            "Jobs of which all or a part waits for a cluster.",
            "short",
            [Query(f"sum(job_dispatcher_jobs_waiting{{{J}}}) or vector(0)")],
            (1, 50),
            "stat",
            4,
        ),
        Panel(
            "Longest wait",
            "How long the Job that waits longest has waited.",
            "s",
            [Query(f"max(job_dispatcher_longest_wait_seconds{{{J}}})")],
            (300, 900),
            "stat",
            4,
        ),
        Panel(
            "Status late by",
            "90 % of the mirrors' changes are on the Job within this time.",
            "s",
            [quantiles("job_dispatcher_writeback_duration_seconds", J)[1]],
            (2, 10),
            "stat",
            4,
            empty="no mirror changed in the interval",
        ),
        Panel(
            "Rejected writes",
            "Status writes that the API server rejected in the last hour; any is a fault.",
            "short",
            [Query(f"sum(increase(job_dispatcher_status_writes_rejected_total{{{J}}}[1h])) or vector(0)")],
            (1, 1),
            "stat",
            4,
        ),
        Panel(
            "Shards without a leader",
            "Shards that no process works on.",
            "short",
            [Query(f"count(sum by (shard) (job_dispatcher_leader{{{J}}}) == 0) or vector(0)")],
            (1, 1),
            "stat",
            4,
        ),
        Panel(
            "Cluster state",
            "1 is ready, 0 is not.",
            "short",
            [Query(f"min by (cluster) (job_dispatcher_cluster_ready{{{C}}})", "{{cluster}}")],
            (0, 1),
        ),
        Panel(
            "Why clusters are not ready",
            "Reason of the Ready condition, while it is False.",
            "short",
            [
                Query(
                    f"max by (cluster, reason) (job_dispatcher_cluster_not_ready{{{C}}})",
                    "{{cluster}} {{reason}}",
                )
            ],
            (1, 1),
            empty="every cluster is ready",
        ),
        Panel(
            "Why Jobs wait",
            "Jobs by reason of their Dispatched or FullyPlaced condition.",
            "short",
            [Query(f"sum by (reason) (job_dispatcher_jobs_waiting{{{J}}})", "{{reason}}")],
            (1, 50),
            stacked=True,
            empty="no Job waits",
        ),
        Panel(
            "Jobs by phase",
            "All Jobs of the dispatcher, finished ones until they are deleted.",
            "short",
            [Query(f"sum by (phase) (job_dispatcher_jobs{{{J}}})", "{{phase}}")],
            (10000, 100000),
            stacked=True,
        ),
        Panel(
            "Active pods",
            "Active pods by cluster, as last reported.",
            "short",
            [Query(f"sum by (cluster) (job_dispatcher_active_pods{{{C}}})", "{{cluster}}")],
            (10000, 100000),
            stacked=True,
        ),
        Panel(
            "Completions",
            "Completions a second by cluster.",
            "ops",
            [rate("job_dispatcher_completions_total", C, "cluster")],
            (1000, 10000),
            stacked=True,
        ),
        Panel(
            "Failed pods",
            "Failed pods a second by cluster.",
            "ops",
            [rate("job_dispatcher_pod_failures_total", C, "cluster")],
            (1, 10),
        ),
        Panel(
            "Shares that moved",
            "Shares given up with their cluster, in the last hour.",
            "short",
            [Query(f"sum by (cluster) (increase(job_dispatcher_failovers_total{{{C}}}[1h]))", "{{cluster}}")],
            (1, 10),
        ),
        Panel(
            "Completions that moved",
            "Completions that left a cluster for others, in the last hour.",
            "short",
            [
                Query(
                    f"sum by (cluster) (increase(job_dispatcher_moved_completions_total{{{C}}}[1h]))",
                    "{{cluster}}",
                )
            ],
            (1, 1000),
        ),
        Panel(
            "Credentials end in",
            "Time until the token or certificate of a cluster ends.",
            "s",
            [
                Query(
                    f"min by (cluster) (job_dispatcher_credentials_expiry_timestamp_seconds{{{C}}}) - time()",
                    "{{cluster}}",
                )
            ],
            (7200, 604800),
            empty="credentials without an end",
        ),
    ],
)
CLUSTER = Dashboard(
    "job-dispatcher-cluster",
    "Job Dispatcher / One cluster",
    "A worker cluster as the dispatcher sees it: connection, work, requests.",
    [
        Panel(
            "Ready",
            "1 is ready, 0 is not.",
            "short",
            [Query(f"min by (cluster) (job_dispatcher_cluster_ready{{{C}}})", "{{cluster}}")],
            (0, 1),
            "stat",
            6,
        ),
        Panel(
            "Last news",
            "Time since the last event or bookmark of its watch; bookmarks come every minute.",
            "s",
            [Query(f"max by (cluster) (job_dispatcher_watch_idle_seconds{{{C}}})", "{{cluster}}")],
            (90, 150),
            "stat",
            6,
        ),
        Panel(
            "Mirrors",
            "Our Jobs on the cluster, finished ones too.",
            "short",
            [Query(f"max by (cluster) (job_dispatcher_cluster_mirrors{{{C}}})", "{{cluster}}")],
            (10000, 50000),
            "stat",
            6,
        ),
        Panel(
            "Orphans removed",
            "Mirrors removed in the last day because their Job was gone.",
            "short",
            [
                Query(
                    f"sum by (cluster) (increase(job_dispatcher_orphans_removed_total{{{C}}}[1d]))",
                    "{{cluster}}",
                )
            ],
            (1, 100),
            "stat",
            6,
        ),
        Panel(
            "Shares by state",
            "Pending ones have no mirror yet; Draining, Lost and Removing ones leave.",
            "short",
            [Query(f"sum by (state) (job_dispatcher_shares{{{C}}})", "{{state}}")],
            (1000, 10000),
            stacked=True,
        ),
        Panel(
            "Capacity and use",
            "Active pods and what the live shares may use, beside spec.capacity.",
            "short",
            [
                Query(f"sum by (cluster) (job_dispatcher_active_pods{{{C}}})", "active {{cluster}}"),
                Query(
                    f"sum by (cluster) (job_dispatcher_assigned_parallelism{{{C}}})", "assigned {{cluster}}"
                ),
                Query(f"max by (cluster) (job_dispatcher_capacity_pods{{{C}}})", "capacity {{cluster}}"),
            ],
            (1000, 10000),
            empty="capacity: the WorkerCluster has no bound",
        ),
        Panel(
            "Completions and failures",
            "A second.",
            "ops",
            [
                Query(
                    f"sum by (cluster) (rate(job_dispatcher_completions_total{{{C}}}[$__rate_interval]))",
                    "completions {{cluster}}",
                ),
                Query(
                    f"sum by (cluster) (rate(job_dispatcher_pod_failures_total{{{C}}}[$__rate_interval]))",
                    "failures {{cluster}}",
                ),
            ],
            (1000, 10000),
        ),
        Panel(
            "Probe",
            "Duration of the health probe, answered or not.",
            "s",
            quantiles("job_dispatcher_cluster_probe_duration_seconds", C, by="cluster"),
            (0.5, 2),
        ),
        Panel(
            "Requests by code",
            "Requests a second; code 0 is no answer.",
            "reqps",
            [rate("job_dispatcher_api_requests_total", C, "cluster, code")],
            (50, 200),
        ),
        Panel(
            "Request duration",
            "By verb, 90 %.",
            "s",
            [
                Query(
                    f"histogram_quantile(0.9, sum by (le, verb) (rate(job_dispatcher_api_request_duration_seconds_bucket{{{C}}}[$__rate_interval])))",
                    "{{verb}}",
                )
            ],
            (0.5, 2),
        ),
        Panel(
            "Watch reconnects",
            "Watches opened anew, a second.",
            "ops",
            [rate("job_dispatcher_watch_reconnects_total", C, "cluster")],
            (0.05, 0.5),
        ),
        Panel(
            "Token renewals",
            "By outcome, in the last day.",
            "short",
            [
                Query(
                    f"sum by (cluster, outcome) (increase(job_dispatcher_token_renewals_total{{{C}}}[1d]))",
                    "{{cluster}} {{outcome}}",
                )
            ],
            (100, 1000),
            empty="no token was due, or renewal is off",
        ),
    ],
)
LATENCY = Dashboard(
    "job-dispatcher-latency",
    "Job Dispatcher / Dispatch and writeback",
    "From a Job's creation to its mirrors, and from a mirror's change to the Job's status.",
    [
        Panel(
            "Dispatch",
            "From the creation of a Job until all its first mirrors are made.",
            "s",
            quantiles("job_dispatcher_dispatch_duration_seconds", J),
            (1, 10),
            width=12,
            empty="no Job was dispatched in the interval",
        ),
        Panel(
            "Writeback",
            "From the first change of a mirror until the Job's status is written.",
            "s",
            quantiles("job_dispatcher_writeback_duration_seconds", J),
            (2, 10),
            width=12,
            empty="no mirror changed in the interval",
        ),
        Panel(
            "Jobs dispatched",
            "A second.",
            "ops",
            [
                Query(
                    f"sum(rate(job_dispatcher_dispatch_duration_seconds_count{{{J}}}[$__rate_interval]))",
                    "dispatched",
                )
            ],
            (100, 1000),
        ),
        Panel(
            "Status writes",
            "Accepted, in conflict and rejected, a second.",
            "ops",
            [
                Query(f"sum(rate(job_dispatcher_status_writes_total{{{J}}}[$__rate_interval]))", "accepted"),
                Query(
                    f"sum(rate(job_dispatcher_status_write_conflicts_total{{{J}}}[$__rate_interval]))",
                    "conflicts",
                ),
                Query(
                    f"sum by (code) (rate(job_dispatcher_status_writes_rejected_total{{{J}}}[$__rate_interval]))",
                    "rejected {{code}}",
                ),
            ],
            (100, 1000),
            empty="rejected: none ever was",
        ),
        Panel(
            "Management requests",
            "Duration by verb, 90 %.",
            "s",
            [
                Query(
                    f'histogram_quantile(0.9, sum by (le, verb) (rate(job_dispatcher_api_request_duration_seconds_bucket{{{J},cluster=""}}[$__rate_interval])))',
                    "{{verb}}",
                )
            ],
            (0.5, 2),
        ),
    ],
)
CONTROLLER = Dashboard(
    "job-dispatcher-controller",
    "Job Dispatcher / Controller",
    "The process: queue, reconciles, requests, leader, CPU and memory.",
    [
        Panel(
            "Leader",
            "1 for each shard that a process holds.",
            "short",
            [Query(f"sum by (shard, instance) (job_dispatcher_leader{{{J}}})", "{{shard}} {{instance}}")],
            (0, 1),
        ),
        Panel(
            "Lease changes",
            "By event, in the last hour.",
            "short",
            [
                Query(
                    f"sum by (shard, event) (increase(job_dispatcher_lease_transitions_total{{{J}}}[1h]))",
                    "{{shard}} {{event}}",
                )
            ],
            (2, 10),
            empty="no leader election",
        ),
        Panel(
            "Version",
            "Of each running process.",
            "short",
            [Query(f"count by (version) (job_dispatcher_build_info{{{J}}})", "{{version}}")],
            (100, 1000),
            "stat",
        ),
        Panel(
            "Queue",
            "Keys that wait, and keys that are worked on.",
            "short",
            [
                Query(f"sum(job_dispatcher_queue_depth{{{J}}})", "waiting"),
                Query(f"sum(job_dispatcher_queue_running{{{J}}})", "running"),
            ],
            (100, 1000),
        ),
        Panel(
            "Oldest key",
            "How long the oldest key has waited.",
            "s",
            [Query(f"max(job_dispatcher_queue_oldest_seconds{{{J}}})", "oldest")],
            (10, 60),
        ),
        Panel(
            "Report interval",
            "How long new counters of a Job wait after its last write; more while writes take long.",
            "s",
            [Query(f"max by (instance) (job_dispatcher_report_interval_seconds{{{J}}})", "{{instance}}")],
            (2, 4),
        ),
        Panel(
            "Reconciles",
            "Looks at Jobs by result, and retries, a second.",
            "ops",
            [
                rate("job_dispatcher_reconciles_total", J, "result"),
                Query(f"sum(rate(job_dispatcher_queue_retries_total{{{J}}}[$__rate_interval]))", "retries"),
            ],
            (500, 2000),
        ),
        Panel(
            "Reconcile duration",
            "Until nothing is left to do at once.",
            "s",
            quantiles("job_dispatcher_reconcile_duration_seconds", J),
            (0.5, 5),
        ),
        Panel(
            "Events",
            "Kubernetes Events by outcome, a second.",
            "ops",
            [rate("job_dispatcher_events_total", J, "outcome")],
            (50, 200),
        ),
        Panel(
            "Event loop lag",
            "The longest delay of the event loop in ten seconds.",
            "s",
            [Query(f"max by (instance) (job_dispatcher_event_loop_lag_seconds{{{J}}})", "{{instance}}")],
            (0.2, 1),
        ),
        Panel(
            "CPU",
            "Cores in use.",
            "short",
            [Query(f"rate(process_cpu_seconds_total{{{J}}}[$__rate_interval])", "{{instance}}")],
            (0.7, 0.95),
        ),
        Panel(
            "Memory",
            "Resident.",
            "bytes",
            [Query(f"process_resident_memory_bytes{{{J}}}", "{{instance}}")],
            (400e6, 900e6),
        ),
        Panel(
            "Management watch",
            "Time since the last event or bookmark of the management cluster.",
            "s",
            [
                Query(
                    f'max by (instance) (job_dispatcher_watch_idle_seconds{{{J},cluster=""}})', "{{instance}}"
                )
            ],
            (90, 150),
        ),
    ],
)
ALL = (FLEET, CLUSTER, LATENCY, CONTROLLER)
