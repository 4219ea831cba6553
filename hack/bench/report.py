"""Figures of a run, as JSON and as a table."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from hack.bench.audit import BY_CLOCK, JOBS, Request
from hack.bench.run import Passage
from hack.bench.target import JSON, at_least, at_most
from hack.bench.workload import SHAPES, Workload

PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest. ``values`` is not empty."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _spread(values: Iterable[float | None]) -> JSON | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {f"p{percent}": round(percentile(known, percent), 4) for percent in PERCENTILES}


def figures(workload: Workload, *, dispatched: Passage, built_in: Passage | None) -> JSON:
    """One run. Times in seconds, memory in bytes; requests are those of the measured controller alone."""
    jobs = len(dispatched.moments)
    requests = dispatched.requests or Counter()
    rows = [
        {
            "plane": kind.plane,
            "verb": kind.verb,
            "resource": kind.resource,
            "total": count,
            "perJob": round(count / jobs, 2),
        }
        for kind, count in sorted(requests.items())
    ]
    writes = {kind: count for kind, count in requests.items() if kind.is_write}
    reads = {kind: count for kind, count in requests.items() if kind.verb in ("get", "list")}
    by_clock = sum(count for kind, count in reads.items() if kind.resource in BY_CLOCK)
    result: JSON = {
        "workload": {
            "jobs": workload.jobs,
            "shape": workload.shape,
            "rate": workload.rate,
            "spec": SHAPES[workload.shape],
        },
        "dispatched": {
            **_passage(dispatched),
            "dispatchSeconds": _spread(moments.dispatch for moments in dispatched.moments),
            "writebackSeconds": _spread(moments.writeback for moments in dispatched.moments),
            "mirrorsPerJob": round(sum(len(m.mirrors) for m in dispatched.moments) / jobs, 2),
            "cpuSecondsPerJob": round(dispatched.cpu_seconds / jobs, 4),
            "residentBytes": dispatched.usage.resident_bytes if dispatched.usage else None,
            "peakResidentBytes": dispatched.usage.peak_resident_bytes if dispatched.usage else None,
            "jobWritesPerJob": round(
                sum(count for kind, count in writes.items() if kind.resource in JOBS) / jobs, 2
            ),
            "eventsPerJob": round(
                sum(count for kind, count in writes.items() if kind.resource == "events") / jobs, 2
            ),
            "readsPerJob": round((sum(reads.values()) - by_clock) / jobs, 2),
            "readsByClock": by_clock,
            "requests": rows,
        },
    }
    if built_in is not None:
        own = result["builtIn"] = _passage(built_in)
        ours = result["dispatched"]
        result["jobsPerSecondRatio"] = round(ours["jobsPerSecond"] / own["jobsPerSecond"], 2)
        if dispatched.served is not None and built_in.served is not None:
            result["addedByServerMetrics"] = _added(dispatched.served, built_in.served, jobs)
        if ours["totalSeconds"] and own["totalSeconds"]:
            result["addedSecondsP50"] = round(ours["totalSeconds"]["p50"] - own["totalSeconds"]["p50"], 4)
    return result


def _passage(passage: Passage) -> JSON:
    finished = len(passage.moments) - passage.unfinished
    return {
        "unfinished": passage.unfinished,
        "seconds": round(passage.seconds, 3),
        "jobsPerSecond": round(finished / passage.seconds, 2),
        "totalSeconds": _spread(moments.total for moments in passage.moments),
    }


def _added(dispatched: Counter[Request], built_in: Counter[Request], jobs: int) -> JSON:
    """Requests a Job above the built-in's, all planes together, as the API servers counted them."""

    def total(counts: Counter[Request], *, writes: bool, events: bool) -> int:
        return sum(
            count
            for kind, count in counts.items()
            if kind.is_write == writes and (kind.resource == "events") == events
        )

    return {
        name: round((total(dispatched, **which) - total(built_in, **which)) / jobs, 2)
        for name, which in (
            ("jobWritesPerJob", {"writes": True, "events": False}),
            ("eventsPerJob", {"writes": True, "events": True}),
            ("jobReadsPerJob", {"writes": False, "events": False}),
        )
    }


def targets(run: JSON) -> list[JSON]:
    """What this run should reach, and whether it did. CPU, writes and reads hold on a busy machine; times do not."""
    ours, workload = run["dispatched"], run["workload"]
    rate, single = workload["rate"], ours["mirrorsPerJob"] == 1
    wanted: list[tuple[str, float | None, float]] = []
    if rate == "idle":
        most = (0.030, 0.020) if single else (0.060, 0.050)
        wanted.append(
            ("create → mirrors on all clusters, p50, s", _percentile_of(ours, "dispatch", 50), most[0])
        )
        writeback = _percentile_of(ours, "writeback", 50)
        wanted.append(("last mirror Complete → Job Complete, p50, s", writeback, most[1]))
        if single and "addedSecondsP50" in run:
            wanted.append(("total above the built-in's, p50, s", run["addedSecondsP50"], 0.080))
    if isinstance(rate, float) and rate <= 20:
        wanted.append(("create → mirrors on all clusters, p99, s", _percentile_of(ours, "dispatch", 99), 0.5))
    if single:
        wanted.append(("writes to Jobs a single-share Job", ours["jobWritesPerJob"], 6))
        wanted.append(("CPU a single-share Job, s", ours["cpuSecondsPerJob"], 0.008))
    elif workload["shape"] == "indexed":
        share = round(ours["jobWritesPerJob"] / max(ours["mirrorsPerJob"], 1), 2)
        wanted.append(("writes to Jobs an Indexed share", share, 8))
    wanted.append(("Events a Job", ours["eventsPerJob"], 3))
    wanted.append(("reads a Job", ours["readsPerJob"], 0))
    found = [at_most(*entry) for entry in wanted]
    if rate == "burst" and workload["shape"] == "single" and "jobsPerSecondRatio" in run:
        found.append(at_least("Jobs/s over the built-in's", run["jobsPerSecondRatio"], 0.6))
    return found


