"""The DispatchPolicies as they are now, and which of them a Job has."""

import logging
from collections.abc import Mapping
from typing import Any

from dispatcher.core import names
from dispatcher.core.policy import DEFAULT_POLICY, Division, Policy, read_policy

logger = logging.getLogger(__name__)


class Policies:
    """Policies by namespace and name. One that cannot be read is kept as what is wrong with it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Policy | str] = {}
        self.versions: dict[str, str] = {}
        """The resourceVersion of each as it is known, by ``namespace/name``."""

    def put(self, manifest: dict[str, Any]) -> None:
        """A policy was made or changed."""
        metadata = manifest["metadata"]
        key = (metadata["namespace"], metadata["name"])
        self.versions["/".join(key)] = metadata.get("resourceVersion", "")
        try:
            self._known[key] = read_policy(manifest)
        except (KeyError, TypeError, ValueError) as error:
            self._known[key] = f"{error!r}"
            logger.warning(
                "DispatchPolicy not readable", extra={"policy": "/".join(key), "error": repr(error)}
            )

    def remove(self, namespace: str, name: str) -> None:
        """A policy is gone."""
        self._known.pop((namespace, name), None)
        self.versions.pop(f"{namespace}/{name}", None)

    @property
    def ask_for_room(self) -> bool:
        """Whether some policy divides by what is free."""
        return any(
            isinstance(policy, Policy) and policy.division is Division.AVAILABLE
            for policy in self._known.values()
        )

    def of(self, namespace: str, annotations: Mapping[str, str]) -> tuple[Policy, str]:
        """A Job's policy: the annotated one, else the namespace's ``default``, else the built-in default; with
        what is wrong where the annotated one, or ``default``, cannot be used.
        """
        wanted = annotations.get(names.POLICY_ANNOTATION)
        found = self._known.get((namespace, wanted or names.DEFAULT_POLICY_NAME))
        if isinstance(found, Policy):
            return found, ""
        name = wanted or names.DEFAULT_POLICY_NAME
        if isinstance(found, str):
            return (
                DEFAULT_POLICY,
                f"DispatchPolicy {name} cannot be read ({found}); apply the current CRDs and it again",
            )
        if wanted is None:
            return DEFAULT_POLICY, ""
        remedy = f"create it or take the annotation {names.POLICY_ANNOTATION} off"
        return DEFAULT_POLICY, f"there is no DispatchPolicy {name} in namespace {namespace}; {remedy}"
