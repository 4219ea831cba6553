"""Each dashboard as a picture: its panels with what a Prometheus has for them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hack.generate.dashboards import FALLING, Dashboard, Panel, Query, render
from hack.observability.prometheus import JOB, Prometheus

COLUMNS = 24
ROW_INCHES, COLUMN_INCHES = 0.3, 0.62
VARIABLES = {"$__rate_interval": "20s", "$job": JOB, "$cluster": ".+"}
COLOURS = {"green": "#2f7d4f", "yellow": "#b8860b", "red": "#b03a2e"}
UNITS = {"s": "s", "ops": "/s", "reqps": "/s", "bytes": "B", "short": ""}


def plain(expr: str) -> str:
    """The expression with values for Grafana's variables."""
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr


def draw(dashboard: Dashboard, prometheus: Prometheus, path: Path, *, start: float, end: float) -> None:
    """Write the dashboard's picture; times in Unix seconds."""
    mpl.rcParams.update({"font.size": 7, "axes.titlesize": 8, "font.family": "DejaVu Sans"})
    places = [panel["gridPos"] for panel in _rendered(dashboard)]
    rows = max(place["y"] + place["h"] for place in places)
    figure = Figure(figsize=(COLUMNS * COLUMN_INCHES, (rows + 1.5) * ROW_INCHES), dpi=80)
    figure.text(0.01, 1 - 0.9 / (rows + 1.5), dashboard.title, fontsize=12, weight="bold")
    for panel, place in zip(dashboard.panels, places, strict=True):
        total = rows + 1.5
        left, width = place["x"] / COLUMNS, place["w"] / COLUMNS
        bottom, height = 1 - (place["y"] + place["h"] + 1.5) / total, place["h"] / total
        bounds = (left + 0.03, bottom + 1.3 / total, width - 0.045, height - 2.3 / total)
        axes = figure.add_axes(bounds)
        axes.set_title(panel.title, loc="left")
        if panel.kind == "stat":
            _draw_stat(axes, panel, prometheus, end)
        else:
            _draw_series(axes, panel, prometheus, (start, end))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, pil_kwargs={"optimize": True})


def _rendered(dashboard: Dashboard) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(render(dashboard))["panels"]
    return panels


def _draw_stat(axes: Axes, panel: Panel, prometheus: Prometheus, end: float) -> None:
    axes.set_axis_off()
    found = [
        (_legend(query, series["metric"]), float(series["values"][-1][1]))
        for query in panel.queries
        for series in prometheus.history(plain(query.expr), start=end - 5, end=end)
    ]
    texts = [
        f"{legend}  {_text(value, panel.unit)}".strip() for legend, value in found if not math.isnan(value)
    ]
    worst = max((value for _, value in found if not math.isnan(value)), default=0.0)
    if panel.title in FALLING:
        worst = min((value for _, value in found), default=0.0)
    size = 13 if len(texts) <= 1 else 8
    axes.text(
        0.0, 0.4, "\n".join(texts) or "no data", fontsize=size, va="center", color=_colour(panel, worst)
    )


def _colour(panel: Panel, value: float) -> str:
    low, high = panel.thresholds
    if panel.title in FALLING:
        return COLOURS["green" if value >= high else "yellow" if value >= low and low != high else "red"]
    return COLOURS["red" if value >= high else "yellow" if value >= low else "green"]


def _draw_series(axes: Axes, panel: Panel, prometheus: Prometheus, span: tuple[float, float]) -> None:
    lines: list[tuple[str, list[float], list[float]]] = []
    for query in panel.queries:
        for series in prometheus.history(plain(query.expr), start=span[0], end=span[1]):
            moments = [float(at) - span[0] for at, _ in series["values"]]
            values = [float(value) for _, value in series["values"]]
            lines.append((_legend(query, series["metric"]), moments, values))
    for legend, moments, values in lines:
        axes.plot(moments, values, linewidth=1, label=legend)
        if panel.stacked:
            axes.fill_between(moments, values, alpha=0.15)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, span[1] - span[0])
    axes.xaxis.set_major_formatter("{x:.0f} s")
    axes.set_ylabel(UNITS[panel.unit])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if 0 < len(lines) <= 9:
        axes.legend(fontsize=5.5, frameon=False, loc="upper left", ncols=2)
    if not lines:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="gray")


def _legend(query: Query, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), query.legend).strip()


def _text(value: float, unit: str) -> str:
    return f"{value:.3g} {UNITS[unit]}".strip()
