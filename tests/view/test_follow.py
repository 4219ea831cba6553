"""Streams of logs over time, on real planes: slow readers, readers that leave, pods that come, what breaks."""

import asyncio
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.bench import usage
from hack.chaos.proxy import TcpProxy, Trouble
from hack.lab import Lab
from tests.cli.plugin import Plugin, manifest, wait_until
from tests.view.conftest import Serving
from tests.view.streams import FOREVER, job, log_requests, remove_bulk, running, write_bulk

pytestmark = pytest.mark.lab

GROWTH = 50_000_000
"""Bytes by which the controller may grow, however much flows through it."""


@pytest.fixture
def bulk(lab: Lab) -> Iterator[int]:
    """A log of 50 MB for each container ``bulk``; its size."""
    yield write_bulk(lab, 50)
    remove_bulk(lab)


def texts(lines: list[str]) -> dict[str, list[str]]:
    """Lines by the pod that is named before them."""
    found: dict[str, list[str]] = {}
    for line in lines:
        before, _, text = line.partition("] ")
        found.setdefault(before, []).append(text)
    return found


async def until(condition: Callable[[], Any]) -> None:
    """Wait for something to become true, with the event loop at work."""
    await asyncio.to_thread(wait_until, condition)


def test_a_reader_that_does_not_read_costs_no_memory(
    plugin: Plugin, lab: Lab, serving: Serving, bulk: int
) -> None:
    namespace, pods = plugin.namespace or "", 4
    plugin.ok("submit", "-f", "-", "--wait", input=job("big", "bulk", completions=pods, parallelism=pods))
    plugin.ok("pods", "big")
    before = usage.measure([serving.controller.pid]).resident_bytes
    process = subprocess.Popen(
        plugin.command("logs", "big", "--no-prefix"), stdout=subprocess.PIPE, env=plugin.environment()
    )
    try:
        wait_until(lambda: sum(log_requests(worker, namespace)[0] for worker in lab.workers) == pods)
        highest = 0
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            highest = max(highest, usage.measure([serving.controller.pid]).resident_bytes)
            time.sleep(0.05)
        ended = sum(log_requests(worker, namespace)[1] for worker in lab.workers)
        assert ended < pods, "nothing held the workers back"
        size = lines = 0
        assert process.stdout is not None
        while block := process.stdout.read(1 << 20):
            size += len(block)
            lines += block.count(b"\n")
            highest = max(highest, usage.measure([serving.controller.pid]).resident_bytes)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert size == pods * bulk
    assert lines == pods * bulk // 120
    assert highest - before < GROWTH


def test_a_reader_that_leaves_ends_the_workers_streams(plugin: Plugin, lab: Lab, tmp_path: Path) -> None:
    namespace = plugin.namespace or ""
    plugin.ok("submit", "-f", "-", input=manifest("endless", script=FOREVER, completions=3, parallelism=3))

    def open_streams() -> int:
        counted = [log_requests(worker, namespace) for worker in lab.workers]
        return sum(begun - ended for begun, ended in counted)

    with running(plugin, tmp_path, "logs", "endless", "-f") as follow:
        wait_until(lambda: len(follow.lines) == 3)
        assert open_streams() == 3
    wait_until(lambda: open_streams() == 0)


