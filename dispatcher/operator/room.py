"""The account of every cluster's capacity: what each Job holds there, and who waits for room, in what order.

Decisions on many Jobs are under way at once, so what a decision takes is booked before its write is awaited.
Nothing of it is stored: placements and mirrors say it all after a restart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dispatcher.core import capacity, names
from dispatcher.core.actions import Claim, Decision, WriteJob
from dispatcher.core.job import Manifest, read_job, timestamp
from dispatcher.core.mirror import Mirror
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster
from dispatcher.core.placement import Placement
from dispatcher.core.progress import share_mirrors
from dispatcher.core.recovery import persisted
from dispatcher.operator.queue import Key

Amounts = Mapping[ClusterName, int]
PATIENCE = timedelta(minutes=15)
"""Who has waited for so long is served before all others, whatever their priority: so nobody starves."""


@dataclass(frozen=True, slots=True)
class Turn:
    """By what a Job that waits is served; ``created`` and ``waits_since`` are the API's timestamps, the latter
    empty before the Job itself says that it waits.
    """

    priority: int
    created: str
    waits_since: str
    key: Key
    uid: str

    def rank(self, long_ago: str) -> tuple[int, int, str, Key]:
        """What is lower is served first: those who wait since ``long_ago`` or before, then by priority, then by age."""
        if self.waits_since and self.waits_since <= long_ago:
            return 0, 0, self.waits_since, self.key
        return 1, -self.priority, self.created, self.key


class RoomAccount:
    """Books what Jobs hold on clusters with a capacity; costs nothing where no cluster has one.

    ``find_job`` and ``find_mirrors`` look into the caches; ``clusters`` gives the registered clusters;
    ``priority`` is that of a Job's pods, ``now`` the clock; ``owns`` says whether this process decides on the Job with
    this UID: a claim of another's may be served long since.
    """

    def __init__(
        self,
        *,
        jobs: Callable[[], Sequence[Manifest]],
        find_job: Callable[[Key], Manifest | None],
        find_mirrors: Callable[[str, str], tuple[Mirror, ...]],
        clusters: Callable[[], Mapping[ClusterName, Cluster]],
        priority: Callable[[Manifest], int],
        wake: Callable[[Key], None],
        owns: Callable[[str], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._jobs = jobs
        self._find_job = find_job
        self._find_mirrors = find_mirrors
        self._clusters = clusters
        self._priority = priority
        self._wake = wake
        self._owns = owns
        self._now = now
        self._bounds: dict[ClusterName, int] = {}
        self._held: dict[Key, Amounts] = {}
        self._totals: dict[ClusterName, int] = {}
        self._booked: dict[Key, Amounts] = {}
        self._claims: dict[Key, tuple[Turn, Claim]] = {}
        self._complete = False

    def complete(self) -> None:
        """All Jobs are known; until then nothing is free, for it may be another Job's."""
        self._complete = True

    def clusters_changed(self) -> None:
        """Capacities may have changed: with the first one, everything is counted."""
        before, self._bounds = self._bounds, capacity.bounds(self._clusters().values())
        if self._bounds and not before:
            for manifest in self._jobs():
                self.changed((manifest["metadata"]["namespace"], manifest["metadata"]["name"]))
        elif before and not self._bounds:
            self._held.clear()
            self._totals.clear()
            self._claims.clear()
            self._booked.clear()

    def changed(self, key: Key) -> None:
        """A Job, or a mirror of it, changed or went."""
        if not self._bounds:
            return
        manifest = self._find_job(key)
        if manifest is None:
            self._booked.pop(key, None)
            self._claim(key, None)
            self._hold(key, {})
        else:
            if key in self._claims:
                self._claims[key] = (self._turn(key, manifest), self._claims[key][1])
            self._hold(key, self._amounts(manifest))

    def room(self, key: Key, manifest: Manifest) -> Amounts:
        """What this Job may have beyond what it holds, on each cluster with a capacity.

        What those before it in the line wait for is not free for it.
        """
        if not self._bounds:
            return {}
        if not self._complete:
            return dict.fromkeys(self._bounds, 0)
        free = {name: bound - self._totals.get(name, 0) for name, bound in self._bounds.items()}
        long_ago = self._long_ago()
        own = self._turn(key, manifest).rank(long_ago)
        for turn, claim in self._claims.values():
            if turn.rank(long_ago) < own and self._owns(turn.uid):
                for name in claim.clusters & free.keys():
                    free[name] -= claim.pods
        return {name: max(0, amount) for name, amount in free.items()}

    def book(self, key: Key, manifest: Manifest, decision: Decision) -> None:
        """Take what a decision is about to write, and note what it waits for."""
        if not self._bounds:
            return
        for action in decision.actions:
            if isinstance(action, WriteJob):
                self._booked[key] = self._amounts(dict(action.manifest))
                self._hold(key, self._amounts(manifest))
        self._claim(key, None if decision.claim is None else (self._turn(key, manifest), decision.claim))

    def written(self, key: Key) -> None:
        """The write has ended, and the caches show how."""
        if self._booked.pop(key, None) is not None:
            self.changed(key)

    def line(self) -> list[tuple[Key, Claim]]:
        """Who waits, first those served first."""
        long_ago = self._long_ago()
        mine = (entry for entry in self._claims.values() if self._owns(entry[0].uid))
        waiting = sorted(mine, key=lambda entry: entry[0].rank(long_ago))
        return [(turn.key, claim) for turn, claim in waiting]

    def _long_ago(self) -> str:
        return timestamp(self._now() - PATIENCE)

    def _turn(self, key: Key, manifest: Manifest) -> Turn:
        created = manifest["metadata"].get("creationTimestamp", "")
        return Turn(
            self._priority(manifest), created, waits_since(manifest), key, manifest["metadata"]["uid"]
        )

    def _amounts(self, manifest: Manifest) -> Amounts:
        job = read_job(manifest)
        placement = persisted(job) or Placement(job.uid)
        by_share = share_mirrors(placement, self._find_mirrors(job.uid, job.namespace))
        return capacity.held(job, placement, by_share)

    def _hold(self, key: Key, amounts: Amounts) -> None:
        booked = self._booked.get(key, {})
        after = {name: max(amounts.get(name, 0), booked.get(name, 0)) for name in {*amounts, *booked}}
        before = self._held.pop(key, {})
        if after:
            self._held[key] = after
        freed = []
        for name in {*before, *after}:
            change = after.get(name, 0) - before.get(name, 0)
            self._totals[name] = self._totals.get(name, 0) + change
            if change < 0:
                freed.append(name)
        for name in freed:
            self._serve(name)

    def _claim(self, key: Key, entry: tuple[Turn, Claim] | None) -> None:
        before = self._claims.pop(key, None)
        if entry is not None:
            self._claims[key] = entry
        if before is None:
            return
        given_up = before[1].clusters - (entry[1].clusters if entry else frozenset())
        if entry is not None and entry[1].pods < before[1].pods:
            given_up = before[1].clusters
        for name in given_up:
            self._serve(name)

    def _serve(self, name: ClusterName) -> None:
        """Wake those at the head of the line, as many as the free room may be for."""
        free = self._bounds.get(name, 0) - self._totals.get(name, 0)
        for key, claim in self.line() if self._claims and free > 0 else ():
            if name in claim.clusters:
                self._wake(key)
                free -= claim.pods
                if free <= 0:
                    return


def waits_since(manifest: Manifest) -> str:
    """When a Job began to wait for room, as its conditions say; empty where it does not."""
    moments = [
        entry.get("lastTransitionTime") or ""
        for entry in (manifest.get("status") or {}).get("conditions") or ()
        if entry.get("type") in (names.DISPATCHED, names.FULLY_PLACED)
        and (entry.get("status"), entry.get("reason")) == ("False", names.WAITING_FOR_ROOM)
    ]
    return min(moments, default="")


def pod_priority(manifest: Manifest, classes: Mapping[str, int]) -> int:
    """The priority of a Job's pods, as admission would give it: their class's value, else the default class's.

    ``classes``: values by name; the empty name is the default class.
    """
    spec: dict[str, Any] = manifest["spec"]["template"].get("spec") or {}
    if isinstance(spec.get("priority"), int):
        return int(spec["priority"])
    name = spec.get("priorityClassName") or ""
    return classes.get(name, SYSTEM_CLASSES.get(name, 0))


SYSTEM_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
"""The values that Kubernetes itself gives these."""
