"""A dispatcher with its view API, registered with the lab's management plane."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import uvloop

from hack.lab import Lab
from hack.running.controller import Controller
from hack.running.view import registered, wait_available
from tests.cli.conftest import People
from tests.cli.plugin import MANAGED_BY, Plugin, manifest, namespace_everywhere
from tests.view.streams import cri


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of the product: how it ends connections and times out is not asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}


class Serving:
    """A dispatcher that serves the view API; ``address``: where, without the API server between."""

    def __init__(self, lab: Lab, address: str) -> None:
        self._lab = lab
        self.address = address
        self.controller = self._start()

    def _start(self) -> Controller:
        environment = {"JOB_DISPATCHER_VIEW_ADDRESS": self.address}
        controller = Controller.start(self._lab, managed_by=MANAGED_BY, environment=environment)
        try:
            wait_available(self._lab)
        except TimeoutError:
            controller.stop()
            raise
        return controller

    def restart(self, meanwhile: Callable[[], None]) -> None:
        """Stop it, do something, and start the next one."""
        self.controller.stop()
        meanwhile()
        self.controller = self._start()


@pytest.fixture(scope="module")
def serving(lab: Lab) -> Iterator[Serving]:
    """The dispatcher of a module."""
    with registered(lab) as address:
        running = Serving(lab, address)
        try:
            yield running
        finally:
            running.controller.stop()


@pytest.fixture(scope="module")
def view_address(serving: Serving) -> str:
    """Where the view API is served."""
    return serving.address


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


@pytest.fixture
def told(lab: Lab) -> Iterator[Callable[[str, str], None]]:
    """Writes a line to the log of the containers ``told`` on all workers."""

    def tell(moment: str, text: str) -> None:
        for worker in lab.workers:
            with worker.container_log("told").open("a") as file:
                file.write(cri(moment, text))

    for worker in lab.workers:
        worker.container_log("told").write_text("")
    yield tell
    for worker in lab.workers:
        worker.container_log("told").unlink()
