"""A follow over clusters that hang, go and come back, without a cluster."""

import asyncio
import contextlib
import functools
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import orjson
import pytest

from dispatcher.clusters import reply as replies
from dispatcher.clusters.pods import LogBroken
from dispatcher.clusters.reply import Manifest, Outcome, Reply
from dispatcher.commands.logs import Printer
from dispatcher.view import following, logs
from dispatcher.view.following import Follow
from dispatcher.view.lines import Output
from dispatcher.view.logs import LogReader
from dispatcher.view.options import LogOptions
from dispatcher.view.sources import Missing, Pod

RUNNING: Manifest = {"metadata": {"name": "pi"}, "status": {}}
COMPLETE: Manifest = {**RUNNING, "status": {"conditions": [{"type": "Complete", "status": "True"}]}}


def pod(cluster: str, name: str, phase: str = "Running") -> Pod:
    metadata = {"namespace": "team", "name": name, "uid": f"{cluster}/{name}"}
    spec = {"containers": [{"name": "main"}]}
    return Pod(cluster, {"metadata": metadata, "spec": spec, "status": {"phase": phase}})


class Clusters:
    """What each cluster answers; a log is one line and goes on for as long as its pod runs."""

    def __init__(self, **pods: list[Pod]) -> None:
        self.there = pods
        self.away: dict[str, str] = {}
        self.hangs: set[str] = set()
        self.broken: dict[str, Reply] = {}
        """By pod, how its log cannot be read."""
        self.job = RUNNING
        self.asked = 0
        """How often for logs."""

    def clusters_of(self, _job: Manifest) -> list[str]:
        return sorted(self.there)

    async def pods(self, _job: Manifest, clusters: Sequence[str]) -> tuple[list[Pod], list[Missing]]:
        found: list[Pod] = []
        missing = []
        for name in clusters:
            await until(functools.partial(self._answers, name))
            if name in self.away:
                missing.append(Missing(name, self.away[name]))
            else:
                found += self.there[name]
        return found, missing

    def _answers(self, cluster: str) -> bool:
        return cluster not in self.hangs

    def api(self, cluster: str) -> str:
        return cluster

    async def read_log(
        self, api: str, _namespace: str, name: str, *, params: Any, idle_timeout: Any
    ) -> AsyncGenerator[bytes, None]:
        self.asked += 1
        if name in self.broken:
            raise LogBroken(self.broken[name])
        if "sinceTime" not in params:
            yield f"2026-01-01T00:00:00Z {api}/{name}\n".encode()
        if "follow" in params:
            await until(lambda: name in self.broken)
            raise LogBroken(self.broken[name])

    async def refresh(self) -> Manifest:
        return self.job

    def end(self) -> None:
        """The Job and all its pods."""
        self.job = COMPLETE
        self.there = {
            cluster: [pod(cluster, entry.name, "Succeeded") for entry in pods]
            for cluster, pods in self.there.items()
        }


