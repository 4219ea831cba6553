"""What describe, clusters, drain and top make of objects. No cluster is needed."""

import io
import signal
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console, ConsoleOptions, RenderResult

from dispatcher.commands import colours
from dispatcher.commands.describe import describe_job
from dispatcher.commands.drain import describe_shares, unfinished
from dispatcher.commands.get_watch import Shape
from dispatcher.commands.live import LiveTable, show_live
from dispatcher.commands.top_screen import Screen, in_order
from dispatcher.commands.watching import Change
from dispatcher.commands.worker_clusters import row
from dispatcher.core.names import DEFAULT_MANAGED_BY, PLACEMENT_ANNOTATION, ClusterName
from dispatcher.core.placement import Counts, Placement, Share, ShareState, format_placement

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def share(number: int, cluster: str, state: ShareState = ShareState.ACTIVE, **more: Any) -> Share:
    made: dict[str, Any] = {"mirror_uid": "m", "counts": Counts(1, 0, 2), **more}
    return Share(number, ClusterName(cluster), "uid", "pi", 2, 4, state=state, **made)


def job(*shares: Share, name: str = "pi", condition: str = "Dispatched", **status: Any) -> dict[str, Any]:
    placement = Placement("uid", shares, len(shares), {"old": Counts(3, 1)})
    return {
        "metadata": {
            "namespace": "team",
            "name": name,
            "uid": "uid",
            "creationTimestamp": "2026-01-01T11:55:00Z",
            "labels": {"app": "render", "job-name": name},
            "annotations": {PLACEMENT_ANNOTATION: format_placement(placement), "note": "x"},
        },
        "spec": {"completions": 8, "parallelism": 4, "managedBy": DEFAULT_MANAGED_BY},
        "status": {
            "startTime": "2026-01-01T11:56:00Z",
            "conditions": [
                {
                    "type": condition,
                    "status": "True",
                    "reason": "R",
                    "message": "two\nlines",
                    "lastTransitionTime": "2026-01-01T11:57:00Z",
                }
            ],
            **status,
        },
    }


def event(reason: str, at: str, **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": reason},
        "involvedObject": {"kind": "Job", "name": "pi"},
        "type": "Normal",
        "reason": reason,
        "message": f"about {reason}",
        "lastTimestamp": at,
        **more,
    }


def test_a_description() -> None:
    entered = (ShareState.DRAINING, int(NOW.timestamp()) - 300)
    manifest = job(
        share(0, "worker-1"),
        share(1, "worker-2", ShareState.LOST),
        share(2, "worker-3", ShareState.DRAINING, entered=entered),
        active=4,
        succeeded=2,
    )
    events = [
        event("Later", "2026-01-01T11:59:00Z", metadata={"labels": {"jobdispatcher.io/cluster": "worker-1"}}),
        event("Sooner", "2026-01-01T11:58:00Z", count=3, firstTimestamp="2026-01-01T11:00:00Z"),
    ]
    lines = list(describe_job(manifest, events, missing=["no right"], now=NOW))
    text = "\n".join(" ".join(line.split()) for line in lines)
    for expected in (
        "Labels: app=render",
        "Annotations: note=x",
        "Phase: Running",
        "Completions: 2/8",
        "Pods: 4 active, 0 ready, 2 succeeded, 0 failed, 0 terminating",
        "worker-1 pi 2 4 1 0 2 Active 4m",
        "worker-2 pi 2 4 1 0 2 Lost <unknown>",
        "worker-3 pi 2 4 1 0 2 Draining 5m",
        "old 3 1",
        "Dispatched True 3m R two lines",
        "2m (x3 over 60m) Normal Sooner - job/pi about Sooner\n60s Normal Later worker-1 job/pi about Later",
        "<no right>",
    ):
        assert expected in text
    assert not any("job-name" in line or "placement" in line for line in lines)


def test_a_description_of_what_nobody_has_looked_at() -> None:
    manifest = job()
    del manifest["metadata"]["annotations"], manifest["status"]
    lines = list(describe_job(manifest, [], now=NOW))
    assert [line for line in lines if line.endswith(":  <none>")] == [
        "Shares:  <none>",
        "Conditions:  <none>",
        "Events:  <none>",
    ]
    manifest["metadata"]["annotations"] = {PLACEMENT_ANNOTATION: "{"}
    assert any("cannot be read" in line for line in describe_job(manifest, [], now=NOW))


def test_an_indexed_share_that_is_to_be_made() -> None:
    manifest = job(share(0, "worker-1", interval=(4, 7), mirror_uid="", counts=Counts()))
    manifest["spec"]["completionMode"] = "Indexed"
    [line] = [it.split() for it in describe_job(manifest, [], now=NOW) if "worker-1" in it]
    assert line[:4] == ["worker-1", "pi", "2", "4-7"]
    assert line[7] == "Creating"


