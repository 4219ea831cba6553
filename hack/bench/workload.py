"""The Jobs of a run. Pods succeed at once, so that what is measured is the controllers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

NAMESPACE = "default"
MAX_JOBS = 20_000
SHAPES: dict[str, dict[str, Any]] = {
    "single": {"completions": 1, "parallelism": 1},
    "split": {"completions": 10, "parallelism": 5},
    "indexed": {"completions": 100, "parallelism": 50, "completionMode": "Indexed"},
    "queue": {"parallelism": 4},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """``rate``: "idle" (one Job after the other), "burst" (all at once), or Jobs a second."""

    shape: str
    jobs: int
    rate: str | float

    @classmethod
    def of(cls, *, shape: str, jobs: int | None, rate: str, duration: float | None) -> Workload:
        """From the command line. Raises ValueError with what to give instead."""
        if rate in ("idle", "burst"):
            if duration is not None:
                raise ValueError("--duration needs --rate N, a number of Jobs a second")
            return cls(shape=shape, jobs=_bounded(jobs or 20), rate=rate)
        try:
            a_second = float(rate)
        except ValueError:
            a_second = math.nan
        if not 0 < a_second <= 1000:
            raise ValueError(f"--rate {rate}: expected idle, burst, or up to 1000 Jobs a second, such as 20")
        if jobs is not None and duration is not None:
            raise ValueError("--jobs and --duration: one follows from the other at a given rate")
        count = jobs if jobs is not None else math.ceil(a_second * (duration or 10.0))
        return cls(shape=shape, jobs=_bounded(count), rate=a_second)

    @property
    def title(self) -> str:
        """One line for a table."""
        spec = ", ".join(f"{field} {value}" for field, value in SHAPES[self.shape].items())
        pace = self.rate if isinstance(self.rate, str) else f"{self.rate:g} a second"
        return f"{self.jobs} Jobs, {pace}: {self.shape} ({spec})"

    @property
    def most_seconds(self) -> float:
        """The run is given up after so long."""
        shape = SHAPES[self.shape]
        pods = shape.get("completions", shape["parallelism"])
        each = 15.0 if self.rate == "idle" else max(1.0, pods / 10)
        paced = self.jobs / self.rate if isinstance(self.rate, float) else 0.0
        return 60.0 + paced + each * self.jobs

    def manifest(self, name: str, *, managed_by: str | None) -> dict[str, Any]:
        """One Job; ``managed_by`` None leaves it to the built-in controller."""
        owner = {} if managed_by is None else {"managedBy": managed_by}
        container = {"name": "work", "image": "example/work"}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                **owner,
                **SHAPES[self.shape],
                "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            },
        }


def _bounded(jobs: int) -> int:
    if not 1 <= jobs <= MAX_JOBS:
        raise ValueError(f"{jobs} Jobs: expected 1 to {MAX_JOBS}")
    return jobs
