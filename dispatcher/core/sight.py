"""One look at a placed Job: its shares with what their mirrors show, and what is gone."""

from collections.abc import Mapping
from dataclasses import dataclass

from dispatcher.core import leaving
from dispatcher.core.actions import Event
from dispatcher.core.mirror import Mirror
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Placement, Share, ShareState
from dispatcher.core.progress import Progress, measure, observe_share, share_mirrors


@dataclass(frozen=True, slots=True)
class Seen:
    """A placed Job with its mirrors' state taken over.

    ``persisted`` is the placement as written, ``placement`` the same with counters, ends and UIDs taken
    over from ``by_share``, the mirrors by share id. ``gone`` are shares with work whose mirrors are deleted.
    ``events`` tell of clusters that are back.
    """

    persisted: Placement
    placement: Placement
    by_share: Mapping[int, Mirror]
    progress: Progress
    gone: tuple[Share, ...]
    events: tuple[Event, ...] = ()

    def counting(self) -> dict[int, Mirror]:
        """The mirrors whose end is the Job's concern: not those that are gone, or that left with their share."""
        left = (ShareState.LOST, ShareState.REMOVING)
        states = {share.id: share.state for share in self.placement.shares}
        return {
            share_id: mirror
            for share_id, mirror in self.by_share.items()
            if not mirror.gone and states[share_id] not in left
        }


def see(observation: Observation, persisted: Placement) -> Seen:
    """Take over what the mirrors show."""
    by_share = share_mirrors(persisted, observation.mirrors)
    observed = persisted.with_shares(
        [observe_share(share, by_share.get(share.id)) for share in persisted.shares]
    )
    taken = leaving.take_in(observation, observed, by_share)
    progress = measure(observation.job, persisted, taken.placement, by_share)
    gone = tuple(
        share for share in taken.placement.held if leaving.is_gone(observation, share, by_share.get(share.id))
    )
    return Seen(persisted, taken.placement, by_share, progress, gone, taken.events)


def unproven(observation: Observation, persisted: Placement) -> list[Share]:
    """Shares whose mirrors were made and are not seen though they should be: a live read must tell."""
    seen = {(mirror.cluster, mirror.name, mirror.uid) for mirror in observation.mirrors}
    due = [share for share in persisted.shares if share.mirror_uid and share.state is not ShareState.FINISHED]
    if all((share.cluster, share.mirror, share.mirror_uid) in seen for share in due):
        return []  # nearly always
    by_share = share_mirrors(persisted, observation.mirrors)
    return [
        share
        for share in due
        if share.id not in by_share
        and observation.is_ready(share.cluster, share.cluster_uid)
        and (share.cluster, share.mirror_uid) not in observation.proven_gone
    ]
