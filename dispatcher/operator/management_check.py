"""Whether the management cluster can be used, and questions to it that are asked until there is an answer."""

import asyncio
import logging
from typing import Any

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.operator.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

MINIMUM_MINOR = 32
"""spec.managedBy is on by default from 1.32; from 1.35 it cannot be turned off."""
LOCKED_MINOR = 35


def minor_version(version: dict[str, Any]) -> int:
    """The minor version of a 1.x API server; 0 if it cannot be read."""
    digits = "".join(c for c in str(version.get("minor", "")) if c.isdecimal())
    return int(digits) if version.get("major") == "1" and digits else 0


async def patiently(ask: Any, what: str) -> Reply:
    """Ask until there is an answer that is not a passing trouble."""
    pause = 0.2
    while True:
        reply: Reply = await ask()
        if reply.outcome in (Outcome.OK, Outcome.NOT_FOUND, Outcome.INVALID) or reply.reason == "NotServed":
            return reply
        logger.warning("waiting for the management cluster", extra={"request": what, "answer": str(reply)})
        await asyncio.sleep(pause)
        pause = min(5.0, pause * 2)


async def keeps_managed_by(api: ApiServer, settings: Settings) -> bool:
    """Whether the API server stores ``spec.managedBy``, by a dry run (needs create on Jobs in our namespace)."""
    probe = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job-dispatcher-probe", "namespace": settings.namespace},
        "spec": {
            "managedBy": settings.managed_by,
            "suspend": True,
            "template": {
                "spec": {"restartPolicy": "Never", "containers": [{"name": "probe", "image": "probe"}]}
            },
        },
    }
    reply = await jobs.create_job(api, settings.namespace, probe, dry_run=True)
    if not reply.ok or reply.body is None:
        logger.warning("cannot check that spec.managedBy is kept", extra={"answer": str(reply)})
        return True
    return bool(reply.body["spec"].get("managedBy") == settings.managed_by)


async def check_management(api: ApiServer, settings: Settings) -> tuple[str, int]:
    """The UID and minor version of the management cluster.

    Raises :class:`SettingsError` for one that cannot be used.
    """
    version = await patiently(lambda: jobs.server_version(api), "version")
    minor = minor_version(version.body or {})
    if minor < MINIMUM_MINOR:
        found = (version.body or {}).get("gitVersion", "unknown")
        raise SettingsError(
            f"the management cluster's version {found} is too old: spec.managedBy needs 1.{MINIMUM_MINOR}"
        )
    if minor < LOCKED_MINOR and not await keeps_managed_by(api, settings):
        raise SettingsError(
            "the management API server drops spec.managedBy: turn its feature gate JobManagedBy on"
        )
    namespace = await patiently(lambda: jobs.get_namespace(api, "kube-system"), "kube-system")
    if not namespace.ok or namespace.body is None:
        raise SettingsError(f"the namespace kube-system cannot be read: {namespace}")
    return str(namespace.body["metadata"]["uid"]), minor