def _percentile_of(ours: JSON, which: str, percent: int) -> float | None:
    spread = ours[f"{which}Seconds"]
    return spread[f"p{percent}"] if spread else None


def show(console: Console, title: str, run: JSON) -> None:
    """Print one run."""
    ours, built_in = run["dispatched"], run.get("builtIn")
    console.print(f"\n[bold]{title}[/bold]", soft_wrap=True)
    times = Table("", "p50", "p95", "p99", box=None)
    for name, spread in (
        ("create → mirrors on all clusters", ours["dispatchSeconds"]),
        ("last mirror Complete → Job Complete", ours["writebackSeconds"]),
        ("total", ours["totalSeconds"]),
        ("total, built-in on one cluster", built_in and built_in["totalSeconds"]),
    ):
        if spread:
            times.add_row(name, *(_seconds(spread[f"p{percent}"]) for percent in PERCENTILES))
    console.print(times)
    speed = f"  {ours['jobsPerSecond']:g} Jobs/s"
    if built_in:
        speed += f"; built-in {built_in['jobsPerSecond']:g} Jobs/s, ratio {run['jobsPerSecondRatio']:g}"
        if "addedSecondsP50" in run:
            speed += f"; added to the total, p50: {_seconds(run['addedSecondsP50'])}"
    console.print(speed, soft_wrap=True)
    if ours["residentBytes"]:
        console.print(
            f"  controller: {ours['cpuSecondsPerJob'] * 1000:.1f} ms CPU a Job, "
            f"{ours['residentBytes'] / 2**20:.0f} MiB resident, at most {ours['peakResidentBytes'] / 2**20:.0f} MiB",
            soft_wrap=True,
        )
    console.print(
        f"  a Job: {ours['jobWritesPerJob']:g} writes to Jobs, {ours['eventsPerJob']:g} Events, "
        f"{ours['readsPerJob']:g} reads, {ours['mirrorsPerJob']:g} mirrors",
        soft_wrap=True,
    )
    if "addedByServerMetrics" in run:
        added = run["addedByServerMetrics"]
        console.print(
            f"  added above the built-in, by the API servers' counters: {added['jobWritesPerJob']:g} writes to Jobs, "
            f"{added['eventsPerJob']:g} Events, {added['jobReadsPerJob']:g} reads of Jobs",
            soft_wrap=True,
        )
    busy = f"  load average before: {run['loadAverageBefore']:g} on {os.cpu_count()} CPUs"
    console.print(busy + ("; figures of a busy machine" if run["loadAverageBefore"] > 2 else ""))
    for passage, who in ((ours, "dispatched"), (built_in, "built-in")):
        if passage and passage["unfinished"]:
            console.print(f"  [red]{passage['unfinished']} {who} Jobs did not complete[/red]")
    _show_requests(console, ours["requests"])
    show_targets(console, run["targets"])


def show_standing(console: Console, result: JSON) -> None:
    """Print what :func:`hack.bench.standing.standing` found."""
    console.print(
        f"\n[bold]{result['finished']} finished and {result['running']} running Jobs over "
        f"{result['clusters']} clusters[/bold]"
    )
    console.print(
        f"  {result['residentBytes'] / 1e6:.0f} MB resident, at most {result['peakResidentBytes'] / 1e6:.0f} MB; "
        f"idle: {result['idleCpu'] * 1000:.1f} ms CPU a second",
        soft_wrap=True,
    )
    console.print(
        f"  restart: synced after {result['syncedSeconds']:g} s, {result['restartWrites']} writes, "
        f"{result['restartCpuSeconds']:g} s CPU, {result['restartResidentBytes'] / 1e6:.0f} MB resident",
        soft_wrap=True,
    )
    show_targets(console, result["targets"])


def show_targets(console: Console, targets: Sequence[JSON]) -> None:
    """Print targets and whether they were met."""
    for entry in targets:
        mark = "[green]met[/green]" if entry["met"] else "[red]missed[/red]"
        bound = f"≥ {entry['atLeast']:g}" if "atLeast" in entry else f"≤ {entry['atMost']:g}"
        console.print(f"  target: {entry['target']} {bound}: {entry['value']} {mark}", soft_wrap=True)


def _show_requests(console: Console, rows: Sequence[JSON]) -> None:
    planes = sorted({row["plane"] for row in rows})
    kinds = sorted({(row["verb"], row["resource"]) for row in rows})
    table = Table("REQUESTS A JOB", *planes, box=None)
    for verb, resource in kinds:
        counts = {
            row["plane"]: row["perJob"] for row in rows if (row["verb"], row["resource"]) == (verb, resource)
        }
        table.add_row(f"{verb} {resource}", *(f"{counts.get(plane, 0):g}" for plane in planes))
    console.print(table)


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if abs(value) < 1 else f"{value:.2f} s"
