"""Latency over load, as a picture for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

JSON = dict[str, Any]


def draw(runs: Sequence[JSON], path: Path) -> None:
    """PNG of the runs at a given rate; p50 as lines, p99 dashed. Raises ValueError when there are fewer than two."""
    paced = sorted(
        (run for run in runs if isinstance(run["workload"]["rate"], float)),
        key=lambda run: run["workload"]["rate"],
    )
    if len(paced) < 2:
        raise ValueError("a picture of latency over load needs runs at two rates or more: --ladder 2,5,10,20")
    mpl.rcParams["svg.hashsalt"] = "job-dispatcher"
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for number, (name, who, field) in enumerate(
        (
            ("create → mirrors exist", "dispatched", "dispatchSeconds"),
            ("mirror Complete → Job Complete", "dispatched", "writebackSeconds"),
            ("total", "dispatched", "totalSeconds"),
            ("total, built-in on one cluster", "builtIn", "totalSeconds"),
        )
    ):
        for percentile, style in ((50, "-o"), (99, "--x")):
            points = [
                (run["workload"]["rate"], run[who][field][f"p{percentile}"])
                for run in paced
                if run.get(who) and run[who][field]
            ]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, style, color=f"C{number}", label=f"{name}, p{percentile}")
    axes.set(xlabel="Jobs created a second", ylabel="seconds", yscale="log")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
