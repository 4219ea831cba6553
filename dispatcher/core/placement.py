"""Which share of a Job is where: the record and its annotation.

The placement lives on the Job, as one compact JSON annotation, and is written before any mirror is
made. It is also user-writable, so reading it is defensive: what does not hold together is refused as
a whole and rebuilt from the mirrors (:mod:`dispatcher.core.recovery`).
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

import orjson

from dispatcher.core import names
from dispatcher.core.indexes import IndexSet

VERSION = 1
MAX_SHARES = 200
"""So many shares keep the annotation under 64 KiB, with names of up to 30 characters."""


def compact_json(value: Any) -> str:
    """JSON text without blanks."""
    return orjson.dumps(value).decode()


class PlacementError(ValueError):
    """The annotation is no placement; the message says why."""


class ShareState(StrEnum):
    """What a share is doing. One whose mirror is gone is no longer in the placement (see ``retired``).

    Active: its mirror runs its part, or is still to be made. Finished: its mirror is Complete or Failed.
    Draining: it must leave its cluster; its mirror is stopped, then counted. Lost: its cluster is away for
    too long; what was not counted by then runs elsewhere. Removing: all of it is counted that ever will be,
    and its mirror is deleted.
    """

    ACTIVE = "Active"
    FINISHED = "Finished"
    DRAINING = "Draining"
    LOST = "Lost"
    REMOVING = "Removing"


HOLDING = (ShareState.ACTIVE, ShareState.DRAINING)
"""States in which nobody else may have a share's work."""
SELF_EVIDENT = (ShareState.ACTIVE, ShareState.FINISHED)
"""States that the mirror itself shows; the others are decisions, persisted before they are acted on."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What a mirror was last seen to report of its own pods (for Indexed without the seed)."""

    succeeded: int = 0
    failed: int = 0
    active: int = 0
    ready: int = 0
    terminating: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.succeeded + other.succeeded,
            self.failed + other.failed,
            self.active + other.active,
            self.ready + other.ready,
            self.terminating + other.terminating,
        )

    def settled(self) -> "Counts":
        """Only what stays when the mirror is gone."""
        return Counts(self.succeeded, self.failed)


@dataclass(frozen=True, slots=True)
class Share:
    """A part of a Job on one cluster.

    ``completions`` is None for a work queue; ``interval`` (first, last) is set for Indexed. It holds
    ``completions`` indexes of its own and may span others that were decided before the share was made.
    ``mirror_uid`` is empty until the mirror was seen. ``entered``: a state and when the share came into it (POSIX
    seconds, 0 where that is not known); None while the share was never persisted. ``epoch`` is the resourceVersion
    of the Job that its part was decided on, 0 where that is not known; its mirror carries it too (:func:`with_epochs`).
    """

    id: int
    cluster: names.ClusterName
    cluster_uid: str
    mirror: str
    parallelism: int
    completions: int | None
    interval: tuple[int, int] | None = None
    mirror_uid: str = ""
    state: ShareState = ShareState.ACTIVE
    counts: Counts = field(default_factory=Counts)
    epoch: int = 0
    entered: tuple[ShareState, int] | None = field(default=None, compare=False)

    @property
    def since(self) -> int:
        """When the share came into its state, in POSIX seconds; 0 where that is not known."""
        return self.entered[1] if self.entered and self.entered[0] is self.state else 0

    @property
    def part(self) -> tuple[Any, ...]:
        """What its mirror is made for; parallelism can be changed on a running one."""
        return (self.cluster, self.cluster_uid, self.mirror, self.completions, self.interval)

    @property
    def remaining(self) -> int | None:
        """Completions that are not yet reached; None for a work queue."""
        return None if self.completions is None else max(0, self.completions - self.counts.succeeded)

    @property
    def decided_before(self) -> int:
        """How many indexes of the interval were decided when the share was made; the seed holds them."""
        return (
            0 if self.interval is None else self.interval[1] - self.interval[0] + 1 - (self.completions or 0)
        )

    @property
    def indexes(self) -> IndexSet:
        """The indexes of an Indexed share; empty for any other."""
        return IndexSet.interval(*self.interval) if self.interval else IndexSet()


