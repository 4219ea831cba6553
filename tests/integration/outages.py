"""Whole control planes that die and come back."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

from dispatcher.clusters import jobs
from hack.lab import Lab
from tests.integration.planes import Planes, is_complete, make_job


@contextlib.asynccontextmanager
async def lost_planes(planes: Planes, lab: Lab, *clusters: str) -> AsyncIterator[None]:
    """Within it these workers' whole control planes are dead, but for their stores; after it, they run pods again.

    The parts are killed and started with their API server: those that outlive it wait for up to half a minute each
    before they try it again.
    """
    numbers = [int(cluster.removeprefix("worker-")) for cluster in clusters]
    lost = [lab.worker(number) for number in numbers]
    others = [part for plane in lost for part in (plane.controller_manager, plane.scheduler, plane.kwok)]
    for part in (*(plane.apiserver for plane in lost), *others):
        await asyncio.to_thread(part.kill)
    try:
        yield
    finally:
        for plane in lost:
            await asyncio.to_thread(plane.apiserver.start, wait=False)
        for plane in lost:
            await asyncio.to_thread(plane.apiserver.wait_healthy)
        for part in others:
            await asyncio.to_thread(part.start)
    for api in (planes.workers[number - 1] for number in numbers):
        namespace = f"probe-{uuid.uuid4().hex[:8]}"
        assert (await jobs.create_namespace(api, {"metadata": {"name": namespace}})).ok
        await planes.create(make_job("probe", managed_by=None, namespace=namespace), on=api)
        await planes.job_when("probe", is_complete, on=api, namespace=namespace)
