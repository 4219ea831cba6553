"""What a worker cluster must have before it is used: a version that is new enough, and permissions."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Final

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.clusters.health import Finding, HealthReason
from dispatcher.clusters.permissions import Access, missing_permissions
from dispatcher.clusters.redaction import printable

MINIMUM_WORKER_VERSION: Final = (1, 31)


@dataclasses.dataclass(frozen=True, slots=True)
class Prerequisites:
    """What one check found."""

    server_version: str
    """``gitVersion``; empty when it could not be read."""
    findings: Sequence[Finding]
    """What stands in the way."""
    satisfied: bool
    """Everything could be asked, and nothing stands in the way."""


async def check(api: ApiServer, needed: Sequence[Access], *, timeout: float) -> Prerequisites:
    """Ask for version and permissions. ``timeout``: seconds a request.

    Where a question can not be asked, nothing is concluded: requests will tell.
    """
    findings: list[Finding] = []
    version = await jobs.server_version(api, timeout=timeout)
    git_version = printable(str((version.body or {}).get("gitVersion", "")))[:64] if version.ok else ""
    old = version_finding(git_version)
    if old is not None:
        findings.append(old)
    missing = await missing_permissions(api, needed, timeout=timeout)
    if isinstance(missing, list) and missing:
        names = ", ".join(map(str, missing))
        message = f"the account lacks, in all namespaces: {names}; grant them on the worker cluster"
        findings.append(Finding(HealthReason.MISSING_PERMISSIONS, message))
    satisfied = version.ok and isinstance(missing, list) and not findings
    return Prerequisites(git_version, findings, satisfied)


def version_finding(git_version: str, minimum: tuple[int, int] = MINIMUM_WORKER_VERSION) -> Finding | None:
    """``VERSION_TOO_OLD`` for a ``gitVersion`` such as ``v1.30.4+k3s1`` below the minimum, else None.

    A version that can not be read is let through: a fork's own numbering is no reason to refuse it.
    """
    match = re.match(r"v?(\d{1,6})\.(\d{1,6})", git_version)
    if match is None or (int(match[1]), int(match[2])) >= minimum or match[1] == "0":
        return None
    wanted = ".".join(map(str, minimum))
    return Finding(
        HealthReason.VERSION_TOO_OLD, f"the API server is {git_version}: workers must be at least v{wanted}"
    )
