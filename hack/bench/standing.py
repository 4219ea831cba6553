"""What it costs to know many Jobs: memory with thousands of finished and running ones, and a restart with them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from hack.bench.audit import AuditTail, Request
from hack.bench.run import AT_ONCE, job_name, until_quiet
from hack.bench.target import JSON, at_most
from hack.bench.usage import measure
from hack.bench.workload import Workload
from hack.lab import Lab
from hack.running import ClusterJobs, Controller

NEVER_ENDS = json.dumps([{"exit": None}])
SCRIPT = "lab.jobdispatcher.io/script"
IDLE_SECONDS = 20.0
"""For so long nothing changes before memory and idle CPU are taken."""
MOST_RESIDENT_BYTES = 250 * 10**6
MOST_SYNC_SECONDS = 15.0


async def fill(lab: Lab, *, finished: int, running: int, managed_by: str, say: Callable[[str], None]) -> None:
    """Create the Jobs and wait until each is Complete, or has its mirror. Raises TimeoutError."""
    state: dict[str, str] = {}
    changed = asyncio.Event()

    def jobs_changed(_old: Any, new: Any) -> None:
        if new is not None:
            status = new.get("status") or {}
            ended = any(
                c["type"] == "Complete" and c["status"] == "True" for c in status.get("conditions") or ()
            )
            state[new["metadata"]["name"]] = "ended" if ended else "active" if status.get("active") else ""
            changed.set()

    async with ClusterJobs(lab.management, on_change=jobs_changed) as target:
        slots = asyncio.Semaphore(AT_ONCE)
        workload = Workload(shape="single", jobs=finished + running, rate="burst")

        async def create(name: str, *, ends: bool) -> None:
            async with slots:
                manifest = workload.manifest(name, managed_by=managed_by)
                if not ends:
                    manifest["spec"]["template"]["metadata"] = {"annotations": {SCRIPT: NEVER_ENDS}}
                await target.create(manifest)

        # By names like generated ones: the planner's hash takes one cluster for long stretches of consecutive numbers.
        goals = ["ended"] * finished + ["active"] * running
        wanted = {job_name(0, number): goal for number, goal in enumerate(goals)}
        missing = set(wanted)
        async with asyncio.timeout(120 + workload.jobs), asyncio.TaskGroup() as posts:
            for name, goal in wanted.items():
                posts.create_task(create(name, ends=goal == "ended"))
            told = time.monotonic()
            while missing := {name for name in missing if state.get(name) != wanted[name]}:
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    say(f"{len(missing)} Jobs are not yet as wanted")
                changed.clear()
                await changed.wait()
                await asyncio.sleep(0.2)


async def standing(
    lab: Lab, *, finished: int, running: int, managed_by: str, say: Callable[[str], None]
) -> JSON:
    """Fill the lab, measure, restart the dispatcher, measure again.

    ``synced``: from the start of the new process until it is ready and all clusters are Ready. ``restartWrites``: all
    requests that change something until it asks nothing more, apart from those to WorkerClusters.
    """
    controller = Controller.start(lab, managed_by=managed_by)
    try:
        say(f"creating {finished} Jobs that end and {running} that do not")
        await fill(lab, finished=finished, running=running, managed_by=managed_by, say=say)
        await asyncio.sleep(IDLE_SECONDS)
        full = measure((controller.pid,))
        idle = await _idle_cpu(controller.pid)
        controller.stop()
        with contextlib.closing(AuditTail(lab.planes)) as tail:
            started = time.monotonic()
            controller = Controller.start(lab, managed_by=managed_by)
            synced = time.monotonic() - started
            requests = await until_quiet(tail)
            await asyncio.sleep(IDLE_SECONDS)
            requests += tail.count()
        again = measure((controller.pid,))
    finally:
        controller.stop()
    writes = {kind: count for kind, count in requests.items() if kind.is_write}
    of_jobs = sum(count for kind, count in writes.items() if not kind.resource.startswith("workerclusters"))
    return {
        "finished": finished,
        "running": running,
        "clusters": len(lab.workers),
        "residentBytes": full.resident_bytes,
        "peakResidentBytes": full.peak_resident_bytes,
        "idleCpu": round(idle, 4),
        "syncedSeconds": round(synced, 2),
        "restartCpuSeconds": round(again.cpu_seconds, 2),
        "restartResidentBytes": again.resident_bytes,
        "restartWrites": of_jobs,
        "restartRequests": _rows(requests),
        "targets": [
            at_most("RSS, bytes", full.resident_bytes, MOST_RESIDENT_BYTES),
            at_most("RSS after a restart, bytes", again.resident_bytes, MOST_RESIDENT_BYTES),
            at_most("restart: synced, s", round(synced, 2), MOST_SYNC_SECONDS),
            at_most("restart: writes", of_jobs, 0),
        ],
    }


async def _idle_cpu(pid: int) -> float:
    """CPU seconds a second while nothing changes."""
    before, since = measure((pid,)), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    return (measure((pid,)).cpu_seconds - before.cpu_seconds) / (time.monotonic() - since)


def _rows(requests: dict[Request, int]) -> list[JSON]:
    return [
        {"plane": kind.plane, "verb": kind.verb, "resource": kind.resource, "total": count}
        for kind, count in sorted(requests.items())
    ]
