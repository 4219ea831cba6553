"""Every scenario by the built-in Job controller and dispatched, on the session's planes: equal, or documented."""

from __future__ import annotations

from pathlib import Path

from dispatcher.core.names import DEFAULT_MANAGED_BY
from hack.conformance import report, scenario
from hack.conformance.controller import controller
from hack.conformance.suite import planes_of, run_suite
from hack.lab import Lab

CLUSTERS = (3,)


async def test_dispatched_jobs_end_as_on_one_cluster(lab: Lab, tmp_path: Path) -> None:
    async with controller(lab.dispatcher_kubeconfig, log=tmp_path / "dispatcher.log") as running:
        results = await run_suite(
            scenario.load(),
            planes_of(lab),
            clusters=CLUSTERS,
            managed_by=DEFAULT_MANAGED_BY,
            at_once=10,  # more, and a slow machine misses moments that scenarios wait for
        )
        rejected = await running.metric("job_dispatcher_status_writes_rejected_total")
    failed = [report.describe(result) for result in results if not result.passed]
    assert not failed, "\n\n".join(failed)
    assert len(results) >= 80
    assert rejected == 0
