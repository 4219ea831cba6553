"""A lab with real nodes and a dispatcher beside it, for all tests of this folder; skipped where nodes cannot run."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab import Lab
from hack.lab.kubelet import support
from hack.running.controller import Controller
from hack.running.view import registered, wait_available
from tests.cli.plugin import MANAGED_BY
from tests.e2e.work import Work, eventually, is_gone


class Dispatcher:
    """The dispatcher, with the view API: killed and started again as it was."""

    def __init__(self, lab: Lab, view_address: str) -> None:
        self._lab = lab
        self._environment = {"JOB_DISPATCHER_VIEW_ADDRESS": view_address}
        self.start()

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.controller = Controller.start(self._lab, managed_by=MANAGED_BY, environment=self._environment)


@pytest.fixture(scope="package")
def real_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two workers with a real node each. JOB_DISPATCHER_TEST_REAL_LAB names a folder for one that is kept."""
    if obstacle := support.obstacle():
        pytest.skip(obstacle)
    kept = os.environ.get("JOB_DISPATCHER_TEST_REAL_LAB")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("real")
    running = Lab.up(folder, workers=2, nodes="kubelet", report=print)
    try:
        yield running
    finally:
        if not kept:
            running.down()


@pytest.fixture(scope="package")
def dispatcher(real_lab: Lab) -> Iterator[Dispatcher]:
    """One for all tests; who kills it starts it again."""
    with registered(real_lab) as address:
        running = Dispatcher(real_lab, address)
        try:
            wait_available(real_lab)
            yield running
        finally:
            running.controller.stop()


@pytest.fixture
def work(real_lab: Lab, dispatcher: Dispatcher) -> Iterator[Work]:
    """A namespace of the test's own; its Jobs are deleted at the end."""
    namespace = f"e2e-{uuid.uuid4().hex[:8]}"
    for plane in real_lab.planes:
        plane.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    for plane in real_lab.workers:  # what a pod mounts
        path = f"/api/v1/namespaces/{namespace}"
        for needed in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
            eventually(lambda p=plane, n=f"{path}/{needed}": not is_gone(p, n), bool)  # type: ignore[misc]
    found = Work(real_lab, namespace)
    yield found
    found.delete_all()
