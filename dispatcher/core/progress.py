"""How far a Job has come: its mirrors' own counters, brought together over all shares.

The published status and the placement hold what was counted before; a mirror that cannot be seen
now keeps contributing what was last counted of it. Nothing that was published ever goes back.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from dispatcher.core import mirror as mirrors
from dispatcher.core.indexes import EMPTY, IndexSet
from dispatcher.core.job import Job
from dispatcher.core.manifest import recorded_share
from dispatcher.core.mirror import Mirror
from dispatcher.core.placement import HOLDING, Counts, Placement, Share, ShareState


@dataclass(frozen=True, slots=True)
class Progress:
    """The Job's counters over all clusters. ``completed`` and ``failed_indexes`` are empty if not Indexed."""

    counts: Counts
    completed: IndexSet
    failed_indexes: IndexSet


def published_completed(job: Job) -> IndexSet:
    """The Job's own ``status.completedIndexes``."""
    return _parsed(job.status.get("completedIndexes"))


def published_failed(job: Job) -> IndexSet:
    """The Job's own ``status.failedIndexes``."""
    return _parsed(job.status.get("failedIndexes"))


def _parsed(text: str | None) -> IndexSet:
    try:
        return IndexSet.parse(text)
    except ValueError:
        return IndexSet()


def epoch_of(mirror: Mirror) -> int:
    """The epoch that a mirror was made for; 0 where it carries none."""
    epoch = (recorded_share(mirror.manifest) or {}).get("epoch")
    return epoch if isinstance(epoch, int) and not isinstance(epoch, bool) and epoch > 0 else 0


def is_late(placement: Placement, mirror: Mirror) -> bool:
    """Whether a mirror was made by a POST that was sent much too late: its share is over, has a mirror already,
    or was decided anew since. ``placement`` is the persisted one. Nothing that it did is ever counted.

    One that carries no epoch (made by hand, or its record was taken away) is not known for what it is.
    """
    epoch = epoch_of(mirror)
    if not epoch or mirror.share_id is None:
        return False
    share = next((share for share in placement.shares if share.id == mirror.share_id), None)
    if share is None:
        return mirror.share_id < placement.next_id
    if share.mirror_uid:
        return share.mirror_uid != mirror.uid
    return epoch < share.epoch


def share_mirrors(placement: Placement, seen: tuple[Mirror, ...]) -> dict[int, Mirror]:
    """The mirror of each share, by share id.

    Once its UID is known, that alone decides: labels may get lost. Before, cluster, name and share
    label have to agree. A Job that someone made up with our labels is no share's mirror.
    """
    by_id = {share.id: share for share in placement.shares}
    by_uid = {(share.cluster, share.mirror_uid): share for share in placement.shares if share.mirror_uid}
    found: dict[int, Mirror] = {}
    for mirror in seen:
        share = by_uid.get((mirror.cluster, mirror.uid))
        if share is None:
            share = by_id.get(-1 if mirror.share_id is None else mirror.share_id)
        if share is None or (mirror.cluster, mirror.name) != (share.cluster, share.mirror):
            continue
        if share.mirror_uid and share.mirror_uid != mirror.uid:
            continue
        if not share.mirror_uid and is_late(placement, mirror):
            continue
        other = found.get(share.id)
        if other is None or (other.gone and not mirror.gone):
            found[share.id] = mirror
    return found


def observe_share(share: Share, mirror: Mirror | None) -> Share:
    """The share with its mirror's UID, counters and end taken over. Settled counters never fall.

    What a mirror of a lost share shows counts only once it is stopped (:mod:`dispatcher.core.leaving`).
    """
    if mirror is None or share.state not in HOLDING:
        return share
    counts = mirrors.local_counts(mirror, share)
    if mirror.transient and not mirror.finished and not mirror.gone:
        counts = share.counts
    known = share.counts
    if counts.succeeded < known.succeeded or counts.failed < known.failed:
        counts = replace(
            counts,
            succeeded=max(counts.succeeded, known.succeeded),
            failed=max(counts.failed, known.failed),
        )
    state = ShareState.FINISHED if mirror.finished else share.state
    if (share.mirror_uid, known, share.state) == (mirror.uid, counts, state):
        return share
    return replace(share, mirror_uid=mirror.uid, counts=counts, state=state)


def measure(job: Job, persisted: Placement, placement: Placement, by_share: Mapping[int, Mirror]) -> Progress:
    """Bring the shares' counters together.

    ``placement`` is ``persisted`` with what the mirrors show taken over. Of a share that was lost, indexes
    that succeeded count once its mirror is stopped; those that failed there after the loss run elsewhere.
    """
    total = placement.total()
    succeeded, failed = job.count("succeeded"), max(total.failed, job.count("failed"))
    if not job.indexed:
        succeeded = max(total.succeeded, succeeded)
        if (succeeded, failed) != (total.succeeded, total.failed):
            total = replace(total, succeeded=succeeded, failed=failed)
        return Progress(total, EMPTY, EMPTY)
    completed, failed_indexes = published_completed(job), published_failed(job)
    published_failures = failed_indexes
    everything = IndexSet.interval(0, (job.completions or 0) - 1) if job.completions else IndexSet()
    before = {share.id: share.state for share in persisted.shares}
    for share in placement.shares:
        mirror = by_share.get(share.id)
        if mirror is None or not mirror.seeded or share.state is ShareState.LOST:
            continue
        # A seed marks failed indexes as completed, too.
        completed = completed | ((mirrors.completed_indexes(mirror) & share.indexes) - published_failures)
        if before[share.id] not in (ShareState.LOST, ShareState.REMOVING):
            failed_indexes = failed_indexes | (mirrors.failed_indexes(mirror) & share.indexes)
    completed = completed & everything
    failed_indexes = (failed_indexes & everything) - completed
    if job.completions == job.parallelism:
        # Only an elastic edit may lower what was published, and the server takes it only just after one.
        succeeded = 0
    succeeded = max(succeeded, len(completed))
    return Progress(replace(total, succeeded=succeeded, failed=failed), completed, failed_indexes)
