"""The decision: what to do next for one Job, from everything that is seen of it.

This is the whole semantics of the product, without I/O and without a clock. The operator calls it
again after each of its actions and whenever something changed, until nothing is left to do. Order
matters in one place: what decides (a placement, a verdict, a suspension) is written on the Job and
accepted before any mirror is touched because of it.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

from dispatcher.core import (
    candidates,
    capacity,
    dependencies,
    dispatched,
    leaving,
    mirroring,
    names,
    placing,
    rebalancing,
    recovery,
    reporting,
    sight,
    stopping,
    verdict,
)
from dispatcher.core.actions import Action, Claim, Decision, Event, WriteJob
from dispatcher.core.job import Job
from dispatcher.core.mirror import Mirror
from dispatcher.core.observation import Observation
from dispatcher.core.placement import Counts, Placement, Share, ShareState, with_epochs
from dispatcher.core.placing import Problem
from dispatcher.core.sight import Seen
from dispatcher.core.status import StatusDraft, seconds_until
from dispatcher.core.verdict import Verdict


def decide(observation: Observation) -> Decision:
    """What to do next for one Job."""
    job = observation.job
    if job.deleted_at is not None:
        return stopping.deleted_job(observation)
    if job.finished:
        return stopping.finished_job(observation)
    recovered = recovery.recover(observation)
    if recovered.waits_for:
        names_ = ", ".join(recovered.waits_for[: dispatched.LISTED_CLUSTERS])
        problem = Problem(
            "PlacementLost",
            f"The placement annotation is gone; it is rebuilt once every cluster is seen (waiting for {names_})",
        )
        return _refuse(observation, problem)
    if recovered.placement is None or recovered.events:
        placement = recovered.placement or Placement(job.uid)
        return _begin(observation, placement, recovered.events)
    return _continue(observation, recovered.placement)


def _begin(observation: Observation, placement: Placement, events: tuple[Event, ...]) -> Decision:
    """A Job without a (trustworthy) placement: claim and place it, or say why not."""
    job = observation.job
    seen = sight.see(observation, placement)
    draft = StatusDraft(job, observation.now)
    if job.completions == 0 and not placement.shares:
        if not job.suspend and job.start_time is None:
            draft.start()
        draft.count(seen.progress)
        outcome = verdict.standing(job) or Verdict(
            True, verdict.COMPLETIONS_REACHED, verdict.MESSAGES[verdict.COMPLETIONS_REACHED]
        )
        draft.decide(outcome)
        draft.finish(outcome, {}, observation.now)
        return _write(observation, draft, None, (*events, _end_event(outcome)))
    if job.suspend and not placement.shares:
        turned = draft.set_condition("Suspended", True, reason="JobSuspended", message="Job suspended")
        draft.count(seen.progress)
        told = (Event("Normal", "Suspended", "Job suspended"),) if turned else ()
        return _write(observation, draft, None, (*events, *told))
    if not observation.settled:
        return Decision()
    if job.suspend:
        draft.count(seen.progress)
        return _write(observation, draft, seen.placement, events)
    placed = placing.place_outstanding(observation, seen.placement, seen.progress, ())
    if isinstance(placed, Problem):
        return _refuse(observation, placed)
    placement = placing.move_parallelism(observation, placed.placement, seen.progress)
    fitted = capacity.within_room(observation, seen.placement, placement)
    claim = capacity.claim_of(job, fitted, placed.claim)
    placement = fitted.placement
    waiting = placed.waiting or capacity.shortage(observation, claim)
    events = (*events, *dispatched.tell_waiting(draft, waiting))
    events = (*events, *_resume(job, draft))
    if "startTime" not in draft.fields:
        draft.start()
    draft.count(seen.progress)
    wished = candidates.wish(observation)
    if wished.complaint:
        reason = "PreferencesMalformed" if wished.malformed else "PreferencesIgnored"
        events = (*events, Event("Warning", reason, wished.complaint))
    return _write(observation, draft, placement, events, claim=claim)


def _continue(observation: Observation, persisted: Placement) -> Decision:
    """A placed Job: take over what happened, judge it, move work, and bring the mirrors in line."""
    job = observation.job
    seen = sight.see(observation, persisted)
    outcome = verdict.judge(job, seen.placement, seen.progress, mirrors=seen.counting(), now=observation.now)
    if outcome is not None:
        return _end(observation, seen, outcome)
    draft = StatusDraft(job, observation.now)
    draft.count(seen.progress)
    events: list[Event] = list(seen.events)
    placement = seen.placement
    problem: Problem | None = None
    claim: Claim | None = None
    for share in seen.gone:
        placement = placement.retire(share)
    placement = leaving.retire_removed(observation, placement, seen.by_share)
    departed = leaving.lose(observation, placement, needs_refuge=True)
    evicted = leaving.evict(observation, departed.placement)
    placement = leaving.spare(observation, evicted.placement, seen.by_share, seen.progress)
    events += (*departed.events, *evicted.events)
    if job.completions is None and seen.progress.counts.succeeded:
        placement = _without_unmade(observation, seen, placement)
    if job.suspend:
        events += _suspend(observation, seen, draft)
    else:
        events += _resume(job, draft)
        placement = placing.cut_to_completions(job, placement, seen.progress)
        problem = dispatched.name_taken(observation, placement)
        placement = placing.rename_taken(observation, placement)
        placed = placing.place_outstanding(observation, placement, seen.progress, seen.gone)
        if isinstance(placed, Problem):
            problem = placed
        else:
            events += dispatched.tell_moved(placement, placed.placement)
            placement = placed.placement
        balanced = rebalancing.rebalance(observation, placement, seen.by_share, seen.progress)
        events += balanced.events
        placement = placing.move_parallelism(observation, balanced.placement, seen.progress)
        fitted = capacity.within_room(observation, persisted, placement)
        claim = capacity.claim_of(job, fitted, placed.claim)
        placement = fitted.placement
        if isinstance(placed, placing.Placed):
            events += dispatched.tell_waiting(draft, placed.waiting or capacity.shortage(observation, claim))
    told = dispatched.tell_dispatched(observation, seen, placement, draft, problem)
    decided = placement.structure != persisted.structure or told.turned or bool(events)
    events += told.events
    write = _draft_write(observation, draft, placement, tuple(events))
    if decided and write is not None:
        return Decision((write,), claim=claim)
    actions: list[Action] = []
    if job.completions is None and seen.progress.counts.succeeded:
        actions += _wind_down(observation, seen)
    actions += mirroring.steer(observation, seen.placement, seen.by_share, seen.progress)
    actions += leaving.withdraw(observation, persisted, seen.by_share)
    actions += mirroring.strays(observation, seen.persisted, seen.by_share)
    due = told.postponed or (reporting.due(observation) if write is not None and not events else None)
    if write is not None and due is None:
        actions.append(write)
    return Decision(tuple(actions), _look_again(observation, placement, due), claim, again=False)


def _without_unmade(observation: Observation, seen: Seen, placement: Placement) -> Placement:
    """A work queue that winds down makes no more mirrors; one that was surely never made is not waited for."""

    def may_exist(share: Share) -> bool:
        return (
            bool(share.mirror_uid)
            or share.id in seen.by_share
            or (share.cluster, share.mirror) in observation.in_flight
            or not observation.is_ready(share.cluster, share.cluster_uid)
        )

    return placement.with_shares(share for share in placement.shares if may_exist(share))


def _wind_down(observation: Observation, seen: Seen) -> list[Action]:
    actions: list[Action] = []
    for share in seen.placement.active:
        mirror = seen.by_share.get(share.id)
        if mirror is None or mirror.finished or mirror.gone or mirror.deleting:
            continue
        if mirror.status.get("succeeded") or not observation.is_ready(share.cluster, share.cluster_uid):
            continue
        if (mirror.status.get("uncountedTerminatedPods") or {}).get("succeeded"):
            continue
        actions.append(stopping.wind_down(mirror, observation))
    return actions


def _suspend(observation: Observation, seen: Seen, draft: StatusDraft) -> list[Event]:
    """Suspended turns True once every mirror has acknowledged it."""
    for mirror in _in_reach(observation, seen).values():
        if mirror.finished or mirror.gone or not mirror.seeded:
            continue
        if not mirror.is_true("Suspended") or mirror.status.get("active"):
            return []
    if not draft.set_condition("Suspended", True, reason="JobSuspended", message="Job suspended"):
        return []
    if observation.rules.clears_start_time:
        draft.clear_start()
    return [Event("Normal", "Suspended", "Job suspended")]


def _in_reach(observation: Observation, seen: Seen) -> dict[int, Mirror]:
    """The mirrors that the Job waits for: all but those of lost shares whose cluster is away."""
    lost = {
        share.id
        for share in seen.placement.shares
        if share.state in (ShareState.LOST, ShareState.REMOVING)
        and not observation.is_ready(share.cluster, share.cluster_uid)
    }
    return {share_id: mirror for share_id, mirror in seen.by_share.items() if share_id not in lost}


def _resume(job: Job, draft: StatusDraft) -> list[Event]:
    """Suspended turns False together with a new startTime; only where the condition was there."""
    if not job.is_true("Suspended"):
        return []
    draft.set_condition("Suspended", False, reason="JobResumed", message="Job resumed")
    draft.start()
    return [Event("Normal", "Resumed", "Job resumed")]


def _end(observation: Observation, seen: Seen, outcome: Verdict) -> Decision:
    """The Job's end is decided: write it, stop what runs, and finish once nothing does."""
    job = observation.job
    departed = leaving.lose(observation, seen.placement, needs_refuge=False)
    seen = replace(seen, placement=departed.placement)
    draft = StatusDraft(job, observation.now)
    if "startTime" not in draft.fields and not job.suspend:
        draft.start()
    new = draft.decide(outcome)
    draft.count(seen.progress)
    strays, away = _strays(observation, seen)
    ended = all(
        mirror.finished or mirror.gone or (mirror.suspend and mirror.still and not mirror.seeded)
        for mirror in (*_in_reach(observation, seen).values(), *strays, *away)
    )
    unseen = any(
        share.id not in seen.by_share
        # A POST under way may just be making it.
        and (share.mirror_uid or (share.cluster, share.mirror) in observation.in_flight)
        for share in seen.placement.held
        if share not in seen.gone
    )
    events = (*seen.events, *departed.events)
    finished = ended and not unseen
    if finished:
        _settle(seen, draft, job)
        draft.finish(outcome, seen.counting(), observation.now)
        events = (*events, _end_event(outcome))
    if new or finished:
        events = (*dispatched.tell_at_end(observation, seen, draft), *events)
    write = _draft_write(observation, draft, seen.placement, events)
    if new or events or seen.placement.structure != seen.persisted.structure:
        again = not (finished and _leaves_nothing(observation, seen.placement))
        return Decision((write,) if write else (), again=again)
    ready = {
        share.id for share in seen.placement.shares if observation.is_ready(share.cluster, share.cluster_uid)
    }
    running = [mirror for share_id, mirror in seen.by_share.items() if share_id in ready]
    left = [
        seen.by_share[share.id]
        for share in seen.placement.shares
        if share.id in ready and share.id in seen.by_share and _is_left(job, share, seen)
    ]
    actions: list[Action] = stopping.carry_out(outcome, (*running, *strays), observation, surplus=left)
    due = reporting.due(observation) if write is not None else None
    if write is not None and due is None:
        actions.append(write)
    return Decision(tuple(actions), _look_again(observation, seen.placement, due), again=False)