async def test_a_follow_goes_on_over_cut_connections(
    plugin: Plugin, lab: Lab, told: Callable[[str, str], None], tmp_path: Path
) -> None:
    text = job("talk", "told", script=FOREVER, completions=3, parallelism=3)
    plugin.ok("submit", "-f", "-", input=text)
    await until(lambda: plugin.ok("pods", "talk").count("Running") == 3)
    told("00:00:01.1", "line 1")
    proxy = TcpProxy(int(lab.management.url.rpartition(":")[2]))
    await proxy.start()
    config = yaml.safe_load(lab.management.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{proxy.port}"
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    reader = Plugin(file, plugin.namespace)
    try:
        with running(reader, tmp_path, "logs", "talk", "-f") as follow:
            await until(lambda: len(follow.lines) == 3)
            proxy.set(Trouble.CUT)
            await until(lambda: "the stream broke off" in follow.said)
            # Two of one moment, and one of the moment of what was shown already.
            for moment, line in (("01.1", "line 2"), ("01.5", "line 3"), ("01.5", "line 4")):
                told(f"00:00:{moment}", line)
            proxy.set(Trouble.NONE)
            await until(lambda: len(follow.lines) >= 12)
            told("00:00:02.0", "line 5")
            await until(lambda: len(follow.lines) >= 15)
            path = f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs/talk"
            await asyncio.to_thread(lab.management.api.delete, path)
            assert await asyncio.to_thread(follow.end) == 0, follow.said
            found = texts(follow.lines)
            assert len(found) == 3, follow.lines
            assert all(lines == [f"line {n}" for n in range(1, 6)] for lines in found.values()), found
    finally:
        await proxy.stop()


def test_a_follow_goes_on_with_the_next_dispatcher(
    plugin: Plugin, lab: Lab, serving: Serving, told: Callable[[str, str], None], tmp_path: Path
) -> None:
    plugin.ok("submit", "-f", "-", input=job("talk", "told", script=FOREVER, completions=3, parallelism=3))
    wait_until(lambda: plugin.ok("pods", "talk").count("Running") == 3)
    told("00:00:01.1", "line 1")
    with running(plugin, tmp_path, "logs", "talk", "-f") as follow:
        wait_until(lambda: len(follow.lines) == 3)
        serving.restart(lambda: told("00:00:02.1", "line 2"))
        told("00:00:03.1", "line 3")
        wait_until(lambda: len(follow.lines) >= 9)
        lab.management.api.delete(f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs/talk")
        assert follow.end() == 0, follow.said
    assert "the stream broke off" in follow.said
    assert all(lines == ["line 1", "line 2", "line 3"] for lines in texts(follow.lines).values())


def test_a_frozen_cluster_is_named_and_the_others_go_on(
    plugin: Plugin, lab: Lab, told: Callable[[str, str], None], tmp_path: Path
) -> None:
    frozen = lab.workers[1]
    plugin.ok("submit", "-f", "-", input=job("talk", "told", script=FOREVER, completions=3, parallelism=3))
    wait_until(lambda: plugin.ok("pods", "talk").count("Running") == 3)
    told("00:00:01.1", "line 1")
    with running(plugin, tmp_path, "logs", "talk", "-f") as follow:
        wait_until(lambda: len(follow.lines) == 3)
        frozen.apiserver.pause()
        try:
            told("00:00:02.1", "line 2")
            wait_until(lambda: len(follow.lines) == 5)
            done = plugin.run("logs", "talk")
            assert done.returncode == 1
            assert f"error: cluster {frozen.name} is missing" in done.stderr
            assert len(done.stdout.splitlines()) == 4
            assert f"[{frozen.name}/" not in done.stdout
            wait_until(lambda: f"error: cluster {frozen.name} is missing" in follow.said)
        finally:
            frozen.apiserver.resume()
        frozen.apiserver.wait_healthy()
        wait_until(lambda: f"cluster {frozen.name} is back" in follow.said, seconds=180)
        wait_until(lambda: len(follow.lines) >= 6)
        lab.management.api.delete(f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs/talk")
        assert follow.end() == 0, follow.said
    assert all(lines == ["line 1", "line 2"] for lines in texts(follow.lines).values()), follow.lines


def test_what_was_written_before_a_restart(plugin: Plugin, pages: str) -> None:
    lines = plugin.ok("logs", pages, "--previous").splitlines()
    assert len(lines) == 6
    assert all(line.endswith("] crashed") for line in lines)
    assert plugin.ok("logs", pages, "--previous", "--index", "2", "--no-prefix") == "crashed\n"


def test_a_container_that_has_not_started(plugin: Plugin, lab: Lab, tmp_path: Path) -> None:
    text = json.loads(manifest("waits", completions=3, parallelism=3))
    text["spec"]["template"]["spec"]["nodeSelector"] = {"view-test": "later"}
    plugin.ok("submit", "-f", "-", input=json.dumps(text))
    wait_until(lambda: len(plugin.ok("pods", "waits", "--no-headers").splitlines()) == 3)
    done = plugin.run("logs", "waits")
    assert (done.returncode, done.stdout) == (1, "")
    for worker in lab.workers:
        assert f"error: {worker.name}/waits-" in done.stderr
    assert done.stderr.count("it has no node yet") == 3
    with running(plugin, tmp_path, "logs", "waits", "-f") as follow:
        try:
            label(lab, "later")
            assert follow.end() == 0, follow.said
        finally:
            label(lab, None)
        assert len(follow.lines) == 3


def label(lab: Lab, value: str | None) -> None:
    """Let the Job's pods be scheduled on a node of each worker, or no more."""
    for worker in lab.workers:
        path = f"/api/v1/nodes/{worker.name}-node-1"
        patch = {"metadata": {"labels": {"view-test": value}}}
        worker.api._request("PATCH", path, patch, content_type="application/merge-patch+json")


def test_a_cluster_that_hangs_is_named_and_the_others_come(plugin: Plugin, pages: str, lab: Lab) -> None:
    worker = lab.workers[2]
    worker.apiserver.pause()
    try:
        done = plugin.run("logs", pages)
        assert done.returncode == 1
        assert f"cluster {worker.name} is missing" in done.stderr
        assert {line.partition("/")[0] for line in done.stdout.splitlines()} == {"[worker-1", "[worker-2"}
        assert f"cluster {worker.name} is missing" in plugin.run("pods", pages).stderr
    finally:
        worker.apiserver.resume()
    wait_until(lambda: plugin.run("logs", pages).returncode == 0)
    assert len(plugin.ok("logs", pages).splitlines()) == 6
