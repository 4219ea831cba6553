"""A scenario on both sides at once: they wait for each other at the marked points and at the end, and are compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hack.conformance import snapshot
from hack.conformance.planes import Refused
from hack.conformance.run import Side, SideRun, Stuck
from hack.conformance.scenario import JSON, Scenario

SETTLE = 12.0
"""Seconds in which both sides must come to look the same: the built-in controller writes in steps, too."""
TWICE = 0.4
"""Seconds between the two looks that must find them equal."""
EVENTS_SETTLE = 45.0
"""The built-in controller posts its Events one by one, behind those of all pods."""


@dataclass(slots=True)
class Result:
    """What came of one scenario. ``differences``: point → field → (built-in, dispatched)."""

    scenario: Scenario
    clusters: int
    differences: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    allowed: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    runs: list[SideRun] = field(default_factory=list, repr=False)
    """Built-in, dispatched."""

    @property
    def verdict(self) -> str:
        """equal, documented (differs as its scenario says), differs or error."""
        if self.error:
            return "error"
        if self.differences:
            return "differs"
        return "documented" if self.allowed else "equal"

    def keep(self, point: str, found: dict[str, tuple[Any, Any]]) -> None:
        """Takes differences in, each as allowed or not."""
        right = self.scenario.difference.fields if self.scenario.difference else frozenset()
        for name, values in found.items():
            target = self.allowed if {name, f"{point}.{name}"} & right else self.differences
            target.setdefault(point, {})[name] = values

    @property
    def passed(self) -> bool:
        """Whether nothing is to be looked into."""
        return self.verdict in ("equal", "documented")

    def record(self) -> JSON:
        """For JSON."""
        return {
            "id": self.scenario.id,
            "feature": self.scenario.row,
            "clusters": self.clusters,
            "verdict": self.verdict,
            "error": self.error,
            "differences": self.differences,
            "documented": self.allowed,
            "reason": self.scenario.difference.reason if self.allowed and self.scenario.difference else "",
            "seconds": round(self.seconds, 1),
        }


class _Meeting:
    """Where two runs of a scenario wait for each other."""

    def __init__(self, result: Result) -> None:
        self._result = result
        self._barrier = asyncio.Barrier(2)
        self.runs: list[SideRun] = []

    async def mark(self, point: str) -> None:
        """Both come here; one compares."""
        if await self._barrier.wait() == 0:
            await self._compare(point)
        await self._barrier.wait()

    async def _compare(self, point: str) -> None:
        builtin, dispatched = self.runs
        self._result.keep(
            point, await self._converge(lambda: snapshot.differences(builtin.look(), dispatched.look()))
        )

    async def compare_end(self) -> None:
        """The status, the pods and the Events after the end."""
        builtin, dispatched = self.runs
        await self._compare("end")
        found = await self._converge(
            lambda: snapshot.differences(builtin.look_at_pods(), dispatched.look_at_pods())
        )
        self._result.keep("pods", found)

    async def _converge(self, compare: Any) -> dict[str, tuple[Any, Any]]:
        end = time.monotonic() + SETTLE
        equal = 0
        while True:
            found: dict[str, tuple[Any, Any]] = compare()
            equal = 0 if found else equal + 1
            if equal == 2 or time.monotonic() > end:
                return found
            await asyncio.sleep(TWICE)

    async def abort(self) -> None:
        await self._barrier.abort()


async def try_scenario(
    scenario: Scenario, builtin: Side, dispatched: Side, *, run: str, planes: int
) -> Result:
    """Runs it on both sides and compares. What goes wrong is in the result."""
    result = Result(scenario, planes)
    begin = time.monotonic()
    meeting = _Meeting(result)
    meeting.runs = result.runs = [
        SideRun(scenario, side, run, planes, meeting.mark) for side in (builtin, dispatched)
    ]
    errors: list[str] = []

    async def execute(one: SideRun) -> None:
        try:
            await one.execute()
        except asyncio.BrokenBarrierError:
            pass
        except (Stuck, Refused) as error:
            errors.append(f"{one.side.name}: at {one.at}: {error}")
            await meeting.abort()

    await asyncio.gather(*(execute(one) for one in meeting.runs))
    if errors:
        looks = " | ".join(f"{one.side.name}: {one.look()} {one.look_at_pods()}" for one in meeting.runs)
        result.error = "; ".join(errors) + f" [{looks}]"
    else:
        await meeting.compare_end()
    for one in meeting.runs:
        await one.clean()
    result.seconds = time.monotonic() - begin
    return result


async def compare_events(results: Sequence[Result]) -> None:
    """Compares the Events of all that came to an end; once for all, as they come late."""
    waiting = [result for result in results if not result.error and result.scenario.cron is None]
    end = time.monotonic() + EVENTS_SETTLE
    while waiting:
        last = time.monotonic() > end
        sides = {run.side.namespace: run.side for result in waiting for run in result.runs}
        events = {name: await side.home.load_events(name) for name, side in sides.items()}
        differ = []
        for result in waiting:
            builtin, dispatched = (
                snapshot.events(events[run.side.namespace], run.name) for run in result.runs
            )
            if builtin != dispatched:
                differ.append(result)
                if last:
                    result.keep("events", {"reasons": (builtin, dispatched)})
        if last:
            return
        waiting = differ
        await asyncio.sleep(1.0)