class Reader:
    """What a follow has sent."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notices: list[Manifest] = []

    async def write(self, data: bytes) -> None:
        head, _, content = data.partition(b"\n")
        read = orjson.loads(head)
        if "notice" in read:
            self.notices.append(read)
        self.lines += content.decode().split()

    @property
    def away(self) -> list[tuple[str, str]]:
        """What was said of clusters, in order."""
        return [(key, said[key]) for said in self.notices for key in ("missing", "back") if key in said]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def follow(clusters: Clusters) -> AsyncIterator[tuple[Reader, asyncio.Task[None]]]:
    """One at work; it has to end by itself."""
    reader = Reader()
    sources: Any = clusters
    output = Output(reader, frames=True, prefix=False)
    serves = LogReader(sources, output, options=LogOptions(), slot=lambda _name: contextlib.nullcontext())
    running = Follow(serves, RUNNING, refresh=clusters.refresh, stopping=asyncio.Event())
    task = asyncio.create_task(running.run())
    try:
        yield reader, task
        await asyncio.wait_for(task, 60)
    finally:
        task.cancel()


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clusters]:
    """Clusters whose logs are read in place of real ones."""

    def made(**pods: list[Pod]) -> Clusters:
        clusters = Clusters(**pods)
        monkeypatch.setattr(logs, "read_log", clusters.read_log)
        return clusters

    monkeypatch.setattr(following, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(following, "QUIET_SECONDS", 0.05)
    return made


async def test_a_cluster_that_hangs_holds_up_no_pod_of_another(make: Callable[..., Clusters]) -> None:
    clusters = make(east=[pod("east", "pi-0")], west=[pod("west", "pi-1")])
    clusters.hangs = {"west"}
    async with follow(clusters) as (reader, _):
        await until(lambda: reader.lines == ["east/pi-0"])
        clusters.there["east"].append(pod("east", "pi-2"))
        await until(lambda: reader.lines == ["east/pi-0", "east/pi-2"])
        clusters.end()
        clusters.hangs = set()
    assert sorted(reader.lines) == ["east/pi-0", "east/pi-2", "west/pi-1"]
    assert reader.notices == []


async def test_a_follow_begins_with_the_clusters_that_answer(make: Callable[..., Clusters]) -> None:
    sources: Any = make(east=[pod("east", "pi-0")], west=[pod("west", "pi-1")])
    sources.hangs = {"west"}
    output: Any = None
    reader = LogReader(sources, output, options=LogOptions(), slot=lambda _name: contextlib.nullcontext())
    assert [found.name for found in await reader.glance(RUNNING, seconds=0.1)] == ["pi-0"]


async def test_a_cluster_that_comes_back_is_missing_no_more(make: Callable[..., Clusters]) -> None:
    clusters = make(east=[pod("east", "pi-0")], west=[pod("west", "pi-1")])
    clusters.away = {"west": "it hangs"}
    async with follow(clusters) as (reader, _):
        await until(lambda: reader.away)
        clusters.end()
        await until(lambda: reader.lines == ["east/pi-0"])
        clusters.away = {}
    assert reader.away == [("missing", "west"), ("back", "west")]
    assert reader.lines == ["east/pi-0", "west/pi-1"]


async def test_a_follow_ends_without_a_cluster_that_stays_away(
    make: Callable[..., Clusters], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE_SECONDS", 0.2)
    clusters = make(east=[pod("east", "pi-0")], west=[pod("west", "pi-1")])
    async with follow(clusters) as (reader, _):
        await until(lambda: sorted(reader.lines) == ["east/pi-0", "west/pi-1"])
        clusters.away = {"west": "it hangs"}
        await until(lambda: reader.away)
        clusters.end()
    assert reader.away == [("missing", "west")]


async def test_a_log_that_broke_off_is_read_on_when_the_cluster_answers_again(
    make: Callable[..., Clusters],
) -> None:
    clusters = make(east=[pod("east", "pi-0")])
    async with follow(clusters) as (reader, _):
        await until(lambda: reader.lines == ["east/pi-0"])
        clusters.broken = {"pi-0": replies.unreachable("Timeout", "nothing came in time")}
        await until(lambda: reader.notices)
        clusters.end()
        clusters.broken = {}
    assert [said["error"] for said in reader.notices] == [False]


async def test_a_pod_that_went_before_its_log_was_read_is_named(make: Callable[..., Clusters]) -> None:
    clusters = make(east=[pod("east", "pi-0")])
    async with follow(clusters) as (reader, _):
        await until(lambda: reader.lines == ["east/pi-0"])
        clusters.broken = {"pi-0": replies.unreachable("Timeout", "nothing came in time")}
        await until(lambda: reader.notices)
        clusters.broken = {"pi-0": Reply(Outcome.NOT_FOUND, 404, reason="NotFound")}
        clusters.job, clusters.there = COMPLETE, {"east": []}
    assert [said["error"] for said in reader.notices] == [False, True]
    assert "east/pi-0: it is gone" in reader.notices[1]["notice"]


async def test_a_kubelet_that_does_not_know_the_pod_yet_is_asked_again(make: Callable[..., Clusters]) -> None:
    clusters = make(east=[pod("east", "pi-0")])
    clusters.broken = {"pi-0": Reply(Outcome.NOT_FOUND, 404, message="pod pi-0 does not exist")}
    async with follow(clusters) as (reader, _):
        await until(lambda: clusters.asked > 1)
        clusters.broken = {}
        await until(lambda: reader.lines == ["east/pi-0"])
        clusters.end()
    assert reader.notices == []


async def test_a_pod_that_goes_as_it_should_is_not_named(make: Callable[..., Clusters]) -> None:
    clusters = make(east=[pod("east", "pi-0")])
    async with follow(clusters) as (reader, _):
        await until(lambda: reader.lines == ["east/pi-0"])
        clusters.job, clusters.there = COMPLETE, {"east": []}
    assert reader.notices == []


async def test_many_pods_of_a_cluster_that_is_away_take_nobodys_turn(
    make: Callable[..., Clusters], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "FOLLOWED", 2)
    clusters = make(east=[], west=[pod("west", f"pi-{number}") for number in range(2)])
    gone = replies.unreachable("Timeout", "nothing came in time")
    clusters.broken = {"pi-0": gone, "pi-1": gone}
    async with follow(clusters) as (reader, _):
        await until(lambda: len(reader.notices) == 2)
        clusters.there["east"].append(pod("east", "pi-2"))
        await until(lambda: reader.lines == ["east/pi-2"])
        clusters.end()
        clusters.broken = {}


@pytest.mark.parametrize(
    ("said", "away", "incomplete"),
    [
        ([{"error": True, "missing": "west"}], {"west"}, False),
        ([{"error": True, "missing": "west"}, {"error": False, "back": "west"}], set(), False),
        ([{"error": True, "missing": "west"}, {"anew": True}], set(), False),
        (
            [{"error": True, "missing": "west"}, {"anew": True}, {"error": True, "missing": "east"}],
            {"east"},
            False,
        ),
        ([{"error": True}, {"error": False, "back": "west"}, {"anew": True}], set(), True),
        ([{"error": False}], set(), False),
    ],
)
def test_what_is_missing_in_the_end(said: list[Manifest], away: set[str], incomplete: bool) -> None:
    printer = Printer(io.BytesIO(), prefix=True, coloured=False)
    for notice in said:
        printer.show({"notice": "west is not what it was", **notice}, b"")
    assert (printer.away, printer.incomplete) == (away, incomplete)
