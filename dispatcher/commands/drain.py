"""``kubectl dispatch drain``: work leaves a cluster."""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import click

from dispatcher.commands import worker_clusters
from dispatcher.commands.completing import complete_clusters
from dispatcher.commands.durations import DURATION
from dispatcher.commands.management import ManagementCluster, connection_options
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.watching import Followed
from dispatcher.core.names import DRAIN_TAINT
from dispatcher.core.placement import Share

TAINT: Final = {"key": DRAIN_TAINT, "effect": "NoExecute"}
_REMIND_SECONDS: Final = 30.0
_NAMED: Final = 10
"""So many Jobs are named in one message."""

Left = Mapping[str, Sequence[Share]]
"""Unfinished shares on the cluster, by ``namespace/name`` of their Job."""


@click.command()
@click.argument("name", shell_complete=complete_clusters)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until no work is left there.")
@click.option(
    "--timeout",
    type=DURATION,
    default="0",
    show_default=True,
    metavar="DURATION",
    help="Longest wait, such as 10m; 0 for any.",
)
@connection_options
def drain(name: str, wait: bool, timeout: float, management: ManagementCluster) -> None:
    """Take the work off a worker cluster, and wait until none is left.

    The cluster gets no new work, and the taint jobdispatcher.io/drain:NoExecute, by which what is not finished
    there moves to other clusters. Work of Jobs whose policy tolerates the taint stays until it is finished.
    Finished mirrors stay, with their logs. uncordon undoes it.

    \b
    Examples:
      kubectl dispatch drain worker-1
      kubectl dispatch drain worker-1 --timeout 30m
      kubectl dispatch drain worker-1 --no-wait
    """
    jobs = Followed(management, management.jobs_path(all_namespaces=True)) if wait else None
    if jobs is not None:
        # A missing right to see the Jobs is said before anything is changed.
        jobs.changes(None)
    cluster, changed = worker_clusters.change(management, name, _drained)
    click.echo(f"workercluster.jobdispatcher.io/{name} {'cordoned' if changed else 'already cordoned'}")
    if jobs is not None:
        _wait(management, cluster, jobs, timeout=timeout)
        click.echo(f"workercluster.jobdispatcher.io/{name} drained")


def _drained(spec: Manifest) -> Manifest:
    taints = [*(worker_clusters.without_taint(spec, DRAIN_TAINT) or ()), TAINT]
    present = spec.get("taints") or []
    return {"unschedulable": True, "taints": present if TAINT in present else taints}


def _wait(management: ManagementCluster, cluster: Manifest, jobs: Followed, *, timeout: float) -> None:
    name = cluster["metadata"]["name"]
    clusters = Followed(management, management.clusters_path(), {"fieldSelector": f"metadata.name={name}"})
    clusters.changes(None)
    end = time.monotonic() + timeout if timeout else float("inf")
    progress = _Progress(name)
    while True:
        seen = clusters.objects.get(("", name))
        if seen is None:
            raise ClusterSaysNo(f"the WorkerCluster {name} has been deleted")
        unseen = not _noticed(seen, cluster["metadata"]["generation"])
        left = unfinished(jobs.objects.values(), name)
        progress.say(left, unseen=unseen)
        if not left and not unseen:
            return
        if time.monotonic() >= end:
            raise ClusterSaysNo(f"not drained within {timeout:g}s: {progress.waits_for(left, unseen=unseen)}")
        jobs.changes(min(1.0, max(0.01, end - time.monotonic())))
        clusters.changes(0.01)


def _noticed(cluster: Manifest, generation: int) -> bool:
    """Whether the dispatcher has seen this generation: before, it may still place work there."""
    observed = worker_clusters.ready_condition(cluster).get("observedGeneration") or 0
    return bool(observed >= generation)


def unfinished(jobs: Iterable[Manifest], cluster: str) -> dict[str, list[Share]]:
    """The Jobs with unfinished shares on a cluster."""
    found: dict[str, list[Share]] = {}
    for job in jobs:
        if shares := worker_clusters.unfinished_shares(job, cluster):
            found[f"{job['metadata']['namespace']}/{job['metadata']['name']}"] = shares
    return dict(sorted(found.items()))


class _Progress:
    """Says what is waited for: at first, when a Job is done there, and as a reminder."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._before: Left | None = None
        self._said = time.monotonic()

    def say(self, left: Left, *, unseen: bool) -> None:
        """Print what is new."""
        before, self._before = self._before, left
        for name in (before or {}).keys() - left.keys():
            self._print(f"{name} has nothing left on {self._cluster}")
        news = before is None or left.keys() - before.keys() or (before and not left)
        due = time.monotonic() - self._said >= _REMIND_SECONDS
        if (left or unseen) and (news or due):
            self._print(f"waiting: {self.waits_for(left, unseen=unseen)}")

    def waits_for(self, left: Left, *, unseen: bool) -> str:
        """The reason that it is not drained."""
        if not left and unseen:
            return "the dispatcher has not noticed yet; is it running?"
        named = [describe_shares(name, shares) for name, shares in list(left.items())[:_NAMED]]
        more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
        count = f"{len(left)} Job{'' if len(left) == 1 else 's'}"
        return f"{count} with unfinished work on {self._cluster}: {', '.join(named)}{more}"

    def _print(self, text: str) -> None:
        self._said = time.monotonic()
        click.echo(text)


def describe_shares(name: str, shares: Sequence[Share]) -> str:
    """A Job's unfinished part in a few words: ``team/pi (3 active, 5 completions left, Draining)``."""
    active = sum(share.counts.active for share in shares)
    known = [share.remaining for share in shares if share.remaining is not None]
    left = [f"{sum(known)} completions left"] if known else []
    states = sorted({share.state.value for share in shares} - {"Active"})
    return f"{name} ({', '.join([f'{active} active', *left, *states])})"
