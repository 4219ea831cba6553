import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.kubeconfig import Credentials
from tests.protocol import fake_server


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop of the product: how it ends connections and times out is not asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def server() -> AsyncIterator[fake_server.FakeApiServer]:
    async with fake_server.running() as running:
        yield running


@pytest.fixture
async def api(server: fake_server.FakeApiServer) -> AsyncIterator[ApiServer]:
    credentials = Credentials(server=server.url, token="secret-token")
    client = ApiServer.from_credentials(credentials, timeout=2.0, allow_http=True)
    yield client
    await client.close()
