"""One key of the queue: observe, decide and act until nothing is left to do at once."""

from collections.abc import Callable
from time import monotonic

from dispatcher import metrics
from dispatcher.core.decision import decide
from dispatcher.core.manifest import mirror_labels
from dispatcher.core.observation import Observation
from dispatcher.core.recovery import persisted
from dispatcher.core.sight import unproven
from dispatcher.operator.executor import Executor
from dispatcher.operator.mirror_writes import MirrorIdentity
from dispatcher.operator.queue import Key
from dispatcher.operator.world import World


class Reconciler:
    """Decides and acts for one key until nothing is left to do at once."""

    MAX_ROUNDS = 20

    def __init__(self, world: World, executor: Executor, *, looks: Callable[[Key], None]) -> None:
        """``looks`` is told of each look at a Job, right before it."""
        self._world = world
        self._executor = executor
        self._looks = looks

    async def __call__(self, key: Key) -> float | None:
        """Reconcile one Job. Returns the seconds after which to look again, if any."""
        started = monotonic()
        latencies = self._world.latencies
        acted = False
        for _round in range(self.MAX_ROUNDS):
            await self._executor.jobs.availability.wait()
            manifest = self._world.jobs.get(*key)
            if manifest is None or not self._executor.gate.owns(manifest["metadata"]["uid"]):
                metrics.reconcile_found_nothing()
                return None
            if "deletionTimestamp" in manifest["metadata"] and self._executor.mirrors.busy(key):
                return None  # a POST under way could land after the last look; its end wakes the key
            rest = None if acted else self._world.rest(manifest)
            if rest is not None:
                return rest
            self._looks(key)
            since = latencies.take(key)
            observation = self._world.observe(manifest)
            self._prove_absent(key, observation)
            decision = decide(observation)
            if not decision.actions:
                self._world.mirror_notes.forget_ghosts(manifest["metadata"]["uid"])
                self._world.mirror_notes.forget_edits(key)
            self._world.room.book(key, manifest, decision)
            try:
                changed = await self._executor.carry_out(key, manifest, decision)
            finally:
                self._world.room.written(key)
            acted = acted or bool(decision.actions)
            latencies.decided(
                key, since, written=changed, acts=bool(decision.actions), look_again=decision.look_again
            )
            if not changed or not (decision.again or _may_forget(observation)):
                metrics.reconciled(monotonic() - started, changed=acted)
                return decision.look_again
        return 0.2

    def _prove_absent(self, key: Key, observation: Observation) -> None:
        """Have the mirrors looked for that should be seen and are not."""
        job = observation.job
        for ghost in self._world.mirror_notes.doubted(job.uid):
            labels = ghost.manifest["metadata"]["labels"]
            self._executor.mirrors.prove(key, MirrorIdentity(ghost.cluster, ghost.name, ghost.uid, labels))
        placement = persisted(job)
        if placement is None or job.deleted_at is not None or job.finished:
            return
        for share in unproven(observation, placement):
            labels = mirror_labels(job, share, origin=observation.rules.origin)
            self._executor.mirrors.prove(
                key, MirrorIdentity(share.cluster, share.mirror, share.mirror_uid, labels)
            )


def _may_forget(observation: Observation) -> bool:
    """Whether something is remembered of mirrors only until a look finds nothing left to do."""
    return bool(observation.edited) or any(mirror.gone for mirror in observation.mirrors)
