"""Gauges that describe a state, set when /metrics is asked; nothing of it costs anything on the path of a Job."""

import asyncio

from dispatcher import metrics
from dispatcher.operator import job_tally
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.health import Health, LoopLag
from dispatcher.operator.job_tally import JobTally
from dispatcher.operator.queue import KeyQueue
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.world import utc_now
from dispatcher.operator.write_pace import WritePace


class StateMetrics:
    """Reads the parts of the process and sets their gauges."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        queue: KeyQueue,
        tally: JobTally,
        health: Health,
        lag: LoopLag,
        write_pace: WritePace,
    ) -> None:
        self._fleet = fleet
        self._queue = queue
        self._tally = tally
        self._health = health
        self._lag = lag
        self._write_pace = write_pace
        self._reconnects: dict[str, int] = {}
        self._counting = asyncio.Lock()

    async def refresh(self) -> None:
        """Set all of them."""
        async with self._counting:
            await self._tally.count_changes()
        registered = frozenset(self._fleet.clusters)
        for gone in self._reconnects.keys() - registered:
            del self._reconnects[gone]
            metrics.cluster_removed(gone)
        job_tally.publish(self._tally, registered, utc_now())
        metrics.QUEUE_DEPTH.set(self._queue.depth)
        metrics.QUEUE_RUNNING.set(len(self._queue.running))
        metrics.QUEUE_OLDEST.set(self._queue.oldest_age)
        metrics.REPORT_INTERVAL.set(self._write_pace.report_interval.total_seconds())
        metrics.LOOP_LAG.set(self._lag.worst)
        for gauge in _BY_CLUSTER:
            gauge.clear()
        metrics.WATCH_IDLE.labels("").set(self._health.watch_idle)
        now = asyncio.get_running_loop().time()
        for cluster in self._fleet.clusters.values():
            self._set_cluster(cluster, now)

    def _set_cluster(self, cluster: RegisteredCluster, now: float) -> None:
        name = cluster.name
        if name not in self._reconnects:
            self._reconnects[name] = 0
            metrics.cluster_registered(name)
        ready, reason, _message = cluster.health
        metrics.CLUSTER_READY.labels(name).set(1 if ready else 0)
        if not ready:
            metrics.CLUSTER_NOT_READY.labels(name, reason).set(1)
        metrics.CLUSTER_MIRRORS.labels(name).set(len(cluster.mirrors))
        capacity = ((cluster.manifest.get("spec") or {}).get("capacity") or {}).get("parallelism")
        if capacity is not None:
            metrics.CAPACITY_PODS.labels(name).set(capacity)
        if cluster.credentials_expiry is not None:
            metrics.CREDENTIALS_EXPIRY.labels(name).set(cluster.credentials_expiry.timestamp())
        if self._fleet.renews_token(cluster):
            metrics.CREDENTIALS_RENEWED.labels(name).set(1)
        if cluster.connection is None:
            return
        watch = cluster.connection.reflector
        if watch.last_event_at is not None:
            metrics.WATCH_IDLE.labels(name).set(max(0.0, now - watch.last_event_at))
        metrics.WATCH_RECONNECTS.labels(name).inc(max(0, watch.reconnects - self._reconnects[name]))
        self._reconnects[name] = watch.reconnects


_BY_CLUSTER = (
    metrics.CLUSTER_READY,
    metrics.CLUSTER_NOT_READY,
    metrics.CLUSTER_MIRRORS,
    metrics.CAPACITY_PODS,
    metrics.CREDENTIALS_EXPIRY,
    metrics.CREDENTIALS_RENEWED,
    metrics.WATCH_IDLE,
)