@dataclass(frozen=True)
class Placement:
    """All shares of one Job. ``retired`` holds, by cluster, the counts of shares that are no more.

    What is derived of one is kept with it: the same placement is looked at by many decisions (see
    :func:`parse_placement`).
    """

    job_uid: str
    shares: tuple[Share, ...] = ()
    next_id: int = 0
    retired: Mapping[str, Counts] = field(default_factory=dict)

    @cached_property
    def active(self) -> tuple[Share, ...]:
        """The live shares: their mirrors run or are still to be made."""
        return tuple(share for share in self.shares if share.state is ShareState.ACTIVE)

    @cached_property
    def held(self) -> tuple[Share, ...]:
        """The shares whose work nobody else may have: live ones, and those being stopped."""
        return tuple(share for share in self.shares if share.state in HOLDING)

    def with_parallelism(self, wanted: Mapping[int, int]) -> "Placement":
        """The same placement with this parallelism for the shares with these ids."""
        return self.updated(
            replace(share, parallelism=wanted[share.id])
            for share in self.shares
            if wanted.get(share.id, share.parallelism) != share.parallelism
        )

    def total(self) -> Counts:
        """The counts of all shares, live, finished and retired."""
        if len(self.shares) == 1 and not self.retired:
            return self.shares[0].counts
        return sum((share.counts for share in self.shares), sum(self.retired.values(), Counts()))

    def updated(self, changed: Iterable[Share]) -> "Placement":
        """The same placement with these shares in place of those with their ids; itself where there are none."""
        by_id = {share.id: share for share in changed}
        if not by_id:
            return self
        return replace(self, shares=tuple(by_id.get(share.id, share) for share in self.shares))

    def with_shares(self, shares: Iterable[Share]) -> "Placement":
        """The same placement with these shares instead; itself where they are the same objects."""
        wanted = tuple(shares)
        if len(wanted) == len(self.shares) and all(map(operator.is_, wanted, self.shares)):
            return self
        return replace(self, shares=wanted)

    def retire(self, gone: Share) -> "Placement":
        """Fold a share whose mirror is gone into the totals of its cluster."""
        before = self.retired.get(gone.cluster, Counts())
        return replace(
            self,
            shares=tuple(share for share in self.shares if share.id != gone.id),
            retired={**self.retired, gone.cluster: before + gone.counts.settled()},
        )

    def stamped(self, now: datetime) -> "Placement":
        """With the time noted for each share that has come into its state since it was last persisted."""
        moment = int(now.timestamp())
        return self.updated(
            replace(share, entered=(share.state, moment))
            for share in self.shares
            if not share.entered or share.entered[0] is not share.state
        )

    @cached_property
    def text(self) -> str:
        """As the annotation has it. The same placement always gives the same text."""
        return format_placement(self)

    @cached_property
    def structure(self) -> tuple[Any, ...]:
        """What must be persisted before a mirror is touched: everything but counts and mirror UIDs."""
        return (
            self.job_uid,
            self.next_id,
            tuple(
                (s.id, s.cluster, s.cluster_uid, s.mirror, s.parallelism, s.completions, s.interval)
                + (() if s.state in SELF_EVIDENT else (s.state,))
                for s in self.shares
            ),
        )


def share_record(share: Share) -> dict[str, Any]:
    """A share as JSON: in the placement and, without what changes, on its mirror."""
    record: dict[str, Any] = {
        "id": share.id,
        "cluster": share.cluster,
        "clusterUID": share.cluster_uid,
        "mirror": share.mirror,
        "parallelism": share.parallelism,
    }
    if share.completions is not None:
        record["completions"] = share.completions
    if share.interval is not None:
        record["indexes"] = share.indexes.format()
    if share.epoch:
        record["epoch"] = share.epoch
    return record


def share_text(share: Share) -> str:
    """A share's record as its mirror carries it."""
    return compact_json(share_record(share))


def with_epochs(placement: Placement, before: Placement | None, *, epoch: int) -> Placement:
    """The placement about to be written, each share that is new or has another part with this epoch.

    The epoch is the resourceVersion that guards the write, so that later decisions have higher ones: whichever
    process makes them, and also after the placement was lost and rebuilt. A mirror that is made for an earlier
    epoch than its share's was sent before and is late.
    """
    if placement is before:
        return placement
    parts = {share.id: (share.part, share.epoch) for share in before.shares} if before is not None else {}
    changed = []
    for share in placement.shares:
        part, earlier = parts.get(share.id, (None, epoch))
        if part is None and share.mirror_uid:
            earlier = share.epoch  # rebuilt from its mirror
        wanted = earlier if part is None or part == share.part else epoch
        if share.epoch != wanted:
            changed.append(replace(share, epoch=wanted))
    return placement.updated(changed)


