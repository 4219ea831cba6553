"""Dashboards, alerts and their pages, without a running dispatcher."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as schema
from prometheus_client import REGISTRY

from hack.generate import panels
from hack.generate.files import generated
from hack.generate.metrics_page import defined, exposed_name

ROOT = Path(__file__).parents[2]
FILES = ROOT / "charts" / "job-dispatcher" / "files"
ALERTS = FILES / "alerts" / "job-dispatcher.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
UNITS = {"s", "ops", "reqps", "bytes", "short"}
"""Grafana's ids of the units in use."""
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool (Debian package prometheus) is missing"
)


@pytest.mark.parametrize("path", [*DASHBOARDS, ROOT / "docs" / "metrics.md"], ids=lambda path: path.name)
def test_a_generated_file_is_current(path: Path) -> None:
    assert path.read_text() == generated()[path], "run `make generate`"


def test_every_dashboard_has_its_file() -> None:
    assert [path.stem for path in DASHBOARDS] == sorted(board.uid for board in panels.ALL)


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """All scalars by their path; empty containers and nulls are left out, as Grafana's types do it."""
    if isinstance(value, dict):
        found = [leaves(child, f"{path}.{name}") for name, child in value.items()]
    elif isinstance(value, list):
        found = [leaves(child, f"{path}[{number}]") for number, child in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for part in found for name, leaf in part.items()}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_of_grafanas_schema(path: Path) -> None:
    """What Grafana's published types do not know is lost on the way through them: of the dashboard, its panels'
    options and its queries.
    """
    plugins.register_default_plugins()
    written = json.loads(path.read_text())
    read = schema.Dashboard.from_json(written)
    understood = leaves(json.loads(json.dumps(read, cls=JSONEncoder)))
    lost = {
        name: value
        for name, value in leaves(written).items()
        if understood.get(name) != value and value is not None
    }
    assert lost == {}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_panel_has_what_a_reader_needs(path: Path) -> None:
    board = json.loads(path.read_text())
    [link] = board["links"]
    assert set(link["tags"]) <= set(board["tags"])
    assert link["includeVars"]
    assert link["keepTime"]
    assert {entry["name"] for entry in board["templating"]["list"]} == {"datasource", "job", "cluster"}
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        limits = [step["value"] for step in defaults["thresholds"]["steps"]]
        assert limits[0] is None
        assert limits[1:] == sorted(set(limits[1:])) != [], panel["title"]
        for target in panel["targets"]:
            used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
            assert {"job"} <= used <= {"job", "cluster", "__rate_interval"}, target["expr"]
            assert (
                target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            )
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def known_metrics() -> set[str]:
    found = {"process_cpu_seconds_total", "process_resident_memory_bytes"}
    for metric in defined():
        name = exposed_name(metric)
        found |= {name, f"{name}_bucket", f"{name}_count"}
    return found


def expressions() -> list[str]:
    queries = [query.expr for board in panels.ALL for panel in board.panels for query in panel.queries]
    return [*queries, *(rule["expr"] for rule in RULES)]


def test_only_metrics_that_exist_are_asked_for() -> None:
    used = {name for expr in expressions() for name in re.findall(r"\b(?:job_dispatcher|process)_\w+", expr)}
    assert used <= known_metrics()


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    used = " ".join(expressions())
    unused = {exposed_name(metric) for metric in defined() if metric._name not in used}
    assert unused == set()


def test_no_metric_is_defined_elsewhere() -> None:
    ours = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("job_dispatcher_")}
    assert ours == {metric._name for metric in defined()}


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert {rule["alert"] for rule in RULES} == pages
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
        assert rule["labels"]["severity"] in ("warning", "critical")
        page = (ROOT / rule["annotations"]["runbook_url"]).read_text()
        assert page.startswith(f"# {rule['alert']}\n")
        for heading in ("## What it means", "## Where to look", "## What to do"):
            assert heading in page


def test_a_runbook_names_only_metrics_that_exist() -> None:
    for path in (ROOT / "docs" / "runbooks").glob("*.md"):
        used = set(re.findall(r"\bjob_dispatcher_\w+", path.read_text()))
        assert used <= known_metrics(), path.name


@needs_promtool
@pytest.mark.parametrize("command", [["check", "rules", str(ALERTS)], ["test", "rules", "alerts.test.yaml"]])
def test_promtool_accepts_the_alerts(command: list[str]) -> None:
    done = subprocess.run(
        [str(PROMTOOL), *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_with_its_real_duration() -> None:
    tests = yaml.safe_load((Path(__file__).parent / "alerts.test.yaml").read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    for rule in RULES:
        own = [case for case in cases if case["alertname"] == rule["alert"]]
        assert any(case.get("exp_alerts") for case in own), rule["alert"]
        assert not all(case.get("exp_alerts") for case in own), rule["alert"]


@pytest.mark.parametrize("part", ["", "options", "gridPos"])
def test_a_field_that_grafana_does_not_know_is_noticed(tmp_path: Path, part: str) -> None:
    board = json.loads(DASHBOARDS[0].read_text())
    panel = board["panels"][0]
    (panel[part] if part else panel)["unheardOf"] = 1
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(board))
    with pytest.raises(AssertionError, match="unheardOf"):
        test_a_dashboard_is_of_grafanas_schema(path)
