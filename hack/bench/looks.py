"""What one look at a Job costs, without any request: python -m hack.bench.looks

The caches are filled by hand, and each look is repeated; the table has the quickest of many rounds, in processor time.
"""

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from time import process_time
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from dispatcher.clusters.cache import ObjectCache
from dispatcher.core import names
from dispatcher.core.actions import CreateMirror, Decision, PatchMirror, WriteJob
from dispatcher.core.decision import decide
from dispatcher.core.indexes import IndexSet
from dispatcher.core.mirror import job_uid_of
from dispatcher.core.observation import Cluster, Rules
from dispatcher.operator.world import World

MOMENT = "2026-01-01T12:00:00Z"
KEY = ("team", "pi")
COMPLETIONS = 100_000
ROUNDS = 40
Manifest = dict[str, Any]


@dataclass(frozen=True)
class ModelWorker:
    """A worker cluster that is always ready."""

    view: Cluster
    mirrors: ObjectCache


class Played:
    """A Job over some clusters, and caches that show what its decisions have led to."""

    def __init__(self, clusters: int, **spec: Any) -> None:
        self.world = World(Rules("origin"), wake=lambda _key: None)
        self.world.settled = True
        self.world.room.complete()
        for number in range(1, clusters + 1):
            name = names.ClusterName(f"worker-{number}")
            cluster = Cluster(name, f"uid-{number}", ready=True)
            self.world.workers[name] = ModelWorker(cluster, ObjectCache(index=job_uid_of))
        self._version = 100
        metadata = {"namespace": KEY[0], "name": KEY[1], "uid": "uid", "creationTimestamp": MOMENT}
        template = {"metadata": {"labels": {"app": "pi"}}, "spec": {"containers": [{"name": "c"}]}}
        given = {"backoffLimit": 6, "template": template, "managedBy": names.DEFAULT_MANAGED_BY}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": given | spec}
        self._put(self.world.jobs, job)

    def _put(self, cache: ObjectCache, manifest: Manifest) -> None:
        stored = copy.deepcopy(manifest)
        self._version += 1
        stored["metadata"]["resourceVersion"] = str(self._version)
        cache.put(stored)

    def mirror(self, cluster: names.ClusterName) -> Manifest:
        """The mirror there."""
        (found,) = self.world.workers[cluster].mirrors
        return found

    def report(self, cluster: names.ClusterName, **status: Any) -> None:
        """What the mirror's own controller writes."""
        seen = self.mirror(cluster)
        status = {**(seen.get("status") or {}), **status}
        self._put(self.world.workers[cluster].mirrors, {**seen, "status": status})

    def decide(self) -> Decision:
        """One look."""
        job = self.world.jobs.get(*KEY)
        assert job is not None
        return decide(self.world.observe(job))

    def carry_out(self, decision: Decision) -> None:
        """As API servers would."""
        for action in decision.actions:
            if isinstance(action, WriteJob):
                self._put(self.world.jobs, dict(action.manifest))
                return
            if isinstance(action, CreateMirror):
                made = {**action.manifest, "metadata": action.manifest["metadata"] | {"uid": action.cluster}}
                self._put(self.world.workers[action.cluster].mirrors, made)
            if isinstance(action, PatchMirror):
                self._patch(action)

    def _patch(self, action: PatchMirror) -> None:
        mirror = copy.deepcopy(self.mirror(action.cluster))
        if isinstance(action.patch, list):
            values = {entry["path"].rpartition("/")[2]: entry["value"] for entry in action.patch}
            mirror["metadata"]["annotations"][names.SEEDED_ANNOTATION] = "true"
            mirror["status"] = {field: values[field] for field in ("completedIndexes", "succeeded")}
        else:
            mirror["spec"] |= action.patch["spec"]
            mirror["status"]["startTime"] = MOMENT
        self._put(self.world.workers[action.cluster].mirrors, mirror)

    def settle(self) -> None:
        """Until nothing is left to do."""
        while (decision := self.decide()).actions:
            self.carry_out(decision)


