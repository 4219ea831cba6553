"""The Jobs of a run. Each knows from its script how it must end, whatever happens to the clusters meanwhile. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = dict[str, Any]

JOB_LABEL = "chaos.jobdispatcher.io/job"
"""On the pods, with the Job's name: a mirror may have another."""
NEVER = None
MANY = 1000


@dataclass(frozen=True, slots=True)
class Edit:
    """A person's act ``after`` seconds: a merge patch of the Job, or its deletion (None)."""

    after: float
    patch: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPlan:
    """A Job and its only right end.

    ``end``: Complete, Failed, or Gone. ``succeeded``: pods that must succeed in the end, None where that is open.
    ``indexes`` of an Indexed Job: those that must succeed; ``failed_indexes`` likewise. ``failed``: failed pods.
    """

    name: str
    kind: str
    spec: JSON
    script: list[JSON]
    end: str
    reason: str
    succeeded: int | None = None
    failed: int | None = None
    indexes: frozenset[int] | None = None
    failed_indexes: str = ""
    edits: tuple[Edit, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)

    def manifest(self, *, namespace: str, managed_by: str) -> JSON:
        """The Job as a person creates it."""
        template = {
            "metadata": {
                "labels": {JOB_LABEL: self.name},
                "annotations": {"lab.jobdispatcher.io/script": json.dumps(self.script)},
            },
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "example/work"}]},
        }
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": self.name,
                "namespace": namespace,
                "labels": {JOB_LABEL: self.name},
                "annotations": dict(self.annotations),
            },
            "spec": {"managedBy": managed_by, **self.spec, "template": template},
        }


Maker = Callable[[str, random.Random], JobPlan]


def _seconds(rng: random.Random, least: float, most: float) -> str:
    return f"{rng.uniform(least, most):.1f}s"


def _complete(name: str, kind: str, spec: JSON, script: list[JSON], **more: Any) -> JobPlan:
    completions = spec.get("completions")
    if spec.get("completionMode") == "Indexed":
        more.setdefault("indexes", frozenset(range(completions or 0)))
    more.setdefault("succeeded", completions)
    more.setdefault("reason", "CompletionsReached")
    return JobPlan(name=name, kind=kind, spec=spec, script=script, end="Complete", **more)


def _single(name: str, rng: random.Random) -> JobPlan:
    spec = {"completions": 1, "parallelism": 1}
    return _complete(name, "single pod", spec, [{"after": _seconds(rng, 0.5, 4)}], failed=0)


def _fixed(name: str, rng: random.Random) -> JobPlan:
    spec = {"completions": rng.randint(4, 12), "parallelism": rng.randint(2, 6)}
    return _complete(name, "NonIndexed", spec, [{"after": _seconds(rng, 0.5, 4)}], failed=0)


def _fixed_retries(name: str, rng: random.Random) -> JobPlan:
    spec = {"completions": 6, "parallelism": 3, "backoffLimit": MANY}
    script: list[JSON] = [{"nth": "0", "after": "1s", "exit": 1}, {"after": _seconds(rng, 0.5, 3)}]
    return _complete(name, "NonIndexed, first pods fail", spec, script)


def _indexed(name: str, rng: random.Random) -> JobPlan:
    spec = {"completions": rng.randint(3, 14), "parallelism": rng.randint(2, 6), "completionMode": "Indexed"}
    return _complete(name, "Indexed", spec, [{"after": _seconds(rng, 0.5, 4)}], failed=0)


def _indexed_retries(name: str, rng: random.Random) -> JobPlan:
    bad = sorted(rng.sample(range(8), 2))
    spec = {"completions": 8, "parallelism": 4, "completionMode": "Indexed", "backoffLimit": MANY}
    script: list[JSON] = [
        {"index": ",".join(map(str, bad)), "try": "0", "after": "0.5s", "exit": 1},
        {"after": _seconds(rng, 0.5, 3)},
    ]
    return _complete(name, "Indexed, two indexes fail once", spec, script, failed=len(bad))


def _per_index(name: str, rng: random.Random) -> JobPlan:
    bad = rng.randrange(6)
    spec = {"completions": 6, "parallelism": 6, "completionMode": "Indexed", "backoffLimitPerIndex": 0}
    return JobPlan(
        name=name,
        kind="backoffLimitPerIndex",
        spec=spec,
        script=[{"index": str(bad), "after": "1s", "exit": 1}, {"after": _seconds(rng, 0.5, 4)}],
        end="Failed",
        reason="FailedIndexes",
        succeeded=5,
        failed=1,
        indexes=frozenset(range(6)) - {bad},
        failed_indexes=str(bad),
    )


def _backoff(name: str, rng: random.Random) -> JobPlan:
    return JobPlan(
        name=name,
        kind="backoffLimit exceeded",
        spec={"completions": 4, "parallelism": 4, "backoffLimit": 2},
        script=[{"after": _seconds(rng, 0.2, 1.5), "exit": 1}],
        end="Failed",
        reason="BackoffLimitExceeded",
        succeeded=0,
    )