def _leaves_nothing(observation: Observation, placement: Placement) -> bool:
    """Whether the mirrors of a Job that is finished now can all stay as they are."""
    leaving_ = {cluster.name for cluster in observation.clusters.values() if cluster.leaving}
    return all(share.state is ShareState.FINISHED for share in placement.shares) and all(
        mirror.finished and mirror.cluster not in leaving_ for mirror in observation.mirrors
    )


def _is_left(job: Job, share: Share, seen: Seen) -> bool:
    """Whether a mirror has work left that the Job needs no more: it would not end by itself."""
    if share.state in (ShareState.DRAINING, ShareState.LOST, ShareState.REMOVING):
        return True
    mirror = seen.by_share[share.id]
    return job.completions is not None and mirror.count("succeeded") < mirror.spec.get("completions", 0)


def _strays(observation: Observation, seen: Seen) -> tuple[list[Mirror], list[Mirror]]:
    """Mirrors of the Job that no share holds any more (cut off, unknown): they end with it.

    Those on clusters in reach, and those on clusters that are away but not given up on yet.
    """
    known = {mirror.uid for mirror in seen.by_share.values()}
    strays = [mirror for mirror in observation.mirrors if mirror.uid not in known and not mirror.gone]
    ready = {cluster.name for cluster in observation.clusters.values() if cluster.ready}
    in_reach = [mirror for mirror in strays if mirror.cluster in ready]
    away = [
        mirror
        for mirror in strays
        if mirror.cluster not in ready and not leaving.is_given_up(observation, mirror.cluster)
    ]
    return in_reach, away


