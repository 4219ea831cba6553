"""A running dispatcher and a test's own namespace on all planes.

Modules that need a dispatcher of their own (crashes, restarts) define fixtures of the same names.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import load_kubeconfig_file
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import MANAGED_BY, Planes
from tests.integration.registrations import Registrations


@pytest.fixture(scope="module")
def controller(lab: Lab) -> Iterator[Controller]:
    """A dispatcher for the Jobs of one module, with the managedBy value MANAGED_BY."""
    running = Controller.start(lab, managed_by=MANAGED_BY)
    yield running
    running.stop()


@pytest.fixture
async def planes(lab: Lab, controller: Controller) -> AsyncIterator[Planes]:
    """A namespace of the test's own on all planes; its Jobs are deleted at the end, while we still run."""
    clients = [ApiServer(await load_kubeconfig_file(plane.kubeconfig)) for plane in lab.planes]
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    for client in clients:
        assert (await jobs.create_namespace(client, {"metadata": {"name": namespace}})).ok
    planes = Planes(clients[0], clients[1:], namespace=namespace, debug_state=controller.debug_state)
    yield planes
    await planes.delete_all()
    rejected = "job_dispatcher_status_writes_rejected_total{"
    assert rejected not in await asyncio.to_thread(controller.metrics)
    for client in clients:
        await client.close()


@pytest.fixture
async def registrations(planes: Planes) -> AsyncIterator[Registrations]:
    """Puts everything back while the dispatcher still runs."""
    made = Registrations(planes.management)
    yield made
    await made.restore()
