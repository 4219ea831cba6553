"""A dispatcher with its view API, registered with the lab's management plane."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.lab import Lab
from hack.running.controller import Controller
from hack.running.view import registered, wait_available
from tests.cli.conftest import People
from tests.cli.plugin import MANAGED_BY, Plugin, manifest, namespace_everywhere


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
    """A namespace of the test's own on all planes."""
    with namespace_everywhere(lab, "view") as name:
        yield name


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