def _settle(seen: Seen, draft: StatusDraft, job: Job) -> None:
    """The last counters: nothing is active any more, whatever a mirror's last report said."""
    counts = Counts(seen.progress.counts.succeeded, seen.progress.counts.failed)
    draft.count(replace(seen.progress, counts=counts))


def _end_event(outcome: Verdict) -> Event:
    if outcome.succeeded:
        return Event("Normal", "Completed", "Job completed")
    return Event("Warning", outcome.reason, outcome.message)


def _refuse(observation: Observation, problem: Problem) -> Decision:
    """Say why a Job is not dispatched; nothing else of it is touched."""
    job = observation.job
    before = job.conditions.get(names.DISPATCHED)
    draft = StatusDraft(job, observation.now)
    draft.set_condition(names.DISPATCHED, False, reason=problem.reason, message=problem.message)
    events: tuple[Event, ...] = ()
    if before is None or before.status != "False" or before.reason != problem.reason:
        events = (Event("Warning", problem.reason, problem.message),)
    return _write(observation, draft, None, events, claim=problem.claim)


def _write(
    observation: Observation,
    draft: StatusDraft,
    placement: Placement | None,
    events: tuple[Event, ...],
    *,
    claim: Claim | None = None,
) -> Decision:
    write = _draft_write(observation, draft, placement, events)
    return Decision((write,) if write is not None else (), claim=claim)


