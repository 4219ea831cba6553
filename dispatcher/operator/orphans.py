"""Mirrors whose Job is gone: found by a live look at the management cluster, then removed.

Never concluded from a cache: only a 404 or another UID from the API server makes a mirror an orphan.
"""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from dispatcher import metrics
from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.reply import Outcome
from dispatcher.core import names
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.registered import RegisteredCluster
from dispatcher.operator.world import World

logger = logging.getLogger(__name__)


SETTLE_SECONDS = 0.1
"""For which the news of a Job may be behind that of its mirror."""
QUICK_LOOKS = 500
"""Mirrors that are looked into without a pause; from then on SLOW_SECONDS lie between two, for the management cluster's
sake: a worker can make up any number."""
SLOW_SECONDS = 0.01
MOST_SUSPECTS = 1000


class OrphanCollector:
    """Looks every ``interval`` seconds for mirrors of Jobs that are not known here, and at a new one at once:
    a POST that was sent much too late may have made it.
    """

    def __init__(
        self,
        *,
        fleet: Fleet,
        world: World,
        management: ApiServer,
        managed_by: str,
        interval: float,
        knows_all_jobs: Callable[[], bool] = lambda: True,
    ) -> None:
        self._fleet = fleet
        self._world = world
        self._management = management
        self._managed_by = managed_by
        self._interval = interval
        self._knows_all_jobs = knows_all_jobs
        self._suspects: set[str] = set()
        self._missed: dict[names.ClusterName, set[str]] = {}
        """By each cluster that is looked at now: whose mirrors were seen meanwhile."""
        self._suspected = asyncio.Event()
        world.on_unknown_mirror = self.suspect

    async def run(self) -> None:
        """Collect for as long as the process runs. Each cluster has a look of its own: one that hangs, or shows many
        mirrors that it made up, holds up no other.
        """
        due = monotonic() + self._interval
        async with asyncio.TaskGroup() as looks:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, due - monotonic())):
                        await self._suspected.wait()
                        await asyncio.sleep(SETTLE_SECONDS)
                self._suspected.clear()
                if monotonic() >= due:
                    self._start(looks, None)
                    due = monotonic() + self._interval
                elif self._knows_all_jobs():
                    suspects, self._suspects = self._suspects, set()
                    self._start(looks, suspects)

    def suspect(self, job_uid: str) -> None:
        """A mirror was seen whose Job is not known."""
        self._suspects.add(job_uid)
        self._suspected.set()

    async def collect(self) -> None:
        """One look at all connected clusters."""
        for cluster in list(self._fleet.clusters.values()):
            await self._look(cluster, None)

    def _start(self, looks: asyncio.TaskGroup, suspects: set[str] | None) -> None:
        """Look at each cluster that is not looked at already; what is missed there is looked at right after."""
        for name, cluster in list(self._fleet.clusters.items()):
            if name in self._missed:
                self._missed[name] |= set(list(suspects or ())[:MOST_SUSPECTS])
                continue
            self._missed[name] = set()
            looks.create_task(self._look(cluster, suspects)).add_done_callback(
                functools.partial(self._ended, name)
            )

    def _ended(self, cluster: names.ClusterName, _look: object) -> None:
        missed = self._missed.pop(cluster)
        if missed:
            self._suspects |= missed
            self._suspected.set()

    async def _look(self, cluster: RegisteredCluster, suspects: set[str] | None) -> None:
        looked_at = 0
        try:
            for uid in cluster.mirrors.groups() if suspects is None else suspects:
                if self._world.key_of(uid) is not None:
                    continue
                for mirror in cluster.mirrors.in_group(uid):
                    if not cluster.view.ready:
                        return
                    await self._check(cluster, mirror)
                    looked_at += 1
                    if looked_at > QUICK_LOOKS:
                        await asyncio.sleep(SLOW_SECONDS)
        except (KeyError, TypeError, ValueError, LookupError):
            logger.exception("look for orphans failed", extra={"cluster": cluster.name})

    async def _check(self, cluster: RegisteredCluster, mirror: dict[str, Any]) -> None:
        metadata = mirror["metadata"]
        if "deletionTimestamp" in metadata:
            return
        name = (metadata.get("annotations") or {}).get(names.JOB_NAME_ANNOTATION) or metadata["name"]
        uid = metadata["labels"][names.JOB_UID_LABEL]
        reply = await jobs.get_job(self._management, metadata["namespace"], name)
        if reply.ok and reply.body is not None and reply.body["metadata"]["uid"] == uid:
            if reply.body["spec"].get("managedBy") == self._managed_by:
                self._world.jobs.put(reply.body)
            return
        if not reply.ok and reply.outcome is not Outcome.NOT_FOUND:
            return
        deleted = await jobs.delete_job(cluster.api, metadata["namespace"], metadata["name"], metadata["uid"])
        if deleted.ok or deleted.outcome is Outcome.NOT_FOUND:
            metrics.ORPHANS_REMOVED.labels(cluster.name).inc()
            logger.info(
                "orphan removed",
                extra={"cluster": cluster.name, "mirror": f"{metadata['namespace']}/{metadata['name']}"},
            )