CLUSTER: dict[str, Any] = {
    "metadata": {"name": "worker-1", "creationTimestamp": "2026-01-01T11:00:00Z"},
    "spec": {
        "weight": 2,
        "capacity": {"parallelism": 8},
        "unschedulable": True,
        "taints": [
            {"key": "gpu", "value": "only", "effect": "NoSchedule"},
            {"key": "drain", "effect": "NoExecute"},
        ],
    },
    "status": {
        "activePods": 4,
        "mirrors": 3,
        "serverVersion": "v1.36.3",
        "clusterUID": "u",
        "conditions": [
            {"type": "Ready", "status": "False", "reason": "Unreachable", "message": "no\nanswer"}
        ],
    },
}


def test_a_line_of_the_fleet() -> None:
    assert row(CLUSTER, NOW, wide=True) == [
        *("worker-1", "False", "Unreachable", "v1.36.3", "4", "8", "true"),
        *("gpu=only:NoSchedule,drain:NoExecute", "60m", "2", "3", "u", "no answer"),
    ]
    assert row({"metadata": {"name": "new"}, "spec": {}}, NOW) == [
        *("new", "Unknown", "", "", "", "", "false", "", "<unknown>"),
    ]


def test_what_is_unfinished_on_a_cluster() -> None:
    jobs = [
        job(share(0, "a"), share(1, "b"), name="runs"),
        job(share(0, "a", ShareState.FINISHED), name="done-there"),
        job(share(0, "a", ShareState.LOST), share(1, "a", ShareState.REMOVING), name="moved"),
        job(share(0, "a", ShareState.DRAINING), share(1, "a"), name="moves"),
        job(share(0, "a"), name="over", condition="Failed"),
    ]
    left = unfinished(jobs, "a")
    assert list(left) == ["team/moves", "team/runs"]
    assert describe_shares("team/moves", left["team/moves"]) == (
        "team/moves (4 active, 6 completions left, Draining)"
    )


def test_lines_of_a_watch_come_only_with_news() -> None:
    shape = Shape(with_namespace=False, wide=False, with_headers=True)
    first = shape.text([Change("ADDED", job(share(0, "a")))]).splitlines()
    assert [line.split()[0] for line in first] == ["NAME", "pi"]
    assert shape.text([Change("MODIFIED", job(share(0, "a")))]) == ""
    [line] = shape.text([Change("MODIFIED", job(share(0, "a"), active=1))]).splitlines()
    assert line.index("Running") == first[0].index("PHASE")
    assert shape.text([Change("DELETED", job(share(0, "a"), active=1))]).split()[1] == "Deleted"


def drawn(screen: Any, *, height: int | None = None, colour: bool = False) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=160, height=height, force_terminal=height is not None, no_color=not colour
    )
    console.print(screen)
    return file.getvalue()


def top(jobs: list[dict[str, Any]], **more: Any) -> Screen:
    made: dict[str, Any] = {"clusters": [CLUSTER], "notes": [], "now": NOW, "server": "https://here", **more}
    return Screen(jobs=jobs, **made)


def test_the_screen_of_top() -> None:
    running = job(share(0, "worker-1"), active=2, succeeded=1)
    text = drawn(top([job(name="old", condition="Complete"), running], notes=["something is missing"]))
    assert "clusters 0/1 ready  pods 2 active  jobs 1 running, 1 complete" in text
    assert "something is missing" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["worker-1", "False", "Unreachable", "4"] in [line[:4] for line in lines]
    assert [line[1] for line in lines if line[:1] == ["team"]] == ["pi", "old"]


def test_top_without_the_right_to_see_clusters() -> None:
    text = drawn(top([job()], clusters=None))
    assert "CLUSTER" not in text
    assert "team" in text


def test_a_screen_that_is_too_small_counts_what_it_leaves_out() -> None:
    jobs = [job(name=f"job-{number:02}") for number in range(30)]
    text = drawn(top(jobs), height=20)
    assert len(text.splitlines()) <= 20
    shown = text.count("job-")
    assert f"… and {30 - shown} more" in text
    table = LiveTable(["NAME"], [[f"job-{number}"] for number in range(30)])
    text = drawn(table, height=10)
    assert text.count("job-") + 23 == 30
    assert "… and 23 more" in text


def test_the_order_of_top() -> None:
    phases = ["Complete", "Failed", "Suspended", "Dispatched"]
    assert [it["metadata"]["name"] for it in in_order([job(name=p, condition=p) for p in phases])] == [
        *("Dispatched", "Suspended", "Failed", "Complete"),
    ]


@pytest.mark.parametrize(
    ("environment", "terminal", "expected"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_who_gets_colours(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], terminal: bool, expected: bool
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert colours.are_wanted(Stream()) is expected


@pytest.mark.parametrize("drawing", [1, 2])
def test_ctrl_c_while_drawing_gives_the_screen_back(drawing: int) -> None:
    drawn = []

    class Picture:
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            drawn.append(self)
            if len(drawn) == drawing:
                signal.raise_signal(signal.SIGINT)
            yield "a picture"

    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=40, height=10)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        show_live(Picture, lambda seconds: True, whole_screen=True, console=console)
    assert written.getvalue().count("a picture") >= drawing
    assert "\x1b[?1049l" in written.getvalue()
    assert signal.getsignal(signal.SIGINT) == before
