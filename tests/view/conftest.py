"""A dispatcher with its view API, registered with the lab's management plane."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.lab import Lab
from hack.running.controller import Controller
from hack.running.view import registered, wait_available
from tests.cli.conftest import People
from tests.cli.plugin import MANAGED_BY, Plugin, manifest, wait_until


@pytest.fixture(scope="module")
def view_address(lab: Lab) -> Iterator[str]:
    """Where the view API is served, without the API server between."""
    with registered(lab) as address:
        environment = {"JOB_DISPATCHER_VIEW_ADDRESS": address}
        controller = Controller.start(lab, managed_by=MANAGED_BY, environment=environment)
        try:
            wait_available(lab)
            yield address
        finally:
            controller.stop()


@pytest.fixture
def namespace(lab: Lab, view_address: str) -> Iterator[str]:
    """A namespace on all planes; its Jobs on the management plane are deleted at the end."""
    name = f"view-{uuid.uuid4().hex[:8]}"
    for plane in lab.planes:
        plane.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    jobs = f"/apis/batch/v1/namespaces/{name}/jobs"
    for job in lab.management.api.get(jobs)["items"]:
        lab.management.api.delete(f"{jobs}/{job['metadata']['name']}")
    wait_until(lambda: not lab.management.api.get(jobs)["items"])


@pytest.fixture
def plugin(lab: Lab, namespace: str) -> Plugin:
    """The plugin as the administrator."""
    return Plugin(lab.management.kubeconfig, namespace)


@pytest.fixture
def people(lab: Lab, namespace: str, tmp_path: Path) -> Iterator[People]:
    """Users with few rights."""
    made = People(lab, namespace, tmp_path)
    yield made
    made.clear()


@pytest.fixture
def pages(plugin: Plugin, namespace: str) -> str:
    """An Indexed Job of six pods that are done, on all workers."""
    spec: dict[str, Any] = {"completionMode": "Indexed", "completions": 6, "parallelism": 6}
    plugin.ok("submit", "-f", "-", "--wait", input=manifest("pages", **spec))
    return "pages"
