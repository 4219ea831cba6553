"""One look at a placed Job: its shares with what their mirrors show, and what is lost."""

from collections.abc import Mapping
from dataclasses import dataclass

from dispatcher.core.mirror import Mirror
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Placement, Share
from dispatcher.core.progress import Progress, measure, observe_share, share_mirrors


@dataclass(frozen=True, slots=True)
class Seen:
    """A placed Job with its mirrors' state taken over.

    ``persisted`` is the placement as written, ``placement`` the same with counters, ends and UIDs taken
    over from ``by_share``, the mirrors by share id. ``lost`` are live shares whose mirrors are gone.
    """

    persisted: Placement
    placement: Placement
    by_share: Mapping[int, Mirror]
    progress: Progress
    lost: tuple[Share, ...]


def see(observation: Observation, persisted: Placement) -> Seen:
    """Take over what the mirrors show."""
    by_share = share_mirrors(persisted, observation.mirrors)
    placement = persisted.with_shares(
        observe_share(share, by_share.get(share.id)) for share in persisted.shares
    )
    progress = measure(observation.job, placement, by_share)
    lost = tuple(share for share in placement.active if _is_gone(observation, share, by_share))
    return Seen(persisted, placement, by_share, progress, lost)


def _is_gone(observation: Observation, share: Share, by_share: Mapping[int, Mirror]) -> bool:
    """A live share's mirror was there and is deleted; seen by its last state, or proven by a live read."""
    mirror = by_share.get(share.id)
    if mirror is not None:
        return mirror.gone
    return (share.cluster, share.mirror_uid) in observation.proven_gone


def unproven(observation: Observation, persisted: Placement) -> list[Share]:
    """Live shares whose mirrors were made and are not seen though they should be: a live read must tell."""
    by_share = share_mirrors(persisted, observation.mirrors)
    return [
        share
        for share in persisted.active
        if share.mirror_uid
        and share.id not in by_share
        and observation.is_ready(share.cluster, share.cluster_uid)
        and (share.cluster, share.mirror_uid) not in observation.proven_gone
    ]
