"""Do two shards do twice the work of one? Each replica has the same small part of a CPU, so that it is the bound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from hack.bench.cpu_quota import cpu_quota
from hack.bench.report import show_targets
from hack.bench.run import Bench
from hack.bench.takeover import Replicas
from hack.bench.workload import Workload
from hack.lab import Lab

JSON = dict[str, Any]
CPUS = 0.06
"""Of each replica: with it the planes have most of the machine to themselves, and are not what bounds."""
SHARDS = 16
"""Jobs go to shards by a hash of their UID: with more shards, each replica's part is closer to a half."""
JOBS = 200
LEAST_RATIO = 1.7


async def scaling(lab: Lab, *, managed_by: str, say: Callable[[str], None]) -> JSON:
    """A burst with one replica, then with two. Raises QuotaError, TimeoutError."""
    load = os.getloadavg()[0]
    replicas = Replicas(lab, managed_by=managed_by, shards=SHARDS)
    rows: list[JSON] = []
    try:
        for count in (1, 2):
            await replicas.start()
            part = SHARDS // count
            await replicas.when(
                lambda part=part: all(replicas.held(it) == part for it in replicas.running),  # type: ignore[misc]
                "shards that are held evenly",
            )
            say(f"{JOBS} Jobs, {count} of 2 replicas, {CPUS:g} CPUs each")
            rows.append(await _burst(lab, replicas, managed_by=managed_by))
    finally:
        replicas.stop()
    ratio = round(rows[1]["jobsPerSecond"] / rows[0]["jobsPerSecond"], 2)
    return {
        "cpusPerReplica": CPUS,
        "shards": SHARDS,
        "jobs": JOBS,
        "loadAverageBefore": round(load, 1),
        "runs": rows,
        "ratio": ratio,
        "targets": [
            {
                "target": "Jobs/s of two replicas over one's",
                "value": ratio,
                "atLeast": LEAST_RATIO,
                "met": ratio >= LEAST_RATIO,
            }
        ],
    }


async def _burst(lab: Lab, replicas: Replicas, *, managed_by: str) -> JSON:
    bench = Bench(lab, managed_by=managed_by, pids=[it.pid for it in replicas.running])
    await bench.dispatched(Workload(shape="single", jobs=3, rate="burst"))
    with contextlib.ExitStack() as quotas:
        for replica in replicas.running:
            quotas.enter_context(cpu_quota(replica.pid, CPUS))
        passage = await bench.dispatched(Workload(shape="single", jobs=JOBS, rate="burst"))
    return {
        "replicas": len(replicas.running),
        "jobsPerSecond": round((JOBS - passage.unfinished) / passage.seconds, 2),
        "cpuSecondsPerJob": round(passage.cpu_seconds / JOBS, 4),
        "unfinished": passage.unfinished,
    }


def show(console: Console, result: JSON) -> None:
    """Print what :func:`scaling` found."""
    console.print(
        f"\n[bold]{result['jobs']} single-pod Jobs at once, {result['cpusPerReplica']:g} CPUs a replica, "
        f"{result['shards']} shards[/bold]"
    )
    table = Table("REPLICAS", "JOBS/S", "CPU A JOB", box=None)
    for row in result["runs"]:
        table.add_row(
            str(row["replicas"]), f"{row['jobsPerSecond']:g}", f"{row['cpuSecondsPerJob'] * 1e3:.1f} ms"
        )
    console.print(table)
    console.print(f"  ratio {result['ratio']:g}; load average before: {result['loadAverageBefore']:g}")
    show_targets(console, result["targets"])
