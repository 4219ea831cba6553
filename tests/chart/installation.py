"""The product as a person installs it: by helm, joined by kubectl dispatch, the controller run with its own account."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hack.generate.files import CHARTS
from hack.lab import Lab, Plane, ports, processes
from hack.lab.api import ApiError, write_kubeconfig
from hack.running.controller import Controller
from tests.chart.charts import NAMESPACE, RELEASE, Manifest, helm, only, render

BIN = Path(sys.executable).parent
WAIT_SECONDS = 60.0
CLUSTERS = "/apis/jobdispatcher.io/v1alpha1/workerclusters"


def until(condition: Callable[[], Any], what: str, *, seconds: float = WAIT_SECONDS) -> Any:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not in {seconds:g} s: {what}"
        time.sleep(0.1)
    return found


def find(plane: Plane, path: str) -> Manifest | None:
    """The object at a path, None where there is none."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return plane.api.get(path)
        except ApiError as error:
            if error.code == 404:
                return None
            if error.code != 429 or time.monotonic() > end:  # after a CRD was written, until it is served
                raise
        time.sleep(0.1)


class Installation:
    """A release of the chart on a bare lab's management plane."""

    def __init__(
        self, lab: Lab, *, values: Path | None = None, sets: Mapping[str, Any] | None = None
    ) -> None:
        self.lab = lab
        self._values = values
        self._sets = dict(sets or {})
        self.kubeconfig = lab.folder / "installed.kubeconfig"

    def helm(self, *arguments: str | Path) -> str:
        """helm on the management plane. Raises HelmRefused."""
        plane = self.lab.management
        return helm(self.lab.helm, *arguments, "--kubeconfig", plane.kubeconfig, "--namespace", NAMESPACE)

    def install(self, verb: str = "install", **sets: Any) -> str:
        """`helm install`, or `upgrade` with other values; what helm prints."""
        self._sets |= sets
        return self._apply(verb)

    def install_and_wait(self) -> str:
        """`helm install`, until its pods are ready."""
        return self._apply("install", "--wait", "--timeout", "240s")

    def _apply(self, verb: str, *flags: str) -> str:
        arguments: list[str | Path] = [verb, RELEASE, CHARTS / "job-dispatcher"]
        arguments += ["--create-namespace"] if verb == "install" else []
        arguments += flags
        if self._values:
            arguments += ["--values", self._values]
        for key, value in self._sets.items():
            arguments += ["--set-json", f"{key}={json.dumps(value)}"]
        return self.helm(*arguments)

    def uninstall(self, *arguments: str) -> str:
        """`helm uninstall`."""
        return self.helm("uninstall", RELEASE, *arguments)

    def objects(self) -> list[Manifest]:
        """What the chart renders with the same values."""
        files = (self._values,) if self._values else ()
        return render(self.lab.helm, files=files, values=self._sets)

    @property
    def account(self) -> str:
        """``namespace:name`` of the controller's account."""
        return f"{NAMESPACE}:{only(self.objects(), 'ServiceAccount')['metadata']['name']}"

    def start(self, *, program: Path = BIN / "job-dispatcher") -> Controller:
        """The controller on this host, with the account's token and the Deployment's own arguments."""
        plane = self.lab.management
        write_kubeconfig(
            self.kubeconfig,
            name="installed",
            url=plane.url,
            authority=plane.certificates.authority,
            token=token_of(plane, self.account),
        )
        pod = only(self.objects(), "Deployment")["spec"]["template"]["spec"]
        # The address is the host's; the TLS files are a Secret's, which nothing mounts here.
        left_out = ("--metrics-address", "--metrics-tls")
        flags = [it for it in pod["containers"][0]["args"] if not it.startswith(left_out)]
        address = f"{ports.ADDRESS}:{ports.pick(1)[0]}"
        log = self.lab.folder / "logs" / "job-dispatcher.log"
        command = [str(program), *flags, "--kubeconfig", str(self.kubeconfig)]
        process = processes.spawn(
            [*command, "--metrics-address", address],
            lab=self.lab.folder,
            log=log,
            environment=dict(os.environ),
        )
        controller = Controller(process, log=log, address=address)
        try:
            until(lambda: controller._answers("/readyz"), "the controller is ready")
        except AssertionError:
            controller.kill()
            raise AssertionError(controller.last_words()) from None
        return controller

    def dispatch(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """`kubectl dispatch …` as the management cluster's administrator."""
        command = [BIN / "kubectl-dispatch", *arguments, "--kubeconfig", self.lab.management.kubeconfig]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def join(self, worker: Plane, *arguments: str) -> str:
        """`kubectl dispatch join` under the plane's own name; what it prints."""
        done = self.dispatch("join", worker.name, "--worker-kubeconfig", worker.kubeconfig, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


def token_of(plane: Plane, account: str) -> str:
    """A token of ``namespace:name`` for a day."""
    namespace, name = account.split(":")
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": 86400},
    }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    token: str = plane.api.create(path, request)["status"]["token"]
    return token


def forget_everything(lab: Lab) -> None:
    """Bring a bare lab back to how it began, whatever a test left."""
    management = lab.management
    for job in management.api.get("/apis/batch/v1/jobs")["items"]:
        strip(management, job_path(job), job)
    for plane in lab.planes:
        for job in plane.api.get("/apis/batch/v1/jobs")["items"]:
            delete(plane, job_path(job))
    if find(management, CLUSTERS) is not None:
        for cluster in management.api.get(CLUSTERS)["items"]:
            strip(management, f"{CLUSTERS}/{cluster['metadata']['name']}", cluster)
            delete(management, f"{CLUSTERS}/{cluster['metadata']['name']}")
    for secret in management.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets")["items"]:
        if secret["type"] == "Opaque":  # helm keeps its releases in others
            delete(management, f"/api/v1/namespaces/{NAMESPACE}/secrets/{secret['metadata']['name']}")


def forget_leases(lab: Lab) -> None:
    """Nobody has held a Lease yet. Not beside a running controller, which would end."""
    leases = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
    for lease in lab.management.api.get(leases)["items"]:
        delete(lab.management, f"{leases}/{lease['metadata']['name']}")


def job_path(job: Manifest) -> str:
    """The path of a Job."""
    return f"/apis/batch/v1/namespaces/{job['metadata']['namespace']}/jobs/{job['metadata']['name']}"


def strip(plane: Plane, path: str, held: Manifest) -> None:
    """Take all finalizers off, and put none of a deleted object's in the way."""
    if held["metadata"].get("finalizers"):
        patch = {"metadata": {"finalizers": None}}
        try:
            plane.api._request("PATCH", path, patch, content_type="application/merge-patch+json")
        except ApiError as error:
            if error.code != 404:
                raise


def delete(plane: Plane, path: str) -> None:
    """Delete what is at a path, if it is there."""
    try:
        plane.api.delete(path)
    except ApiError as error:
        if error.code != 404:
            raise
