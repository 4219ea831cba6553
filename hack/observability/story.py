"""Work and troubles: every alert fires in its situation, and stops after it.

Troubles that do not touch each other overlap, and what an alert needs to stop passes while the next one begins, so
that all of it takes two to three minutes. Nothing rests on how long something takes, only on what comes to pass.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from hack.lab import Lab
from hack.observability.prometheus import Prometheus
from hack.observability.refusal import allow_statuses, statuses_refused
from hack.observability.work import ELSEWHERE, MANAGED_BY, MOVES, REFUSED, Work, until
from hack.running import Controller

OPTIONS = ("--concurrency", "2")
"""So few that Jobs queue up while the management cluster does not answer."""
LATE_SECONDS = 5.0
"""The management cluster hangs on for so long, so that statuses are later than the alert's limit."""

Report = Callable[[str], None]


class Story:
    """A lab, a dispatcher and a Prometheus. ``began``: Unix time."""

    def __init__(self, lab: Lab, *, report: Report) -> None:
        self.lab = lab
        self._report = report
        self.work = Work(lab)
        self.controller = Controller.start(lab, managed_by=MANAGED_BY, options=OPTIONS)
        try:
            self.prometheus = Prometheus.start(lab, self.controller.address)
        except BaseException:
            self.controller.stop()
            raise
        self.began = time.time()
        self.settled = self.began
        """When the first trouble, that of the credentials, was over."""

    @classmethod
    @contextlib.contextmanager
    def begin(cls, lab: Lab, *, report: Report = lambda _text: None) -> Iterator[Story]:
        """The story, and at its end nothing of it is left."""
        story = cls(lab, report=report)
        try:
            yield story
        finally:
            story._clear()

    @property
    def now(self) -> float:
        """Unix time."""
        return time.time()

    def tell(self) -> None:
        """All of it. Raises NotSeen for an alert that does not fire, or does not stop."""
        self._credentials_end()
        self.settled = time.time()
        self.work.create("before", 4)
        self._jobs_wait_and_statuses_are_refused()
        self._a_cluster_hangs()
        self.stops("JobDispatcherStatusWritesRejected")
        self._management_hangs()
        self.stops("JobDispatcherDispatchSlow")
        self.stops("JobDispatcherWritebackSlow")
        self._nobody_leads()

    def fires(self, alert: str, **labels: str) -> None:
        """Wait until it fires."""
        until(f"{alert} fires", lambda: self.prometheus.fires(alert, **labels))
        self._say(f"{alert} fires")

    def stops(self, alert: str, **labels: str) -> None:
        """Wait until it does not fire any more."""
        self.is_quiet(alert, **labels)
        self._say(f"{alert} stops")

    def is_quiet(self, alert: str, **labels: str) -> None:
        """Wait until it does not fire, while there is data: what an earlier trouble left behind is over then."""
        until(f"{alert} is quiet", lambda: self.prometheus.is_quiet(alert, **labels))

    def _say(self, text: str) -> None:
        self._report(f"{time.time() - self.began:5.1f} s  {text}")

    def _credentials_end(self) -> None:
        """The lab's tokens live for a day, so it fires; its administrator's certificate lives longer."""
        cluster = self.lab.worker(1)
        self.fires("JobDispatcherCredentialsExpiring", cluster=cluster.name)
        self.work.set_kubeconfig(cluster.name, cluster.kubeconfig.read_bytes())
        self.stops("JobDispatcherCredentialsExpiring", cluster=cluster.name)
        self.work.set_kubeconfig(cluster.name, self.work.kubeconfig)

    def _jobs_wait_and_statuses_are_refused(self) -> None:
        for alert in ("JobsWaiting", "StatusWritesRejected"):
            self.is_quiet(f"JobDispatcher{alert}")
        self.work.create("waits", 1, namespace=ELSEWHERE)
        with statuses_refused(self.lab.management.api):
            self.work.create("refused", 1, namespace=REFUSED)
            self.fires("JobDispatcherStatusWritesRejected")
        self.fires("JobDispatcherJobsWaiting")
        self.work.delete("waits-0", namespace=ELSEWHERE)
        self.stops("JobDispatcherJobsWaiting")

    def _a_cluster_hangs(self) -> None:
        """Dispatch is slow for a Job whose mirror comes only when the cluster is back."""
        cluster = self.lab.worker(2)
        self.work.create("moves", 1, namespace=MOVES, seconds=15)
        self.work.wait_active("moves-0", namespace=MOVES)
        for alert in ("ClusterNotReady", "WatchStale"):
            self.is_quiet(f"JobDispatcher{alert}", cluster=cluster.name)
        self.is_quiet("JobDispatcherDispatchSlow")
        lost = f'job_dispatcher_failovers_total{{cluster="{cluster.name}"}} > 0'
        with _paused(cluster.apiserver):
            self.work.create("hung", 2)
            self.fires("JobDispatcherClusterNotReady", cluster=cluster.name)
            until("its share is lost", lambda: self.prometheus.holds(lost))
            self.fires("JobDispatcherWatchStale", cluster=cluster.name)
        self.fires("JobDispatcherDispatchSlow")
        self.stops("JobDispatcherClusterNotReady", cluster=cluster.name)
        self.stops("JobDispatcherWatchStale", cluster=cluster.name)

    def _management_hangs(self) -> None:
        """Status is late, and keys wait, while mirrors go on."""
        for alert in ("QueueGrowing", "WritebackSlow"):
            self.is_quiet(f"JobDispatcher{alert}")
        self.work.create("late", 6, completions=32, seconds=2)
        self.work.wait_active("late-5")
        with _paused(self.lab.management.apiserver):
            self.fires("JobDispatcherQueueGrowing")
            time.sleep(LATE_SECONDS)
        self.fires("JobDispatcherWritebackSlow")
        self.stops("JobDispatcherQueueGrowing")

    def _nobody_leads(self) -> None:
        """The one that comes after it takes a Lease."""
        self.is_quiet("JobDispatcherNoLeader")
        self.controller.stop()
        self.fires("JobDispatcherNoLeader")
        self.controller = Controller.start(
            self.lab, managed_by=MANAGED_BY, options=(*OPTIONS, "--leader-elect")
        )
        self.prometheus.scrape(self.controller.address)
        self.stops("JobDispatcherNoLeader")

    def _clear(self) -> None:
        for plane in self.lab.planes:
            plane.apiserver.resume()
        self.prometheus.stop()
        allow_statuses(self.lab.management.api)
        self.work.clear()
        if self.controller.is_running:
            self.work.delete_all()
        self.controller.stop()


@contextlib.contextmanager
def _paused(component: Any) -> Iterator[None]:
    component.pause()
    try:
        yield
    finally:
        component.resume()
