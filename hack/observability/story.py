"""Work and troubles, one after the other: every alert fires in its situation, and stops after it."""

from __future__ import annotations

import base64
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from hack.lab import Lab
from hack.lab.api import ApiError
from hack.observability.prometheus import Prometheus
from hack.running import Controller

MANAGED_BY = "jobdispatcher.io/observability"
NAMESPACE = "observability"
ELSEWHERE = "observability-nowhere"
"""A namespace that no worker has."""
REFUSED = "observability-refused"
"""A namespace where a policy refuses every status."""
MOVES = "observability-moves"
"""A namespace whose Jobs leave a lost cluster soon."""
MOVES_AFTER = "10s"
POLICY = "observability-refuses-statuses"
WAIT_SECONDS = 150.0
JOBS = "/apis/batch/v1/namespaces/{}/jobs"
WORKERS = "/apis/jobdispatcher.io/v1alpha1/workerclusters"
OPTIONS = ("--concurrency", "2")
"""So few that Jobs queue up while the management cluster does not answer."""

Report = Callable[[str], None]


class NotSeen(AssertionError):
    """Something did not come to pass in time."""


def until(what: str, condition: Callable[[], bool], *, seconds: float = WAIT_SECONDS) -> None:
    """Wait for it. Raises NotSeen."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise NotSeen(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


class Story:
    """A lab, a dispatcher and a Prometheus. ``began``: Unix time."""

    def __init__(self, lab: Lab, *, report: Report) -> None:
        self.lab = lab
        self._report = report
        self._api = lab.management.api
        self._prepare()
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
        self.work("before", 4)
        self.fires_until_over("JobDispatcherJobsWaiting", self._a_job_that_waits)
        self.fires_until_over("JobDispatcherStatusWritesRejected", self._statuses_are_refused)
        self._a_cluster_hangs()
        self._management_hangs()
        self._nobody_leads()

    def fires_until_over(
        self, alert: str, situation: Callable[[], contextlib.AbstractContextManager[None]]
    ) -> None:
        """The alert does not fire before, fires within the situation, and stops after it."""
        self.is_quiet(alert)
        with situation():
            self.fires(alert)
        self.stops(alert)

    def fires(self, alert: str, **labels: str) -> None:
        """Wait until it fires."""
        until(f"{alert} fires", lambda: self.prometheus.fires(alert, **labels))
        self._report(f"{alert} fires")

    def stops(self, alert: str, **labels: str) -> None:
        """Wait until it does not fire any more."""
        until(f"{alert} stops", lambda: not self.prometheus.fires(alert, **labels))
        self._report(f"{alert} stops")

    def is_quiet(self, alert: str) -> None:
        """It does not fire, once what an earlier trouble left behind is over."""
        until(f"{alert} is quiet", lambda: not self.prometheus.fires(alert))

    def work(
        self, name: str, jobs: int, *, namespace: str = NAMESPACE, completions: int = 8, seconds: int = 1
    ) -> None:
        """Create Jobs; a pod of each fails once."""
        script = f'[{{"nth": "0", "after": "1s", "exit": 1}}, {{"after": "{seconds}s", "exit": 0}}]'
        for number in range(jobs):
            template = {
                "metadata": {"annotations": {"lab.jobdispatcher.io/script": script}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "work", "image": "example/work"}]},
            }
            spec = {
                "managedBy": MANAGED_BY,
                "completions": completions,
                "parallelism": 4,
                "template": template,
            }
            self._api.create(JOBS.format(namespace), {"metadata": {"name": f"{name}-{number}"}, "spec": spec})

    @contextlib.contextmanager
    def _a_job_that_waits(self) -> Iterator[None]:
        self.work("waits", 1, namespace=ELSEWHERE)
        try:
            yield
        finally:
            self._api.delete(f"{JOBS.format(ELSEWHERE)}/waits-0")

    @contextlib.contextmanager
    def _statuses_are_refused(self) -> Iterator[None]:
        rule = {
            "apiGroups": ["batch"],
            "apiVersions": ["v1"],
            "operations": ["UPDATE"],
            "resources": ["jobs/status"],
        }
        self._api.apply(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": POLICY},
                "spec": {
                    "matchConstraints": {"resourceRules": [rule]},
                    "validations": [{"expression": "false", "message": "no status here"}],
                },
            }
        )
        self._api.apply(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": POLICY},
                "spec": {
                    "policyName": POLICY,
                    "validationActions": ["Deny"],
                    "matchResources": {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": REFUSED}}
                    },
                },
            }
        )
        until("the policy is in force", self._refuses)
        try:
            self.work("refused", 1, namespace=REFUSED)
            yield
        finally:
            self._allow_statuses()

    def _refuses(self) -> bool:
        """Whether a status in that namespace is refused; it takes a moment until a policy is in force."""
        path = f"{JOBS.format(REFUSED)}/probe"
        with contextlib.suppress(ApiError):
            spec = {"suspend": True, "template": _idle_template()}
            self._api.create(JOBS.format(REFUSED), {"metadata": {"name": "probe"}, "spec": spec})
        try:
            job = self._api.get(path)
            self._api._request(
                "PUT", f"{path}/status?dryRun=All", {**job, "status": {**job["status"], "active": 0}}
            )
        except ApiError as error:
            return "no status here" in str(error)
        return False

    def _allow_statuses(self) -> None:
        for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
            with contextlib.suppress(ApiError):
                self._api.delete(f"/apis/admissionregistration.k8s.io/v1/{kind}/{POLICY}")

    def _a_cluster_hangs(self) -> None:
        """Dispatch is slow for a Job whose mirror comes only when the cluster is back."""
        for alert in ("ClusterNotReady", "WatchStale", "DispatchSlow"):
            self.is_quiet(f"JobDispatcher{alert}")
        cluster = self.lab.worker(2)
        self.work("moves", 1, namespace=MOVES, seconds=15)
        running = f'job_dispatcher_active_pods{{cluster="{cluster.name}"}}'
        until("pods run there", lambda: self.controller.metric(running) > 0)
        lost = f'job_dispatcher_failovers_total{{cluster="{cluster.name}"}}'
        with _paused(cluster.apiserver):
            self.work("hung", 2)
            self.fires("JobDispatcherClusterNotReady", cluster=cluster.name)
            until("its share is lost", lambda: self.controller.metric(lost) > 0)
            self.fires("JobDispatcherWatchStale", cluster=cluster.name)
        self.fires("JobDispatcherDispatchSlow")
        self.work("after", 3)
        self.stops("JobDispatcherClusterNotReady")
        self.stops("JobDispatcherWatchStale", cluster=cluster.name)
        self.stops("JobDispatcherDispatchSlow")

    def _management_hangs(self) -> None:
        """Status is late, and keys wait, while mirrors go on."""
        self.work("late", 12, completions=24)
        metric = f'job_dispatcher_active_pods{{cluster="{self.lab.worker(1).name}"}}'
        until("pods run", lambda: self.controller.metric(metric) > 4)
        self.is_quiet("JobDispatcherQueueGrowing")
        with _paused(self.lab.management.apiserver):
            self.fires("JobDispatcherQueueGrowing")
            time.sleep(4.0)  # how late the status gets is the point
        self.fires("JobDispatcherWritebackSlow")
        self.stops("JobDispatcherQueueGrowing")
        self.stops("JobDispatcherWritebackSlow")

    def _nobody_leads(self) -> None:
        self.is_quiet("JobDispatcherNoLeader")
        self.controller.stop()
        self.fires("JobDispatcherNoLeader")
        self.controller = Controller.start(self.lab, managed_by=MANAGED_BY, options=OPTIONS)
        self.prometheus.scrape(self.controller.address)
        self.stops("JobDispatcherNoLeader")

    def _credentials_end(self) -> None:
        """The lab's tokens live for a day, so it fires; its administrator's certificate lives longer."""
        cluster = self.lab.worker(1)
        self.fires("JobDispatcherCredentialsExpiring", cluster=cluster.name)
        self._set_kubeconfig(cluster.name, cluster.kubeconfig.read_bytes())
        self.stops("JobDispatcherCredentialsExpiring", cluster=cluster.name)
        self._set_kubeconfig(cluster.name, self._kubeconfig)

    def _set_kubeconfig(self, cluster: str, content: bytes) -> None:
        secret = self._secret(cluster)
        secret["data"]["kubeconfig"] = base64.b64encode(content).decode()
        secret["metadata"].pop("managedFields", None)
        path = f"/api/v1/namespaces/job-dispatcher/secrets/{secret['metadata']['name']}"
        secret["metadata"].pop("resourceVersion")
        self._api._request("PUT", path, secret)

    def _secret(self, cluster: str) -> dict[str, Any]:
        reference = self._api.get(f"{WORKERS}/{cluster}")["spec"]["kubeconfigSecretRef"]
        return self._api.get(f"/api/v1/namespaces/job-dispatcher/secrets/{reference['name']}")

    def secrets(self, cluster: str) -> list[str]:
        """What nobody but the dispatcher may see of a cluster's credentials."""
        kubeconfig = yaml.safe_load(base64.b64decode(self._secret(cluster)["data"]["kubeconfig"]))
        user = kubeconfig["users"][0]["user"]
        return [user[field] for field in ("token", "client-key-data") if field in user]

    def _prepare(self) -> None:
        namespaces = [(self.lab.management, name) for name in (NAMESPACE, ELSEWHERE, REFUSED, MOVES)]
        namespaces += [(plane, name) for plane in self.lab.workers for name in (NAMESPACE, REFUSED, MOVES)]
        for plane, name in namespaces:
            plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        policy = {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "DispatchPolicy",
            "metadata": {"name": "default", "namespace": MOVES},
            "spec": {"failover": {"after": MOVES_AFTER}},
        }
        self._api.apply(policy)
        first = self.lab.worker(1).name
        self._kubeconfig = base64.b64decode(self._secret(first)["data"]["kubeconfig"])
        self._set_capacity(first, 200)

    def _set_capacity(self, cluster: str, parallelism: int | None) -> None:
        patch = {"spec": {"capacity": None if parallelism is None else {"parallelism": parallelism}}}
        self._api._request(
            "PATCH", f"{WORKERS}/{cluster}", patch, content_type="application/merge-patch+json"
        )

    def _clear(self) -> None:
        for plane in self.lab.planes:
            plane.apiserver.resume()
        self.prometheus.stop()
        first = self.lab.worker(1).name
        self._allow_statuses()
        self._set_kubeconfig(first, self._kubeconfig)
        self._set_capacity(first, None)
        if self.controller.is_running:
            self._delete_jobs()
        self.controller.stop()

    def _delete_jobs(self) -> None:
        for namespace in (NAMESPACE, ELSEWHERE, REFUSED, MOVES):
            path = JOBS.format(namespace)
            for job in self._api.get(path)["items"]:
                with contextlib.suppress(ApiError):
                    self._api.delete(f"{path}/{job['metadata']['name']}")
            until(f"{namespace} is empty", functools.partial(self._is_empty, path), seconds=60)

    def _is_empty(self, path: str) -> bool:
        return not self._api.get(path)["items"]


@contextlib.contextmanager
def _paused(component: Any) -> Iterator[None]:
    component.pause()
    try:
        yield
    finally:
        component.resume()


def _idle_template() -> dict[str, Any]:
    return {"spec": {"restartPolicy": "Never", "containers": [{"name": "work", "image": "example/work"}]}}
