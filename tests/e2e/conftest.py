"""A lab with real nodes and a dispatcher beside it, for all tests of this folder; skipped where nodes cannot run."""

from __future__ import annotations

import contextlib
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

WORKERS = 2


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
    with lab_or_skip(tmp_path_factory, kept="JOB_DISPATCHER_TEST_REAL_LAB") as running:
        yield running


@contextlib.contextmanager
def lab_or_skip(
    factory: pytest.TempPathFactory, *, kept: str, management_node: bool = False, bare: bool = False
) -> Iterator[Lab]:
    """A lab of two workers with a real node each; skips where nodes cannot run.

    ``kept`` is a variable of the environment: it may name the folder of a lab that is taken as it is, and kept.
    """
    named = os.environ.get(kept)
    folder = Path(named) if named else factory.mktemp("real")
    needed = support.instances(planes=1 + WORKERS, nodes=WORKERS + management_node)
    if not (named and Lab(folder).is_ready()) and (obstacle := support.obstacle(needed)):
        pytest.skip(obstacle)
    running = Lab.up(
        folder, workers=WORKERS, nodes="kubelet", management_node=management_node, bare=bare, report=print
    )
    try:
        yield running
    finally:
        if not named:
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
    found = prepare(real_lab, f"e2e-{uuid.uuid4().hex[:8]}")
    yield found
    found.delete_all()


def prepare(lab: Lab, namespace: str) -> Work:
    """A new namespace on all planes, in which pods can start."""
    for plane in lab.planes:
        plane.api.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
    for plane in lab.workers:  # what a pod mounts
        path = f"/api/v1/namespaces/{namespace}"
        for needed in ("serviceaccounts/default", "configmaps/kube-root-ca.crt"):
            eventually(lambda p=plane, n=f"{path}/{needed}": not is_gone(p, n), bool)  # type: ignore[misc]
    return Work(lab, namespace)
