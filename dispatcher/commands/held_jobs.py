"""Jobs that wait for a dispatcher before they can go: those with its finalizer."""

from collections.abc import Sequence
from typing import Final

from dispatcher.commands.refusals import Manifest
from dispatcher.core.names import FINALIZER

_SHOWN: Final = 10


def held(jobs: Sequence[Manifest]) -> list[Manifest]:
    """Those of the Jobs that have the finalizer."""
    return [job for job in jobs if FINALIZER in (job["metadata"].get("finalizers") or ())]


def named(jobs: Sequence[Manifest]) -> str:
    """The first names, for a message."""
    names = [f"{job['metadata']['namespace']}/{job['metadata']['name']}" for job in jobs]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def what_to_do(jobs: Sequence[Manifest], *, managed_by: str) -> str:
    """What a person reads who uninstalls the dispatcher while such Jobs are left."""
    several = len(jobs) != 1
    return f"""{len(jobs)} Job{"s" if several else ""} with spec.managedBy {managed_by} still \
need{"" if several else "s"} this dispatcher: {named(jobs)}

Only a running dispatcher removes their mirrors from the worker clusters; without one, the finalizer {FINALIZER}
holds each of them, and its namespace, when it is deleted. Either

  - delete them while the dispatcher runs (finished ones too), and uninstall when they are gone:
      kubectl dispatch get -A
      kubectl delete job -n NAMESPACE NAME

  - or give them up: uninstall without this check, then take the finalizer off. Mirrors go on running where they are,
    until they are deleted there:
      helm uninstall --no-hooks RELEASE
      kubectl dispatch release --all -A
      kubectl --context WORKER delete jobs -A -l jobdispatcher.io/origin"""
