"""Jobs followed to their end: live on a terminal, a line for each change anywhere else."""

import sys
import time
from collections.abc import Mapping, Sequence

import click

from dispatcher.commands.dispatched_job import is_finished, message
from dispatcher.commands.get_watch import Shape
from dispatcher.commands.management import ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.watching import Change, Followed


class _Race:
    """The last state of each Job, by UID, and those that were deleted before their end."""

    def __init__(self, jobs: Sequence[Manifest]) -> None:
        self.last: dict[str, Manifest] = {job["metadata"]["uid"]: job for job in jobs}
        self.deleted: set[str] = set()

    def take(self, followed: Mapping[str, Followed], timeout: float) -> list[Change]:
        """Wait for changes of these Jobs. ``followed``: by namespace."""
        news = []
        for namespace, source in followed.items():
            before = source.listed
            for change in source.changes(timeout / len(followed)):
                uid = change.manifest["metadata"]["uid"]
                if uid in self.last:
                    self.last[uid] = change.manifest
                    news.append(change)
                    if change.kind == "DELETED":
                        self.deleted.add(uid)
            if not before and source.listed:
                self._miss(namespace, source)
        return news

    def _miss(self, namespace: str, source: Followed) -> None:
        """Jobs that were gone before the first list."""
        there = {item["metadata"]["uid"] for item in source.objects.values()}
        for uid, job in self.last.items():
            if job["metadata"]["namespace"] == namespace and uid not in there:
                self.deleted.add(uid)

    @property
    def is_over(self) -> bool:
        """Whether every Job has ended, or is gone."""
        return all(uid in self.deleted or is_finished(job) for uid, job in self.last.items())

    def ends(self) -> list[tuple[Manifest, str]]:
        """Each Job in its last state, with the reason where it is not complete."""
        return [
            (job, "it was deleted" if uid in self.deleted and not is_finished(job) else message(job))
            for uid, job in self.last.items()
        ]


def follow_to_the_end(
    management: ManagementCluster, jobs: Sequence[Manifest], *, timeout: float, began: float
) -> list[tuple[Manifest, str]]:
    """Show how the Jobs get on until all have ended; each in its last state, and why it is not complete.

    ``timeout``: seconds from ``began`` (of the monotonic clock), 0 for any.

    Raises:
        ClusterSaysNo: the time is over; the Jobs go on.
    """
    race = _Race(jobs)
    namespaces = sorted({job["metadata"]["namespace"] for job in jobs})
    followed = {namespace: _follow(management, namespace, jobs) for namespace in namespaces}
    shape = Shape(with_namespace=len(namespaces) > 1, wide=False, with_headers=True)
    end = began + timeout if timeout else float("inf")

    def is_over() -> bool:
        return race.is_over or time.monotonic() >= end

    if sys.stdout.isatty():
        from dispatcher.commands.live import LiveTable, show_live

        def present() -> LiveTable:
            trouble = "; ".join(filter(None, (source.trouble for source in followed.values())))
            kinds = {uid: "DELETED" if uid in race.deleted else "MODIFIED" for uid in race.last}
            changes = [Change(kinds[uid], job) for uid, job in race.last.items()]  # type: ignore[arg-type]
            headers, rows = shape.rows(changes)
            return LiveTable(headers, rows, trouble=trouble)

        show_live(present, lambda seconds: bool(race.take(followed, seconds)), until=is_over)
    else:
        while not is_over():
            if lines := shape.text(race.take(followed, min(1.0, max(0.01, end - time.monotonic())))):
                click.echo(lines)
    if not race.is_over:
        waiting = [job["metadata"]["name"] for job in race.last.values() if not is_finished(job)]
        raise ClusterSaysNo(f"not finished within {timeout:g}s: {', '.join(waiting)}; the Jobs go on")
    return race.ends()


def _follow(management: ManagementCluster, namespace: str, jobs: Sequence[Manifest]) -> Followed:
    names = [job["metadata"]["name"] for job in jobs if job["metadata"]["namespace"] == namespace]
    parameters = {"fieldSelector": f"metadata.name={names[0]}"} if len(names) == 1 else {}
    return Followed(management, management.jobs_path(namespace=namespace), parameters)
