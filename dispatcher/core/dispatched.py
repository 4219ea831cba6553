"""What a Job says of its dispatch: the conditions Dispatched and FullyPlaced, and their Events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from dispatcher.core import dependencies, names, reporting
from dispatcher.core.actions import Event
from dispatcher.core.candidates import complaint
from dispatcher.core.job import Job
from dispatcher.core.observation import Attempt, Observation, Refusal
from dispatcher.core.placement import Placement, Share, ShareState
from dispatcher.core.placing import Problem
from dispatcher.core.sight import Seen
from dispatcher.core.status import StatusDraft

LISTED_CLUSTERS = 10


def tell_waiting(draft: StatusDraft, waiting: str) -> list[Event]:
    """FullyPlaced is False while bounds leave work waiting, with the amount; True again after that."""
    if not waiting and not draft.has_condition(names.FULLY_PLACED):
        return []
    if not waiting:
        turned = draft.set_condition(names.FULLY_PLACED, True, reason="Placed", message="All work is placed")
        return [Event("Normal", "Placed", "All work is placed")] if turned else []
    turned = draft.set_condition(names.FULLY_PLACED, False, reason=names.WAITING_FOR_ROOM, message=waiting)
    return [Event("Normal", names.WAITING_FOR_ROOM, waiting)] if turned else []


@dataclass(frozen=True, slots=True)
class Told:
    """What was told: Events, whether the condition turned, until when that is put off for the first report."""

    events: tuple[Event, ...] = ()
    turned: bool = False
    postponed: datetime | None = None


def tell_dispatched(
    observation: Observation, seen: Seen, placement: Placement, draft: StatusDraft, problem: Problem | None
) -> Told:
    """Keep the Dispatched condition true to what is."""
    job = observation.job
    problem = problem or _unmade(observation, seen, placement) or _unsupplied(observation, seen, placement)
    if problem is not None:
        before = job.conditions.get(names.DISPATCHED)
        turned = draft.set_condition(names.DISPATCHED, False, reason=problem.reason, message=problem.message)
        told = turned or before is None or before.reason != problem.reason
        return Told((Event("Warning", problem.reason, problem.message),) if told else (), turned=told)
    if any(share.id not in seen.by_share for share in placement.active):
        return Told()
    summary = _summary(observation, placement)
    if job.is_true(names.DISPATCHED):
        draft.set_condition(names.DISPATCHED, True, reason="Dispatched", message=summary)
        return Told()
    reported = any(mirror.started for mirror in seen.by_share.values())
    due = reporting.dispatched_due(observation, reported=reported)
    if due is not None:
        return Told(postponed=due)
    return Told((_now_dispatched(draft, summary),))


def tell_at_end(observation: Observation, seen: Seen, draft: StatusDraft) -> tuple[Event, ...]:
    """A Job whose mirrors have all begun was dispatched, also where its end comes before that was told."""
    job = observation.job
    begun = {share_id for share_id, mirror in seen.by_share.items() if mirror.started}
    begun |= {share.id for share in seen.persisted.shares if share.state is ShareState.FINISHED}
    if job.is_true(names.DISPATCHED) or not begun or any(s.id not in begun for s in seen.persisted.active):
        return ()
    return (_now_dispatched(draft, _summary(observation, seen.persisted)),)


def _now_dispatched(draft: StatusDraft, summary: str) -> Event:
    draft.set_condition(names.DISPATCHED, True, reason="Dispatched", message=summary)
    return Event("Normal", "Dispatched", summary)


def _summary(observation: Observation, placement: Placement) -> str:
    found = complaint(observation)
    return f"{describe(placement)}. {found}" if found else describe(placement)


def describe(placement: Placement) -> str:
    """The shares in a short text, for the Dispatched condition and its Event."""
    shares = [share for share in placement.shares if share.state is not ShareState.REMOVING]
    clusters = len({share.cluster for share in shares})
    return f"Divided over {clusters} cluster{'' if clusters == 1 else 's'}: {_listed(shares)}"


def _listed(shares: Sequence[Share]) -> str:
    listed = ", ".join(f"{share.cluster} ({_part(share)})" for share in shares[:LISTED_CLUSTERS])
    more = f" and {len(shares) - LISTED_CLUSTERS} more" if len(shares) > LISTED_CLUSTERS else ""
    return listed + more


def _part(share: Share) -> str:
    """The parallelism of a finished share went to others: without it, what is listed adds up to the Job's."""
    finished = share.state is ShareState.FINISHED
    parts = [] if finished else [f"parallelism {share.parallelism}"]
    if share.interval is not None:
        parts.append(f"indexes {share.indexes.format()}")
    elif share.completions is not None:
        parts.append(f"completions {share.completions}")
    if finished or share.state in (ShareState.LOST, ShareState.DRAINING):
        parts.append(share.state.lower())
    return ", ".join(parts)


