"""Counts the tries of each Job's indexes, which no Kubernetes object does. Pure.

Counters live in memory; each pod carries its own numbers in an annotation, from which they are found again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hack.lab.scripter.script import RUN

COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(slots=True)
class _Counters:
    pods: int = 0
    tries: dict[int | None, int] = field(default_factory=lambda: defaultdict(int))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pod stands: its Job's UID (its own without one), completion index, order in the Job, and first try."""

    job: str
    index: int | None
    nth: int
    attempt: int

    def annotation(self) -> str:
        """What the pod carries."""
        return json.dumps({"nth": self.nth, "try": self.attempt})


class Attempts:
    """The counters of all Jobs of one plane."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Counters] = defaultdict(_Counters)

    def place(self, metadata: Mapping[str, Any]) -> Place:
        """The place of a pod seen for the first time; pods must come in the order of their creation."""
        annotations = metadata.get("annotations", {})
        owners = [owner["uid"] for owner in metadata.get("ownerReferences", []) if owner.get("controller")]
        job = owners[0] if owners else metadata["uid"]
        index = int(annotations[COMPLETION_INDEX]) if COMPLETION_INDEX in annotations else None
        counters = self._jobs[job]
        if RUN in annotations:  # seen before this process started
            known = json.loads(annotations[RUN])
            counters.pods = max(counters.pods, known["nth"] + 1)
            counters.tries[index] = max(counters.tries[index], known["try"] + 1)
            return Place(job=job, index=index, nth=known["nth"], attempt=known["try"])
        nth = counters.pods
        counters.pods += 1
        return self.again(Place(job=job, index=index, nth=nth, attempt=0))

    def again(self, place: Place) -> Place:
        """The same pod's next run: its containers are started once more."""
        tries = self._jobs[place.job].tries
        attempt = tries[place.index]
        tries[place.index] += 1
        return Place(job=place.job, index=place.index, nth=place.nth, attempt=attempt)