def _draft_write(
    observation: Observation, draft: StatusDraft, placement: Placement | None, events: tuple[Event, ...]
) -> WriteJob | None:
    """The PUT that brings the Job to this status and placement; None if it is there already."""
    job = observation.job
    metadata: dict[str, Any] = dict(job.manifest["metadata"])
    changed = False
    if placement is not None:
        placement = with_epochs(placement, recovery.persisted(job), epoch=job.epoch)
        text = placement.stamped(observation.now).text
        if job.annotations.get(names.PLACEMENT_ANNOTATION) != text:
            metadata["annotations"] = {**job.annotations, names.PLACEMENT_ANNOTATION: text}
            changed = True
        if names.FINALIZER not in job.finalizers:
            metadata["finalizers"] = [*job.finalizers, names.FINALIZER]
            changed = True
    status = draft.build()
    if not changed and status == job.status:
        return None
    return WriteJob({**job.manifest, "metadata": metadata, "status": status}, events)


def _look_again(observation: Observation, placement: Placement, report: datetime | None) -> float | None:
    retries = [attempt.retry_at for attempt in observation.attempts.values()]
    retries += dependencies.retries(observation)
    moments = [moment for moment in retries if moment > observation.now]
    moments += leaving.turning_points(observation, placement)
    moments += rebalancing.turning_points(observation, placement)
    end = verdict.deadline(observation.job)
    if end is not None:
        moments.append(end)
    if report is not None:
        moments.append(report)
    return min((seconds_until(moment, observation.now) for moment in moments), default=None)
