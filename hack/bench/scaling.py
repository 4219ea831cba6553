"""Do two shards do twice the work of one? Each replica has the same small part of a CPU, so that it is the bound."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from hack.bench.cpu_quota import cpu_quota
from hack.bench.report import show_targets
from hack.bench.run import Bench
from hack.bench.takeover import Replicas
from hack.bench.target import JSON, at_least
from hack.bench.workload import Workload
from hack.lab import Lab

CPUS = 0.04
"""Of each replica: with it the planes have most of the machine to themselves, and are not what bounds."""
SHARDS = 2
"""Jobs go to them by a hash of their UID: of 200, the larger part is 106 on average, so at best 1.9 times as quick."""
JOBS = 200
ROUNDS = 2
"""Each has a burst with one replica and one with two: what else the machine does changes by as much as is measured."""
WARM_UP = 50
"""Jobs before, without a quota: they open the connections, of which each takes a TLS handshake."""
LEAST_RATIO = 1.7


async def scaling(lab: Lab, *, managed_by: str, say: Callable[[str], None]) -> JSON:
    """Bursts with one replica and with two, in turns. Raises QuotaError, TimeoutError."""
    load = os.getloadavg()[0]
    rows: list[JSON] = []
    for _round in range(ROUNDS):
        replicas = Replicas(lab, managed_by=managed_by, shards=SHARDS)
        try:
            for count in (1, 2):
                await replicas.start()
                await _shared_evenly(replicas)
                say(f"{JOBS} Jobs, {count} of 2 replicas, {CPUS:g} CPUs each")
                rows.append(await _burst(lab, replicas, managed_by=managed_by))
        finally:
            replicas.stop()
    ratio = round(_seconds(rows, 1) / _seconds(rows, 2), 2)
    return {
        "cpusPerReplica": CPUS,
        "shards": SHARDS,
        "jobs": JOBS,
        "loadAverageBefore": round(load, 1),
        "runs": rows,
        "ratio": ratio,
        "targets": [at_least("Jobs/s of two replicas over one's", ratio, LEAST_RATIO)],
    }


async def _shared_evenly(replicas: Replicas) -> None:
    part = SHARDS // len(replicas.running)
    await replicas.when(
        lambda: all(replicas.held(it) == part for it in replicas.running), "shards that are held evenly"
    )


def _seconds(rows: list[JSON], replicas: int) -> float:
    """How long all bursts took with so many replicas, for each Job."""
    rates: list[float] = [row["jobsPerSecond"] for row in rows if row["replicas"] == replicas]
    return sum(1 / rate for rate in rates)


async def _burst(lab: Lab, replicas: Replicas, *, managed_by: str) -> JSON:
    bench = Bench(lab, managed_by=managed_by, pids=[it.pid for it in replicas.running])
    await bench.dispatched(Workload(shape="single", jobs=WARM_UP, rate="burst"))
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
