"""What the account on a worker cluster may do, asked before it matters."""

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Final

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.reply import Reply


@dataclasses.dataclass(frozen=True, slots=True)
class Access:
    """One verb on one resource in all namespaces."""

    verb: str
    resource: str
    group: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        return f"{self.verb} {resource}{'/' + self.subresource if self.subresource else ''}"


JOB_ACCESS: Final = tuple(
    Access(verb, "jobs", "batch") for verb in ("get", "list", "watch", "create", "patch", "delete")
)
MIRROR_ACCESS: Final = (
    *JOB_ACCESS,
    Access("patch", "jobs", "batch", "status"),
    Access("get", "namespaces"),
)
"""What mirrors on a worker cluster need."""


async def missing_permissions(
    api: ApiServer, needed: Sequence[Access], *, timeout: float | None = None
) -> list[Access] | Reply:
    """Those of ``needed`` that the account lacks, by SelfSubjectAccessReview; a Reply when it can not be asked."""
    replies = await asyncio.gather(*(_review(api, access, timeout) for access in needed))
    for reply in replies:
        if not reply.ok:
            return reply
    return [access for access, reply in zip(needed, replies, strict=True) if not _allows(reply)]


def _allows(reply: Reply) -> bool:
    status = (reply.body or {}).get("status")
    return isinstance(status, dict) and status.get("allowed") is True


async def _review(api: ApiServer, access: Access, timeout: float | None) -> Reply:
    attributes = {"verb": access.verb, "resource": access.resource}
    if access.group:
        attributes["group"] = access.group
    if access.subresource:
        attributes["subresource"] = access.subresource
    path = resource_path("authorization.k8s.io/v1", "selfsubjectaccessreviews")
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    return await api.request("POST", path, body=body, timeout=timeout)