def _counts_record(counts: Counts) -> list[int]:
    return [counts.succeeded, counts.failed, counts.active, counts.ready, counts.terminating]


def format_placement(placement: Placement) -> str:
    """The annotation's text. The same placement always gives the same text."""
    shares = []
    for share in placement.shares:
        record = share_record(share)
        record["mirrorUID"] = share.mirror_uid
        record["state"] = share.state.value
        if share.since:
            record["since"] = share.since
        if share.counts != Counts():
            record["counts"] = _counts_record(share.counts)
        shares.append(record)
    document: dict[str, Any] = {
        "version": VERSION,
        "jobUID": placement.job_uid,
        "nextShare": placement.next_id,
        "shares": shares,
    }
    if placement.retired:
        document["retired"] = {
            cluster: _counts_record(counts)[:2] for cluster, counts in sorted(placement.retired.items())
        }
    return compact_json(document)


def _integer(record: Mapping[str, Any], key: str, *, below: int = 2**31) -> int:
    value = record[key]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < below:
        raise PlacementError(f"{key} is not a whole number of 0 or more")
    return value


def _text(record: Mapping[str, Any], key: str, *, most: int = 253) -> str:
    value = record[key]
    if not isinstance(value, str) or len(value) > most:
        raise PlacementError(f"{key} is not a short text")
    return value


def _counts(values: Any) -> Counts:
    if not isinstance(values, list) or len(values) not in (2, 5):
        raise PlacementError("counts is not a list of 2 or 5 numbers")
    return Counts(*(_integer({"counts": value}, "counts") for value in values))


def parse_interval(text: str) -> tuple[int, int]:
    """One interval of indexes, as a share's record names it. Raises ValueError for anything else."""
    intervals = list(IndexSet.parse(text).intervals)
    if not intervals or intervals[0][0] < 0 or len(intervals) > 1:
        raise PlacementError("indexes is not one interval")
    return intervals[0]


def read_share(record: Mapping[str, Any]) -> Share:
    """Read a share's record. Raises :class:`PlacementError`, :class:`KeyError`, :class:`ValueError`."""
    interval = parse_interval(_text(record, "indexes")) if "indexes" in record else None
    completions = _integer(record, "completions") if "completions" in record else None
    if interval is not None and not 1 <= (completions or 0) <= interval[1] - interval[0] + 1:
        raise PlacementError("completions does not match indexes")
    state = ShareState(record.get("state", ShareState.ACTIVE))
    return Share(
        id=_integer(record, "id"),
        cluster=names.ClusterName(_text(record, "cluster")),
        cluster_uid=_text(record, "clusterUID"),
        mirror=_text(record, "mirror"),
        parallelism=_integer(record, "parallelism"),
        completions=completions,
        interval=interval,
        mirror_uid=_text(record, "mirrorUID") if "mirrorUID" in record else "",
        state=state,
        counts=_counts(record["counts"]) if "counts" in record else Counts(),
        entered=(state, _integer(record, "since") if "since" in record else 0),
        epoch=_integer(record, "epoch", below=2**63) if "epoch" in record else 0,
    )


@lru_cache(maxsize=4096)
def parse_placement(text: str) -> Placement:
    """Read the annotation. Raises :class:`PlacementError` for whatever is not a placement of ours."""
    try:
        document = orjson.loads(text)
        if not isinstance(document, dict):
            raise PlacementError("not a JSON object")
        if document.get("version") != VERSION:
            raise PlacementError(f"version {document.get('version')!r} is not {VERSION}")
        placement = Placement(
            job_uid=_text(document, "jobUID"),
            next_id=_integer(document, "nextShare"),
            shares=tuple(read_share(record) for record in document["shares"]),
            retired={
                str(cluster): _counts(counts) for cluster, counts in document.get("retired", {}).items()
            },
        )
    except PlacementError:
        raise
    except KeyError as missing:
        raise PlacementError(f"{missing.args[0]} is missing") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PlacementError(f"cannot be read: {error}") from None
    ids = [share.id for share in placement.shares]
    if len(set(ids)) != len(ids) or any(share_id >= placement.next_id for share_id in ids):
        raise PlacementError("share ids are not unique or not below nextShare")
    return placement
