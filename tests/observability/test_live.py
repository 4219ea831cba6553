"""A real Prometheus, a running dispatcher, and troubles: do the alerts and the dashboards say what is?"""

import json
import shutil
import urllib.request
from collections.abc import Iterator

import pytest

from hack.generate import panels
from hack.generate.dashboards import Panel
from hack.lab import Lab
from hack.observability.pictures import plain
from hack.observability.story import Story

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is missing"),
]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Told once, in a lab of its own: its metrics count from zero. The panels are looked at afterwards."""
    lab = Lab.up(tmp_path_factory.mktemp("lab"), workers=3)
    try:
        with Story.begin(lab, report=print) as told:
            told.tell()
            yield told
    finally:
        lab.down()


def test_every_alert_fires_in_its_situation_and_stops_after_it(story: Story) -> None:
    names = {
        found["metric"]["alertname"]
        for found in story.prometheus.history("ALERTS", start=story.began, end=story.now)
    }
    assert len(names) == 9


def test_a_lost_clusters_work_is_seen_to_move(story: Story) -> None:
    for metric in ("failovers", "moved_completions"):
        expr = f"max_over_time(job_dispatcher_{metric}_total[1h]) > 0"
        moved = story.prometheus.query(expr)
        assert [found["metric"]["cluster"] for found in moved] == [story.lab.worker(2).name]


@pytest.mark.parametrize(
    "panel",
    [pytest.param(panel, id=f"{board.uid}: {panel.title}") for board in panels.ALL for panel in board.panels],
)
def test_a_panel_has_data_or_a_reason_to_be_empty(story: Story, panel: Panel) -> None:
    found = [
        story.prometheus.history(plain(query.expr), start=story.began, end=story.now)
        for query in panel.queries
    ]
    assert all(found) or panel.empty, [query.expr for query in panel.queries]


def test_the_debug_page_has_the_queue_and_the_clusters_and_no_secret(story: Story) -> None:
    with urllib.request.urlopen(f"http://{story.controller.address}/debug/state", timeout=60.0) as response:
        text = str(response.read(), "utf-8")
    state = json.loads(text)
    assert set(state["clusters"]) == {plane.name for plane in story.lab.workers}
    assert {"depth", "running", "waiting", "oldestSeconds"} <= set(state["queue"])
    for cluster in state["clusters"]:
        for secret in story.work.secrets(cluster):
            assert secret not in text
