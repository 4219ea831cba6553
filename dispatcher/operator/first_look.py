"""What is read before the first Job is decided on, and until when new Jobs wait."""

import asyncio
import contextlib

from dispatcher.clusters.client import MAX_LIST_BYTES, ApiServer, resource_path
from dispatcher.clusters.reflector import Reflector
from dispatcher.core import names
from dispatcher.operator import management
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.management_check import patiently
from dispatcher.operator.settings import Settings, SettingsError
from dispatcher.operator.survey import Survey
from dispatcher.operator.world import World


async def read_clusters(api: ApiServer, world: World, fleet: Fleet, secrets: Reflector) -> None:
    """Know all clusters, policies and namespaces before the first Job is decided on."""
    await secrets.synced.wait()
    path = resource_path(f"{names.API_GROUP}/{names.API_VERSION}", "workerclusters")
    clusters = await patiently(lambda: api.get(path, max_bytes=MAX_LIST_BYTES), "workerclusters")
    if not clusters.ok:
        raise SettingsError("the CustomResourceDefinition of WorkerCluster is missing: install the CRDs")
    path = resource_path(f"{names.API_GROUP}/{names.API_VERSION}", "dispatchpolicies")
    policies = await patiently(lambda: api.get(path, max_bytes=MAX_LIST_BYTES), "dispatchpolicies")
    if not policies.ok:
        raise SettingsError("the CustomResourceDefinition of DispatchPolicy is missing: install the CRDs")
    for item in (policies.body or {}).get("items", ()):
        world.policies.put(item)
    namespaces = await patiently(
        lambda: api.get(resource_path("v1", "namespaces"), max_bytes=MAX_LIST_BYTES), "namespaces"
    )
    for item in (namespaces.body or {}).get("items", ()):
        management.take_namespace(world, item)
    for item in (clusters.body or {}).get("items", ()):
        fleet.update(item)


async def settle(
    job_watch: Reflector, world: World, fleet: Fleet, survey: Survey, settings: Settings
) -> None:
    """New Jobs wait until every cluster was tried once, but not for ever.

    What is free on a cluster is known only with all Jobs.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.settle_timeout):
            await fleet.all_tried()
            await survey.look()
    await job_watch.synced.wait()
    world.room.complete()
    world.settled = True
    world.wake_all()
