"""The records of a dashboard, and how they become Grafana's JSON; what is on them is in panels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["timeseries", "stat"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "job-dispatcher"


@dataclass(frozen=True, slots=True)
class Query:
    """``legend`` in Grafana's form, such as ``{{cluster}}``."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """``unit``: Grafana's id of it. ``thresholds``: values from which on it is yellow and red; upside down if falling.

    ``empty``: why its queries may rightly give nothing.
    """

    title: str
    description: str
    unit: str
    queries: Sequence[Query]
    thresholds: tuple[float, float]
    kind: Kind = "timeseries"
    width: int = 8
    stacked: bool = False
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """``uid`` is also the file's name."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel]


FALLING = ("Cluster state", "Ready", "Credentials end in", "Leader")
"""Panels on which low values are the bad ones."""


def render(dashboard: Dashboard) -> str:
    """The dashboard as JSON text (Grafana's schema version 39, Grafana 11)."""
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": [TAG],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "Job Dispatcher",
                "type": "dashboards",
                "tags": [TAG],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "external link",
                "tooltip": "",
                "url": "",
            }
        ],
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": list(_panels(dashboard)),
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _variables() -> Iterator[dict[str, Any]]:
    yield {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
    }
    for name, label, metric in (
        ("job", "Job label", "job_dispatcher_build_info"),
        ("cluster", "Cluster", "job_dispatcher_cluster_ready"),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": f"label_values({metric}, {name})",
            "refresh": 2,
            "sort": 1,
            "multi": True,
            "includeAll": True,
            "allValue": ".+",
            "current": {"text": "All", "value": "$__all", "selected": True},
            "hide": 0,
        }


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    x = y = row = 0
    for number, panel in enumerate(dashboard.panels, start=1):
        if x + panel.width > 24:
            x, y, row = 0, y + row, 0
        height = 4 if panel.kind == "stat" else 8
        yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": height})
        x += panel.width
        row = max(row, height)


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    colours = ("red", "yellow", "green") if panel.title in FALLING else ("green", "yellow", "red")
    low, high = panel.thresholds
    steps: list[dict[str, Any]] = [{"color": colours[0], "value": None}]
    if low != high:
        steps.append({"color": colours[1], "value": low})
    steps.append({"color": colours[2], "value": high})
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "min": 0,
    }
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "fillOpacity": 25 if panel.stacked else 0,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
        options: dict[str, Any] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    else:
        options = {
            "colorMode": "background",
            "graphMode": "area",
            "justifyMode": "auto",
            "orientation": "auto",
            "textMode": "auto",
            "wideLayout": True,
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
            "reduceOptions": {"calcs": ["lastNotNull"], "values": False, "fields": ""},
        }
    description = f"{panel.description} May be empty: {panel.empty}." if panel.empty else panel.description
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": SOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or panel.title,
                "range": panel.kind != "stat",
                "instant": panel.kind == "stat",
            }
            for position, query in enumerate(panel.queries)
        ],
    }
