"""What the shell offers behind TAB: Jobs, worker clusters, namespaces, contexts.

A completion never says anything but names: whatever goes wrong, it offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import click

from dispatcher.commands.refusals import ClusterSaysNo

if TYPE_CHECKING:
    from dispatcher.commands.management import ManagementCluster

_SECONDS: Final = 3.0
"""A shell that waits longer for names is worse than one without."""


def _set(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if value is not None}


def _names(find: Callable[[ManagementCluster, click.Context], list[str]]) -> Callable[..., list[str]]:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        from dispatcher.commands.management import ManagementCluster

        # Options may stand before the verb, too.
        given = {**(ctx.parent.params if ctx.parent else {}), **_set(ctx.params)}
        management = ManagementCluster(
            namespace=given.get("namespace"),
            kubeconfig=given.get("kubeconfig"),
            context=given.get("context"),
            request_timeout=_SECONDS,
        )
        try:
            found = find(management, ctx)
        except ClusterSaysNo:
            return []
        taken = ctx.params.get(param.name or "") or ()
        taken = (taken,) if isinstance(taken, str) else taken
        return sorted(name for name in found if name.startswith(incomplete) and name not in taken)

    return complete


def _jobs(management: ManagementCluster, ctx: click.Context) -> list[str]:
    managed_by = ctx.params.get("managed_by")
    listed = management.get_all(management.jobs_path())
    return [
        job["metadata"]["name"]
        for job in listed
        if managed_by is None or job["spec"].get("managedBy") == managed_by
    ]


def _clusters(management: ManagementCluster, ctx: click.Context) -> list[str]:
    return [item["metadata"]["name"] for item in management.get_all(management.clusters_path())]


def _namespaces(management: ManagementCluster, ctx: click.Context) -> list[str]:
    return [item["metadata"]["name"] for item in management.get_all("/api/v1/namespaces")]


def complete_contexts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Contexts of the kubeconfig."""
    from dispatcher.commands.kubeconfigs import read_contexts

    try:
        found = read_contexts(ctx.params.get("kubeconfig"))
    except ClusterSaysNo:
        return []
    return sorted(name for name in found if name.startswith(incomplete))


complete_jobs: Final = _names(_jobs)
"""Dispatched Jobs of the namespace."""
complete_clusters: Final = _names(_clusters)
"""Worker clusters."""
complete_namespaces: Final = _names(_namespaces)
"""Namespaces."""


def complete_cluster_lists(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Worker clusters in a comma-separated list: what is before the last comma stays."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    found = complete_clusters(ctx, param, last)
    return [f"{before}{comma}{name}" for name in found if name not in taken]
