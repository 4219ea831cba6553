"""What a status write leaves of a WorkerCluster's object. No API server is needed."""

import asyncio
from typing import Any, cast

from dispatcher.clusters.cache import ObjectCache
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core.names import ClusterName
from dispatcher.operator.cluster_status import StatusPublisher
from dispatcher.operator.registered import RegisteredCluster

NAME = ClusterName("worker-1")


class Ahead:
    """An API server on which somebody has just given the cluster a capacity."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def request(self, method: str, path: str, *, body: dict[str, Any], content_type: str) -> Reply:
        self.asked.set()
        now = {"metadata": {"name": NAME, "uid": "w"}, "spec": {"capacity": {"parallelism": 2}}}
        return Reply(Outcome.OK, 200, {**now, "status": body["status"]})


async def test_a_spec_that_the_watch_has_not_brought_is_not_taken_from_the_answer() -> None:
    """Or the event that brings it would look like no change, and nothing would follow it."""
    cluster = RegisteredCluster({"metadata": {"name": NAME, "uid": "w"}, "spec": {}}, ObjectCache())
    server = Ahead()
    publisher = StatusPublisher(cast(ApiServer, server), {NAME: cluster})
    publisher.due(NAME)
    running = asyncio.create_task(publisher.run())
    async with asyncio.timeout(30):
        while "status" not in cluster.manifest:  # noqa: ASYNC110
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert server.asked.is_set()
    assert cluster.manifest["status"]["conditions"][0]["type"] == "Ready"
    assert cluster.manifest["spec"] == {}
