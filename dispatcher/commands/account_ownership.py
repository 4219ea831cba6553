"""Whose the dispatcher's account on a worker is: these commands', a chart's, or somebody else's."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from dispatcher.commands.connection import Connection
from dispatcher.commands.refusals import ClusterSaysNo, Manifest

MANAGER_LABEL: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "kubectl-dispatch"


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What there is of an account. ``manager``: who keeps the ServiceAccount, if not these commands; empty if they do,
    or where there is none yet.
    """

    manager: str
    existing: Sequence[Manifest]


def is_ours(found: Manifest) -> bool:
    """Whether these commands made an object."""
    return bool((found["metadata"].get("labels") or {}).get(MANAGER_LABEL) == MANAGER)


def look(worker: Connection, wanted: Mapping[str, Manifest]) -> Found:
    """Look at what is there of an account's objects, by path.

    :raises ClusterSaysNo: a role or binding of that name is somebody else's, who does not keep the account.
    """
    existing = {path: found for path in wanted if (found := worker.find(path)) is not None}
    manager = ""
    foreign = []
    for path, found in existing.items():
        if wanted[path]["kind"] == "Namespace" or is_ours(found):
            continue
        if wanted[path]["kind"] == "ServiceAccount":
            manager = manager_of(found)
        foreign.append(f"{wanted[path]['kind']} {found['metadata']['name']} ({manager_of(found)})")
    if foreign and not manager:
        raise ClusterSaysNo(
            f"not made by `kubectl dispatch join`, and so not overwritten on the worker: {', '.join(foreign)}; choose "
            "another name by --worker-account, or --existing-account if the account is ready"
        )
    return Found(manager, list(existing.values()))


def manager_of(found: Manifest) -> str:
    """Who keeps an object, in a word: what its label says, ``Helm`` for one."""
    return str((found["metadata"].get("labels") or {}).get(MANAGER_LABEL) or "somebody else")


def lessened(before: Sequence[Manifest], after: Sequence[Manifest]) -> list[str]:
    """What the roles among ``before`` allow that those of the same kind and name among ``after`` do not, for people."""
    wanted = {(it["kind"], it["metadata"]["name"]): set(_granted(it)) for it in after if "rules" in it}
    found = []
    for role in before:
        key = role["kind"], role["metadata"]["name"]
        if key in wanted:
            lost: dict[str, list[str]] = {}
            for resource, verb in sorted(set(_granted(role)) - wanted[key]):
                lost.setdefault(resource, []).append(verb)
            found += [f"{', '.join(verbs)} {resource}" for resource, verbs in lost.items()]
    return found


def _granted(role: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in role.get("rules") or ():
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                for verb in rule.get("verbs") or ():
                    yield f"{resource}.{group}" if group else resource, verb
