"""One worker cluster: its client, its mirrors' cache, and whether it can be used.

Each connection runs in a task group of its own. Whatever goes wrong in it becomes its ``health``; nothing is
raised towards other clusters.
"""

import asyncio
import dataclasses
import datetime
import logging
import math
import random
from collections.abc import Callable, Sequence

from dispatcher import metrics
from dispatcher.clusters import jobs, prerequisites
from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.health import (
    Evidence,
    Finding,
    Health,
    HealthReason,
    ProbeFailures,
    Tolerance,
    finding_of,
    judge,
)
from dispatcher.clusters.permissions import MIRROR_ACCESS, Access
from dispatcher.clusters.reflector import Reflector, WatchSettings
from dispatcher.clusters.reply import Outcome, Reply

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Times of the active probe, in seconds."""

    interval: float = 2.0
    """Between probes while they succeed."""
    retry: float = 1.0
    """After the first failed probe; grows to ``retry_cap``."""
    retry_cap: float = 3.0
    """Bounds how long a recovery goes unnoticed."""
    timeout: float = 5.0
    recheck: float = 300.0
    """Between checks of version and permissions."""
    recheck_failed: float = 10.0
    """The same, where the last one found something."""
    close_grace: float = 10.0
    """For requests under way on credentials that were replaced."""
    restart: float = 5.0
    """Before the connection's tasks are started again after an error of our own."""
    tolerance: Tolerance = dataclasses.field(default_factory=Tolerance)


