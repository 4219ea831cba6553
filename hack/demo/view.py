"""What is to be seen of a dispatched Job: the Job's own status, and each cluster's part. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dispatcher.core import names
from dispatcher.core.job import read_job
from dispatcher.core.mirror import local_counts, read_mirror
from dispatcher.core.placement import Counts, Share, parse_placement

Manifest = Mapping[str, Any]
FindMirror = Callable[[Share], Manifest | None]


@dataclass(frozen=True, slots=True)
class Part:
    """One share of the Job. ``parallelism`` is its present one; ``work`` is completions or indexes."""

    cluster: str
    mirror: str
    parallelism: int
    work: str
    completions: int
    counts: Counts
    state: str


@dataclass(frozen=True, slots=True)
class View:
    """A Job at one moment."""

    name: str
    completions: int
    counts: Counts
    completed_indexes: str
    state: str
    parts: tuple[Part, ...]

    @property
    def finished(self) -> bool:
        """Whether the Job has ended, well or not."""
        return self.state in ("Complete", "Failed")


def look(manifest: Manifest, find_mirror: FindMirror) -> View:
    """Read a Job of the management cluster and its mirrors; the mirrors' own pods only, without seeds."""
    job = read_job(manifest)
    text = job.annotations.get(names.PLACEMENT_ANNOTATION)
    shares = parse_placement(text).shares if text else ()
    order = ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget", "Suspended")
    state = next((kind for kind in order if job.is_true(kind)), "Running" if shares else "Waiting")
    counts = Counts(
        *(job.count(field) for field in ("succeeded", "failed", "active", "ready", "terminating"))
    )
    return View(
        name=job.key,
        completions=job.completions or 0,
        counts=counts,
        completed_indexes=str(job.status.get("completedIndexes", "")),
        state=state,
        parts=tuple(_part(share, find_mirror(share)) for share in shares),
    )


def _part(share: Share, manifest: Manifest | None) -> Part:
    counts, state = share.counts, "being made"
    if manifest is not None:
        mirror = read_mirror(manifest, share.cluster)
        counts = local_counts(mirror, share)
        ends = (kind for kind in ("Complete", "Failed", "Suspended") if mirror.is_true(kind))
        state = next(ends, "Running") if mirror.seeded else "being seeded"
    work = f"indexes {share.indexes.format()}" if share.interval else f"{share.completions} completions"
    return Part(share.cluster, share.mirror, share.parallelism, work, share.completions or 0, counts, state)