def quickest(work: Callable[[], object], *, repeat: int) -> float:
    """Microseconds of processor time, the least of all rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = process_time()
        for _ in range(repeat):
            work()
        best = min(best, (process_time() - began) / repeat)
    return best * 1e6


def single_pod() -> Table:
    """The looks in the life of a Job with one pod."""
    table = Table("single-pod Job", "observe µs", "decide µs", "to be done")
    played = Played(2, parallelism=1, completions=1, completionMode="NonIndexed", suspend=False)

    def look(phase: str) -> None:
        job = played.world.jobs.get(*KEY)
        assert job is not None
        observation = played.world.observe(job)
        observing = quickest(lambda: played.world.observe(job), repeat=40)
        deciding = quickest(lambda: decide(observation), repeat=40)
        decision = played.decide()
        todo = ", ".join(type(action).__name__ for action in decision.actions)
        table.add_row(phase, f"{observing:.0f}", f"{deciding:.0f}", todo)
        played.carry_out(decision)

    look("new")
    look("placed")
    look("mirror made")
    (cluster,) = (name for name, worker in played.world.workers.items() if len(worker.mirrors))
    played.report(cluster, startTime=MOMENT, active=1, ready=0)
    look("pod active")
    look("nothing new")
    ends = [
        {"type": kind, "status": "True", "reason": "CompletionsReached", "message": "done"}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    played.report(cluster, active=0, succeeded=1, completionTime=MOMENT, conditions=ends)
    look("mirror complete")
    look("finished")
    return table


def done(part: IndexSet, manner: str, rng: random.Random) -> IndexSet:
    """What of a share's indexes has succeeded, about half of them."""
    first, last = part.intervals[0]
    half = (first + last) // 2
    if manner == "in order":
        return IndexSet.interval(first, half)
    if manner == "1,000 at once, in any order":
        scattered = IndexSet.of(index for index in range(half - 2000, half) if rng.random() < 0.5)
        return IndexSet.interval(first, half - 2001) | scattered
    return IndexSet.of(range(first, last, 2))


def unread(indexes: IndexSet) -> str:
    """Its text, made without :meth:`IndexSet.format`, which remembers what it has written."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in indexes.intervals)


def many_indexes() -> Table:
    """A look at one Job over three clusters after one of its mirrors has changed."""
    title = f"{COMPLETIONS:,} indexes over 3 clusters"
    table = Table(title, "look after a change, ms", "look with nothing new, ms", "completedIndexes, KiB")
    rng = random.Random(1)
    for manner in ("in order", "1,000 at once, in any order", "every other one"):
        played = Played(3, parallelism=3000, completions=COMPLETIONS, completionMode="Indexed", suspend=False)
        played.settle()
        own: dict[names.ClusterName, IndexSet] = {}
        for name in played.world.workers:
            seed = IndexSet.parse(played.mirror(name)["status"]["completedIndexes"])
            own[name] = IndexSet.interval(0, COMPLETIONS - 1) - seed
            completed = seed | done(own[name], manner, rng)
            text = completed.format()
            played.report(name, active=1000, ready=1000, completedIndexes=text, succeeded=len(completed))
        played.settle()
        changes = []
        for number, name in enumerate(own, start=1):
            before = IndexSet.parse(played.mirror(name)["status"]["completedIndexes"])
            completed = before | (own[name] - before).lowest(100 * number)
            text = unread(completed)
            played.report(name, completedIndexes=text, succeeded=len(completed))
            began = process_time()
            decision = played.decide()
            changes.append(process_time() - began)
            played.carry_out(decision)
        job = played.world.jobs.get(*KEY)
        assert job is not None
        unchanged = quickest(played.decide, repeat=1) / 1000
        length = len(job["status"]["completedIndexes"]) / 1024
        table.add_row(manner, f"{min(changes) * 1000:.1f}", f"{unchanged:.1f}", f"{length:.0f}")
    return table


@click.command(help=__doc__)
def main() -> None:
    """Print both tables."""
    console = Console()
    console.print(single_pod())
    console.print(many_indexes())


if __name__ == "__main__":
    main()