class WorkerConnection:
    """The connection to one worker cluster.

    ``cache`` receives the Jobs in all namespaces that match ``label_selector``. ``expected_uid``: the UID that
    the cluster's ``kube-system`` namespace is known to have; None takes that of the first answer. ``now``: wall
    clock for ``health.since``. ``on_health`` is called synchronously when ``health`` changed.

    The probe is a GET of ``kube-system``: it passes authentication, authorization and the store, and tells which
    cluster it is.
    """

    def __init__(
        self,
        name: str,
        api: ApiServer,
        cache: ObjectCache,
        *,
        label_selector: str,
        expected_uid: str | None = None,
        now: Callable[[], datetime.datetime],
        on_health: Callable[[Health], None] | None = None,
        needed: Sequence[Access] = MIRROR_ACCESS,
        probe: ProbeSettings | None = None,
        watch: WatchSettings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.api = api
        """The client to use now; read it anew for each request, since ``replace`` changes it."""
        self.cache = cache
        self.cluster_uid = expected_uid
        """UID of the cluster's ``kube-system``; None until the first answer."""
        self.server_version = ""
        """``gitVersion`` of the API server; empty until known."""
        self._now = now
        self._on_health = on_health
        self._needed = needed
        self._settings = probe or ProbeSettings()
        self._rng = rng or random.Random()
        self.reflector = Reflector(
            api,
            jobs.jobs_path(),
            cache,
            label_selector=label_selector,
            settings=watch,
            rng=self._rng,
            verify=self._verify,
            on_state=self._assess,
        )
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._newest: ApiServer | None = api
        """What ``replace`` was given last; None after ``stop``."""
        self._probed = False
        self._identity: Finding | None = None
        self._standing: Sequence[Finding] = ()
        self._checked_at = -math.inf
        self._check_due = -math.inf
        self._failures: ProbeFailures | None = None
        self._failing_since = 0.0
        self._internal_error = ""
        self.health = Health(False, HealthReason.CONNECTING, "not started", now())

    def start(self) -> None:
        """Begin to connect. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"cluster {self.name}")

    async def stop(self) -> None:
        """End the tasks and close the connections. ``health`` and ``cache`` stay as they are."""
        self._newest = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        for task in tuple(self._closing):
            task.cancel()
        if self._closing:
            await asyncio.wait(self._closing)
        await self.api.close()

    async def replace(self, api: ApiServer) -> None:
        """Go on with other credentials. The cache stays; requests under way on the old ones may end.

        The new client is asked which cluster it leads to before it is used. Does not raise for what it answers.
        Of calls that overlap the last one counts.
        """
        self._newest = api
        reply = await jobs.get_namespace(api, "kube-system", timeout=self._settings.timeout)
        if self._newest is not api:
            await api.close()
            return
        old, self.api = self.api, api
        self._probed = False
        self._failures = None
        self._check_due = -math.inf
        self._identify(reply)
        self._record(reply)
        self.reflector.use(api)
        self._wake.set()
        closing = asyncio.create_task(old.close(grace=self._settings.close_grace))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def note_failure(self, reply: Reply) -> None:
        """A request elsewhere failed in a way that may be the cluster's: probe now instead of at the next turn."""
        if reply.outcome in (Outcome.UNREACHABLE, Outcome.SERVER_ERROR, Outcome.UNAUTHORIZED):
            self._wake.set()
        elif reply.outcome is Outcome.FORBIDDEN:
            # Perhaps a quota, so not at once each time.
            self._check_due = min(self._check_due, self._checked_at + self._settings.recheck_failed)
            self._wake.set()

    def retry_now(self) -> None:
        """The object or its Secret changed, or a person asks: end every backoff and check everything again."""
        self._check_due = -math.inf
        self.reflector.kick()
        self._wake.set()

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self.reflector.run(), name=f"watch {self.name}")
                    group.create_task(self._probe_forever(), name=f"probe {self.name}")
            except* Exception as errors:
                logger.exception("connection failed", extra={"cluster": self.name}, exc_info=errors)
                self._internal_error = (
                    f"an error of the controller itself: {type(errors.exceptions[0]).__name__}"
                )
                self._assess()
            await asyncio.sleep(self._settings.restart)
            self._internal_error = ""

    async def _probe_forever(self) -> None:
        while True:
            self._wake.clear()
            await self._probe()
            failed = self._failures.count if self._failures else 0
            wait = self._settings.interval
            if failed:
                wait = min(self._settings.retry * 2 ** min(failed - 1, 8), self._settings.retry_cap)
            wait *= 1 - self._rng.random() / 5
            # A woken probe still keeps this distance: many requests fail at once when a cluster does.
            distance = min(wait, self._settings.retry / 2)
            await asyncio.sleep(distance)
            try:
                async with asyncio.timeout(wait - distance):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _probe(self) -> None:
        api = self.api
        started = _loop_time()
        reply = await jobs.get_namespace(api, "kube-system", timeout=self._settings.timeout)
        metrics.PROBE_SECONDS.labels(self.name).observe(_loop_time() - started)
        if api is not self.api:
            return  # replaced meanwhile: this says nothing about the new credentials
        self._identify(reply)
        self._record(reply)
        if reply.ok and self._identity is None and _loop_time() >= self._check_due:
            await self._check_prerequisites(api)
        self._assess()

    def _identify(self, reply: Reply) -> None:
        """Compare the cluster's UID, or learn it."""
        if not reply.ok:
            return
        uid = str((reply.body or {}).get("metadata", {}).get("uid") or "")
        if self.cluster_uid is None and uid:
            self.cluster_uid = uid
        if uid == self.cluster_uid:
            if self._identity is not None:
                self._identity = None
                self.reflector.kick()
            return
        if self._identity is None:
            self._identity = Finding(
                HealthReason.CLUSTER_CHANGED,
                f"the kubeconfig leads to another cluster (kube-system has UID {uid}, not {self.cluster_uid}): "
                "restore the right one, or register this one under a new name",
            )
            self.reflector.invalidate()

    def _record(self, reply: Reply) -> None:
        """Count the probe's result."""
        if reply.ok:
            over, self._failures = self._failures, None
            self._probed = True
            if over is not None and over.first.reason is not HealthReason.THROTTLED:
                # The watch may hang on a connection that died in the outage.
                self.reflector.reconnect()
                if over.count >= self._settings.tolerance.probes:
                    self._check_due = -math.inf  # perhaps it was an upgrade
        else:
            finding = finding_of(reply)
            previous = self._failures
            if previous is None:
                self._failing_since = _loop_time()
            if previous is not None and previous.first.reason is finding.reason:
                finding = previous.first
            count = previous.count + 1 if previous else 1
            self._failures = ProbeFailures(finding, count, _loop_time() - self._failing_since)
        self._assess()

    async def _verify(self) -> Reply:
        """Asked by the reflector before each list: is it still the same cluster?"""
        api = self.api
        reply = await jobs.get_namespace(api, "kube-system", timeout=self._settings.timeout)
        if api is self.api:
            self._identify(reply)
        if reply.ok and self._identity is not None:
            return Reply(Outcome.CONFLICT, reason=self._identity.reason, message=self._identity.message)
        return reply

    async def _check_prerequisites(self, api: ApiServer) -> None:
        """Version and permissions."""
        found = await prerequisites.check(api, self._needed, timeout=self._settings.timeout)
        if api is not self.api:
            return
        self.server_version = found.server_version or self.server_version
        self._standing = found.findings
        self._checked_at = _loop_time()
        wait = self._settings.recheck if found.satisfied else self._settings.recheck_failed
        self._check_due = self._checked_at + wait

    def _assess(self) -> None:
        """Form the health anew and tell if it changed."""
        reflector = self.reflector
        error = reflector.last_error
        down_since = reflector.disconnected_at
        finding = judge(
            Evidence(
                probed=self._probed and self._checked_at > -math.inf,
                failures=self._failures,
                identity=self._identity,
                standing=self._standing,
                synced=reflector.synced.is_set(),
                watch_down_seconds=0.0 if down_since is None else _loop_time() - down_since,
                watch_error=f"{error.reason}: {error.message}" if error else "",
                internal_error=self._internal_error,
            ),
            self._settings.tolerance,
        )
        ready = finding.reason is HealthReason.CONNECTED
        old = self.health
        if (ready, finding.reason, finding.message) == (old.ready, old.reason, old.message):
            return
        since = old.since if ready == old.ready else self._now()
        self.health = Health(ready, finding.reason, finding.message, since)
        if ready != old.ready or finding.reason != old.reason:
            logger.info(
                "cluster changed",
                extra={
                    "cluster": self.name,
                    "ready": ready,
                    "reason": finding.reason,
                    "detail": finding.message,
                },
            )
        if self._on_health is not None:
            try:
                self._on_health(self.health)
            except Exception:
                logger.exception("a listener to the health failed", extra={"cluster": self.name})


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