def _fail_job(name: str, rng: random.Random) -> JobPlan:
    policy = {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}]}
    return JobPlan(
        name=name,
        kind="podFailurePolicy FailJob",
        spec={
            "completions": 4,
            "parallelism": 4,
            "completionMode": "Indexed",
            "podFailurePolicy": policy,
        },
        script=[{"index": "3", "after": _seconds(rng, 0.5, 3), "exit": 42}, {"exit": NEVER}],
        end="Failed",
        reason="PodFailurePolicy",
        succeeded=0,
        indexes=frozenset(),
    )


def _ignore(name: str, rng: random.Random) -> JobPlan:
    policy = {"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [7]}}]}
    spec = {
        "completions": 4,
        "parallelism": 4,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": policy,
    }
    script: list[JSON] = [
        {"index": "1,2", "try": "0", "after": "0.5s", "exit": 7},
        {"after": _seconds(rng, 0.5, 3)},
    ]
    return _complete(name, "podFailurePolicy Ignore", spec, script, failed=0)


def _queue(name: str, rng: random.Random) -> JobPlan:
    script: list[JSON] = [{"after": _seconds(rng, 1, 4)}]
    return _complete(name, "work queue", {"parallelism": 4}, script, failed=0)


def _success_policy(name: str, rng: random.Random) -> JobPlan:
    return JobPlan(
        name=name,
        kind="successPolicy",
        spec={
            "completions": 4,
            "parallelism": 4,
            "completionMode": "Indexed",
            "successPolicy": {"rules": [{"succeededIndexes": "0"}]},
        },
        script=[{"index": "0", "after": _seconds(rng, 0.5, 3)}, {"exit": NEVER}],
        end="Complete",
        reason="SuccessPolicy",
        succeeded=1,
        indexes=frozenset({0}),
    )


def _deadline(name: str, rng: random.Random) -> JobPlan:
    return JobPlan(
        name=name,
        kind="activeDeadlineSeconds",
        spec={"completions": 3, "parallelism": 3, "activeDeadlineSeconds": rng.randint(3, 8)},
        script=[{"exit": NEVER}],
        end="Failed",
        reason="DeadlineExceeded",
        succeeded=0,
    )


def _elastic(name: str, rng: random.Random) -> JobPlan:
    more = rng.randint(5, 8)
    spec = {"completions": 4, "parallelism": 4, "completionMode": "Indexed"}
    # Index 0 runs long enough for the edit to arrive before the Job's end.
    script: list[JSON] = [{"index": "0", "after": "18s"}, {"after": _seconds(rng, 0.5, 4)}]
    edit = Edit(rng.uniform(1, 4), {"spec": {"completions": more, "parallelism": more}})
    expected = frozenset(range(more))
    return _complete(name, "elastic", spec, script, edits=(edit,), succeeded=more, indexes=expected, failed=0)


def _suspended(name: str, rng: random.Random) -> JobPlan:
    spec = {"completions": 6, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": MANY}
    begin = rng.uniform(0.5, 3)
    edits = (
        Edit(begin, {"spec": {"suspend": True}}),
        Edit(begin + rng.uniform(1, 5), {"spec": {"suspend": False}}),
    )
    return _complete(name, "suspended and resumed", spec, [{"after": _seconds(rng, 1, 4)}], edits=edits)


def _created_suspended(name: str, rng: random.Random) -> JobPlan:
    spec = {"completions": 5, "parallelism": 3, "suspend": True}
    edit = Edit(rng.uniform(0.5, 4), {"spec": {"suspend": False}})
    return _complete(
        name, "created suspended", spec, [{"after": _seconds(rng, 0.5, 3)}], edits=(edit,), failed=0
    )


def _rescaled(name: str, rng: random.Random) -> JobPlan:
    spec = {"completions": 10, "parallelism": 2, "backoffLimit": MANY}
    edits = (
        Edit(rng.uniform(0.5, 3), {"spec": {"parallelism": 6}}),
        Edit(rng.uniform(4, 8), {"spec": {"parallelism": 3}}),
    )
    return _complete(name, "parallelism changed", spec, [{"after": _seconds(rng, 1, 4)}], edits=edits)


def _deleted(name: str, rng: random.Random) -> JobPlan:
    return JobPlan(
        name=name,
        kind="deleted while it runs",
        spec={"completions": 4, "parallelism": 4},
        script=[{"exit": NEVER}],
        end="Gone",
        reason="",
        edits=(Edit(rng.uniform(0.2, 8), None),),
    )


MAKERS: tuple[Maker, ...] = (
    _single,
    _fixed,
    _fixed_retries,
    _indexed,
    _indexed_retries,
    _per_index,
    _backoff,
    _fail_job,
    _ignore,
    _queue,
    _success_policy,
    _deadline,
    _elastic,
    _suspended,
    _created_suspended,
    _rescaled,
    _deleted,
)


def make_plans(count: int, seed: int) -> list[JobPlan]:
    """``count`` Jobs, every kind about equally often, in an order that the seed decides."""
    rng = random.Random(f"jobs {seed}")
    makers = [MAKERS[number % len(MAKERS)] for number in range(count)]
    rng.shuffle(makers)
    return [maker(f"job-{number:03}-{rng.getrandbits(20):05x}", rng) for number, maker in enumerate(makers)]
