"""Whether a hung cluster delays Jobs on others: dispatch latency with one of the clusters stopped, and without."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from dispatcher.core import names
from hack.bench.report import PERCENTILES, percentile
from hack.bench.timeline import Timeline
from hack.lab import Lab, LabError
from hack.running import ClusterJobs, Controller

JSON = dict[str, Any]
NAMESPACE = "default"
MOST = 1.2
"""The p99 with a hung cluster may be so many times that without."""
PASSES = 3
"""Of each kind, in turns, so that what else the machine does meets both."""
JOBS = 40
"""Measured Jobs a pass; as many more have a share on the cluster that hangs."""
A_SECOND = 2.0
PASS_SECONDS = 120.0


async def measure(lab: Lab, *, managed_by: str, report: Callable[[str], None]) -> JSON:
    """Latencies in seconds, from a Job's existence to its last mirror's. The last cluster hangs.

    The Jobs that are measured are divided over the other clusters. The API server is stopped right before a pass, so
    that the time in which nobody has noticed it yet counts as well.
    """
    *healthy, hung = lab.workers
    if not healthy:
        raise LabError("isolation needs a lab with at least two worker clusters")
    controller = await asyncio.to_thread(Controller.start, lab, managed_by=managed_by)
    latencies: dict[str, list[float]] = {"alone": [], "hung": []}
    try:
        for number in range(2 * PASSES + 1):
            kind = "hung" if number % 2 else "alone"
            if kind == "hung":
                hung.apiserver.pause()
            try:
                found = await _pass(lab, number, managed_by=managed_by)
            finally:
                hung.apiserver.resume()
            if number:  # the first one warms up
                latencies[kind] += found
                report(f"pass {number} of {2 * PASSES}, {kind}: p99 {percentile(found, 99) * 1000:.0f} ms")
            await _clear(lab)
    finally:
        hung.apiserver.resume()
        await asyncio.to_thread(controller.stop)
    spread = {
        kind: {f"p{percent}": round(percentile(values, percent), 4) for percent in PERCENTILES}
        for kind, values in latencies.items()
    }
    ratio = spread["hung"]["p99"] / spread["alone"]["p99"]
    return {
        "jobs": {kind: len(values) for kind, values in latencies.items()},
        "seconds": spread,
        "ratioP99": round(ratio, 3),
        "atMost": MOST,
        "met": ratio <= MOST,
    }


def show(console: Console, found: JSON) -> None:
    """Print the figures."""
    for kind, spread in found["seconds"].items():
        values = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in spread.items())
        title = "all clusters answer" if kind == "alone" else "one cluster hangs"
        console.print(f"create → mirrors, {title}: {values} ({found['jobs'][kind]} Jobs)", soft_wrap=True)
    verdict = "met" if found["met"] else "NOT met"
    console.print(f"p99 ratio {found['ratioP99']:.2f}, at most {found['atMost']}: {verdict}")


async def _pass(lab: Lab, number: int, *, managed_by: str) -> list[float]:
    *healthy, _ = lab.workers
    changed = asyncio.Event()
    timeline = Timeline(on_change=changed.set)
    wanted = {"clusters": {plane.name: {"weight": 1} for plane in healthy}}
    measured = {names.PREFERENCES_ANNOTATION: json.dumps(wanted)}
    async with contextlib.AsyncExitStack() as stack:
        home = ClusterJobs(lab.management, on_change=timeline.watch_jobs())
        await stack.enter_async_context(home)
        for plane in healthy:
            await stack.enter_async_context(ClusterJobs(plane, on_change=timeline.watch_mirrors(plane.name)))
        begin = time.monotonic()
        async with asyncio.timeout(PASS_SECONDS), asyncio.TaskGroup() as posts:
            for job in range(JOBS):
                await asyncio.sleep(max(0.0, begin + job / A_SECOND - time.monotonic()))
                name = f"isolation-{number}-{job}"
                timeline.sending(name)
                posts.create_task(_create(home, timeline, name, annotations=measured, managed_by=managed_by))
                posts.create_task(
                    _create(home, None, f"{name}-everywhere", annotations={}, managed_by=managed_by)
                )
        async with asyncio.timeout(PASS_SECONDS):
            while timeline.unfinished:
                changed.clear()
                await changed.wait()
    return [
        moments.dispatch
        for moments in timeline.jobs.values()
        if moments.dispatch is not None and len(moments.mirrors) == len(healthy)
    ]


async def _create(
    home: ClusterJobs, timeline: Timeline | None, name: str, *, annotations: dict[str, str], managed_by: str
) -> None:
    container = {"name": "work", "image": "example/work"}
    await home.create(
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "namespace": NAMESPACE, "annotations": annotations},
            "spec": {
                "managedBy": managed_by,
                "completions": 4,
                "parallelism": 4,
                "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            },
        }
    )
    if timeline is not None:
        timeline.answered(name)


async def _clear(lab: Lab) -> None:
    """Delete what a pass made, and wait until it is gone everywhere."""
    async with contextlib.AsyncExitStack() as stack:
        clusters = [await stack.enter_async_context(ClusterJobs(plane)) for plane in lab.planes]
        home, *_ = clusters
        ours = [job for job in home.cache if job["metadata"]["name"].startswith("isolation-")]
        async with asyncio.TaskGroup() as deletions:
            for job in ours:
                deletions.create_task(home.delete(job))
        async with asyncio.timeout(PASS_SECONDS):
            while any(  # noqa: ASYNC110 - four caches, no common event
                job["metadata"]["name"].startswith("isolation-")
                for cluster in clusters
                for job in cluster.cache
            ):
                await asyncio.sleep(0.1)
