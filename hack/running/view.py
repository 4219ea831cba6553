"""The view API of a controller beside a lab, registered with the management plane."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hack.lab import Lab, ports
from hack.lab.api import ApiError

API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.view.jobdispatcher.io"
NAMESPACE = "job-dispatcher"
SERVICE = "job-dispatcher-view"
READY_SECONDS = 60.0


@contextmanager
def registered(lab: Lab, *, port: int | None = None) -> Iterator[str]:
    """The address for ``--view-address``. The APIService goes at the end: without a server it blocks deletions.

    There is no Service network in a lab: an ExternalName leads the API server to this machine.
    """
    port = port or ports.pick(1)[0]
    api = lab.management.api
    name = {"name": SERVICE, "namespace": NAMESPACE}
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": name,
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        }
    )
    api.apply(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": SERVICE, "namespace": "kube-system"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": "extension-apiserver-authentication-reader",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "job-dispatcher", "namespace": NAMESPACE}],
        }
    )
    api.apply(
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": API_SERVICE.rpartition("/")[2]},
            "spec": {
                "group": "view.jobdispatcher.io",
                "version": "v1alpha1",
                "groupPriorityMinimum": 100,
                "versionPriority": 10,
                "service": {**name, "port": port},
            },
        }
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        api.delete(API_SERVICE)


def wait_available(lab: Lab) -> None:
    """Wait until the API server reaches it. Raises TimeoutError."""
    end = time.monotonic() + READY_SECONDS
    last = ""
    while time.monotonic() < end:
        try:
            if lab.management.api.get("/apis/view.jobdispatcher.io/v1alpha1")["resources"]:
                return
        except ApiError as error:
            last = str(error)
        time.sleep(0.1)
    raise TimeoutError(f"the view API is not available: {last}")