def tell_moved(before: Placement, after: Placement) -> list[Event]:
    """New shares for work that another cluster has left."""
    old = {share.id for share in before.shares}
    new = [share for share in after.shares if share.id not in old]
    left = [s.cluster for s in before.shares if s.state in (ShareState.LOST, ShareState.REMOVING)]
    if not new or not left:
        return []
    text = f"Work that {', '.join(sorted(set(left)))} had not done moves to {_listed(new)}"
    return [Event("Normal", "ShareMoved", text)]


def name_taken(observation: Observation, placement: Placement) -> Problem | None:
    """A foreign Job has the name of a mirror that is to be made; the mirror gets another name."""
    for share in placement.active:
        attempt = observation.attempts.get((share.cluster, share.mirror))
        if attempt is not None and attempt.refusal is Refusal.NAME_TAKEN and not share.mirror_uid:
            return Problem(attempt.refusal.value, _remedy(share, attempt, observation.job))
    return None


def _unmade(observation: Observation, seen: Seen, placement: Placement) -> Problem | None:
    """Why a share's mirror could not be made so far; None when all are, or are on their way."""
    for share in placement.active:
        if share.id in seen.by_share or share.mirror_uid:
            continue
        attempt = observation.attempts.get((share.cluster, share.mirror))
        if attempt is not None:
            return Problem(attempt.refusal.value, _remedy(share, attempt, observation.job))
        if not observation.is_ready(share.cluster, share.cluster_uid):
            cluster = observation.clusters.get(share.cluster)
            why = "it is not registered any more" if cluster is None else cluster.reason or "no answer yet"
            return Problem("ClusterUnreachable", f"Waiting for cluster {share.cluster}: {why}")
    return None


def _unsupplied(observation: Observation, seen: Seen, placement: Placement) -> Problem | None:
    """Why a share's mirror still waits for ConfigMaps and Secrets, if something stands in the way."""
    for share in placement.active:
        mirror = seen.by_share.get(share.id)
        if mirror is None or not mirror.suspend or mirror.finished or mirror.gone:
            continue
        if observation.is_ready(share.cluster, share.cluster_uid):
            found = dependencies.supply(observation, share, mirror)
            if found.holds and found.fault is not None:
                return Problem(found.fault.value, found.message)
    return None


def _remedy(share: Share, attempt: Attempt, job: Job) -> str:
    match attempt.refusal.value:
        case "NamespaceMissing":
            text = f"Cluster {share.cluster} has no namespace {job.namespace}; create it there"
            return f"{text}, or set createNamespace of its WorkerCluster"
        case "MirrorNameTaken":
            return (
                f"Cluster {share.cluster} has a Job {share.mirror} of its own in namespace {job.namespace}, "
                "which is not touched; the mirror gets another name"
            )
        case "ClusterUnreachable":
            return f"Waiting for cluster {share.cluster}: {attempt.message}"
        case _:
            return f"Cluster {share.cluster} refused the mirror {share.mirror}: {attempt.message}"
