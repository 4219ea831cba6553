"""All scenarios, many at a time, in namespaces of the run."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hack.conformance.differential import Result, compare_events, try_scenario
from hack.conformance.planes import Plane, Refused
from hack.conformance.run import Side
from hack.conformance.scenario import Scenario
from hack.lab import Lab

Report = Callable[[Result], None]


@dataclass(frozen=True, slots=True)
class Planes:
    """Kubeconfigs with administrators' rights. ``workers`` by the names of their WorkerClusters.

    ``builtin``: where the built-in controller runs the same Jobs; the management plane if None.
    """

    management: Path
    workers: dict[str, Path]
    builtin: Path | None = None
    nodes: Mapping[str, Path] = field(default_factory=dict)
    """Of planes with one real node, by their names here: the root of the node's mount namespace. All or none."""


def planes_of(lab: Lab) -> Planes:
    """A lab's kubeconfigs and nodes."""
    workers = {plane.name: plane.kubeconfig for plane in lab.workers}
    # Its folder in /proc shows the namespace of the process that holds it.
    nodes = {plane.name: Path(f"/proc/{plane.node.pid}/root") for plane in lab.planes if plane.has_real_node}
    return Planes(lab.management.kubeconfig, workers, nodes=nodes)


async def run_suite(
    scenarios: Sequence[Scenario],
    planes: Planes,
    *,
    clusters: Sequence[int],
    managed_by: str,
    at_once: int,
    choose_clusters: bool = True,
    report: Report = lambda result: None,
) -> list[Result]:
    """Runs every scenario over each number of clusters.

    ``choose_clusters`` False: the dispatcher's own default decides where Jobs go (all workers should be as many as
    ``clusters`` says), and Jobs carry no annotation of Federation's.
    """
    run = f"conformance-{secrets.token_hex(3)}"

    async def connect(name: str, path: Path) -> Plane:
        return await Plane.connect(name, path, run, node=planes.nodes.get(name))

    management = await connect("management", planes.management)
    builtin = await connect("builtin", planes.builtin) if planes.builtin else management
    workers = {name: await connect(name, path) for name, path in planes.workers.items()}
    everything = list(dict.fromkeys([management, builtin, *workers.values()]))
    gate = asyncio.Semaphore(at_once)
    results = []
    try:
        await asyncio.gather(*(plane.start() for plane in everything))
        jobs = []
        for count in clusters:
            chosen = dict(list(workers.items())[:count])
            names = tuple(chosen) if choose_clusters and count < len(workers) else ()
            one = Side("built-in", builtin, (builtin,), f"{run}-b{count}", None)
            other = Side(
                "dispatched", management, tuple(chosen.values()), f"{run}-d{count}", managed_by, names
            )
            await one.home.make_namespace(one.namespace)
            await asyncio.gather(
                *(plane.make_namespace(other.namespace) for plane in (management, *other.workers))
            )
            jobs += [(scenario, one, other, count) for scenario in scenarios]

        async def attempt(scenario: Scenario, one: Side, other: Side, count: int) -> Result:
            # A CronJob's scenario waits for the next minute most of its time.
            async with gate if scenario.cron is None else contextlib.nullcontext():
                result = await try_scenario(scenario, one, other, run=run, planes=count)
            report(result)
            return result

        # The longest first, so that they do not hold up the end.
        jobs.sort(key=lambda entry: -entry[0].timeout)
        results = await asyncio.gather(*(attempt(*job) for job in jobs))
        await compare_events(results)
    finally:
        await _clean(everything, run, clusters)
    return sorted(results, key=lambda result: (result.scenario.row, result.scenario.id, result.clusters))


async def _clean(planes: Sequence[Plane], run: str, clusters: Sequence[int]) -> None:
    for plane in planes:
        for count in clusters:
            for side in "bd":
                try:
                    await plane.request("DELETE", f"/api/v1/namespaces/{run}-{side}{count}")
                except Refused:
                    continue  # not on this plane
        await plane.stop()
