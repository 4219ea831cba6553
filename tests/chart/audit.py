"""Which verbs an account used, from the API servers' audit logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from hack.lab import Plane
from tests.chart.charts import Manifest

BASIC = ("selfsubjectaccessreviews", "selfsubjectreviews", "selfsubjectrulesreviews")
"""What Kubernetes lets every account create."""


class Right(NamedTuple):
    """One verb. ``resource``: with its subresource; ``namespace``: "" for all of them (or for no namespace)."""

    verb: str
    resource: str
    group: str
    namespace: str


class Audit:
    """What one account of a plane asked for since this was made."""

    def __init__(self, plane: Plane, *, account: str) -> None:
        self._path = plane.audit_log
        self._user = f"system:serviceaccount:{account}"
        self._begin = self._path.stat().st_size

    def events(self) -> Iterator[dict[str, Any]]:
        """The account's requests on resources, in order."""
        with self._path.open("rb") as log:
            log.seek(self._begin)
            for line in log:
                if not line.endswith(b"\n"):
                    return  # it is being written
                event = json.loads(line)
                target = event.get("objectRef")
                if event["user"]["username"] != self._user or not target or not target.get("resource"):
                    continue
                if target["resource"] not in BASIC:
                    yield event

    def refused(self) -> set[Right]:
        """What the account asked for and RBAC did not allow."""
        return {
            _right(event)
            for event in self.events()
            if event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid"
        }

    def used(self) -> set[Right]:
        """What the account asked for and RBAC allowed."""
        return {
            _right(event)
            for event in self.events()
            if event.get("annotations", {}).get("authorization.k8s.io/decision") == "allow"
        }

    def unused(self, objects: list[Manifest]) -> set[Right]:
        """Rights of the account by these roles that it did not use."""
        used = self.used()
        return {right for right in rights(objects) if not any(_covers(right, one) for one in used)}


def rights(objects: list[Manifest]) -> set[Right]:
    """All rights of the roles that are bound."""
    bound = {
        (it["roleRef"]["kind"], it["roleRef"]["name"])
        for it in objects
        if it["kind"] in ("ClusterRoleBinding", "RoleBinding")
    }
    return {
        Right(verb, resource, group, role["metadata"].get("namespace", ""))
        for role in objects
        if (role["kind"], role["metadata"]["name"]) in bound
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _right(event: dict[str, Any]) -> Right:
    target = event["objectRef"]
    parts = (target["resource"], target.get("subresource"))
    resource = "/".join(part for part in parts if part)
    return Right(event["verb"], resource, target.get("apiGroup", ""), target.get("namespace", ""))


def _covers(right: Right, used: Right) -> bool:
    return right[:3] == used[:3] and right.namespace in ("", used.namespace)
