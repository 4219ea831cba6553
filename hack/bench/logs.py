"""Measure logs of a Job through the management API server: python -m hack.bench.logs

The same volume is read twice, alternating: by ``kubectl dispatch logs`` from a Job whose pods are on all worker
clusters, and by ``kubectl logs --selector`` from a Job of as many pods on one worker, with an account of that worker.
Both write prefixed lines to a file. kubectl reads one pod after the other, we ten at once. The
logs are files of the lab's kwok nodes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hack import commandline
from hack.bench import usage
from hack.lab import ComponentFailed, Lab, LabError
from hack.lab.gobuild import BuildFailed
from hack.running import Controller, ControllerFailed, temporary_lab
from hack.running.view import registered, wait_available

PLUGIN = Path(sys.executable).with_name("kubectl-dispatch")
OUTPUT = Path("build/bench-logs.json")
NAMESPACE = "default"
CONTAINER = "bulk"
"""Its log is a file (hack/lab)."""
LINE_BYTES = 120
READY_SECONDS = 120.0
TARGET_RATIO = 1.5
TARGET_GROWTH = 50_000_000


@dataclass(frozen=True, slots=True)
class Read:
    """One whole reading. Seconds; bytes of the logs (without prefixes); what the controller used meanwhile."""

    seconds: float
    log_bytes: int
    lines: int
    controller_cpu_seconds: float
    controller_growth_bytes: int


def write_logs(lab: Lab, megabytes: int) -> int:
    """Give each container on each worker a log; its bytes."""
    filler = "x" * (LINE_BYTES - 10)
    count = megabytes * 1_000_000 // LINE_BYTES
    first = lab.workers[0].container_log(CONTAINER)
    with first.open("w") as file:
        for number in range(count):
            minute, rest = divmod(number, 60_000)
            moment = f"{minute // 60:02}:{minute % 60:02}:{rest / 1000:06.3f}"
            file.write(f"2026-01-01T{moment}000000Z stdout F {number:08} {filler}\n")
    for worker in lab.workers[1:]:
        other = worker.container_log(CONTAINER)
        other.unlink(missing_ok=True)
        other.hardlink_to(first)
    return count * LINE_BYTES


def job(name: str, pods: int, **spec: Any) -> dict[str, Any]:
    """A Job of that many pods at once, which end at once."""
    container = {"name": CONTAINER, "image": "example.com/none"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "completions": pods,
            "parallelism": pods,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
            **spec,
        },
    }


def wait_complete(api: Any, name: str) -> None:
    """Raises TimeoutError."""
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/{name}"
    end = time.monotonic() + READY_SECONDS
    while not any(c["type"] == "Complete" for c in api.get(path).get("status", {}).get("conditions") or ()):
        if time.monotonic() > end:
            raise TimeoutError(f"Job {name} is not complete after {READY_SECONDS:.0f} s")
        time.sleep(0.2)


def read(command: Sequence[str], target: Path, controller: Controller) -> Read:
    """Run a command to its end, its output to a file."""
    before = usage.measure([controller.pid])
    highest = before.resident_bytes
    over = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.02):
            highest = max(highest, usage.measure([controller.pid]).resident_bytes)

    watching = threading.Thread(target=watch)
    watching.start()
    started = time.monotonic()
    try:
        with target.open("wb") as file:
            subprocess.run(command, stdout=file, check=True)
        seconds = time.monotonic() - started
    finally:
        over.set()
        watching.join()
    after = usage.measure([controller.pid])
    size = lines = 0
    with target.open("rb") as content:
        for line in content:
            size += len(line) - len(line[: line.index(b"] ") + 2])
            lines += 1
    target.unlink()
    return Read(seconds, size, lines, after.cpu_seconds - before.cpu_seconds, highest - before.resident_bytes)


def measure(lab: Lab, controller: Controller, *, pods: int, size: int, rounds: int) -> dict[str, Any]:
    """Both readings, alternating. Raises RuntimeError when one has not brought every line."""
    worker = lab.workers[0]
    worker.api.create(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", job("direct", pods))
    dispatched = job("spread", pods, managedBy="jobdispatcher.io/dispatcher")
    lab.management.api.create(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", dispatched)
    wait_complete(worker.api, "direct")
    wait_complete(lab.management.api, "spread")
    kubectl = [str(lab.folder / "bin" / "kubectl"), "--kubeconfig", str(worker.kubeconfig), "logs"]
    kubectl += ["--selector", "batch.kubernetes.io/job-name=direct", "--tail", "-1", "--prefix"]
    ours = [str(PLUGIN), "--kubeconfig", str(lab.management.kubeconfig), "logs", "spread"]
    found: dict[str, list[Read]] = {"direct": [], "dispatched": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for who, command in (("direct", kubectl), ("dispatched", ours)):
                one = read(command, Path(folder) / "log", controller)
                if one.log_bytes != pods * size:
                    raise RuntimeError(f"{who}: {one.log_bytes} bytes of log, not {pods * size}")
                found[who].append(one)
    seconds = {who: [round(one.seconds, 2) for one in reads] for who, reads in found.items()}
    ratio = statistics.median(seconds["dispatched"]) / statistics.median(seconds["direct"])
    growth = max(one.controller_growth_bytes for one in found["dispatched"])
    cpu = statistics.median(one.controller_cpu_seconds for one in found["dispatched"])
    return {
        "pods": pods,
        "clusters": len(lab.workers),
        "logBytesPerPod": size,
        "seconds": seconds,
        "ratio": round(ratio, 2),
        "controllerCpuSeconds": round(cpu, 2),
        "controllerGrowthBytes": growth,
        "targets": {"ratio": ratio <= TARGET_RATIO, "controllerGrowthBytes": growth < TARGET_GROWTH},
    }


def show(result: dict[str, Any]) -> None:
    """The table."""
    table = Table(box=None, header_style="bold")
    for header in ("", "seconds", "MB/s"):
        table.add_column(header, justify="left" if not header else "right")
    volume = result["pods"] * result["logBytesPerPod"] / 1e6
    for who, title in (("direct", "kubectl logs on one worker"), ("dispatched", "kubectl dispatch logs")):
        each = result["seconds"][who]
        table.add_row(title, ", ".join(map(str, each)), f"{volume / statistics.median(each):.0f}")
    console = Console(highlight=False)
    console.print(
        f"{result['pods']} pods × {result['logBytesPerPod'] / 1e6:.0f} MB, {result['clusters']} clusters"
    )
    console.print(table)
    console.print(
        f"ratio of the medians {result['ratio']} (target {TARGET_RATIO}); the controller grew by "
        f"{result['controllerGrowthBytes'] / 1e6:.0f} MB (target {TARGET_GROWTH / 1e6:.0f}), and used "
        f"{result['controllerCpuSeconds']} s of a processor"
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pods", type=click.IntRange(1, 500), default=10, show_default=True)
@click.option("--megabytes", type=click.IntRange(1, 1000), default=50, show_default=True, help="Of each pod.")
@click.option("--clusters", type=click.IntRange(1, 8), default=3, show_default=True, help="Worker clusters.")
@click.option("--rounds", type=click.IntRange(1, 20), default=3, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(*, pods: int, megabytes: int, clusters: int, rounds: int, output: Path) -> None:
    """Measure logs through the management API server, and beside it kubectl's on one worker, with the same volume.

    Exit code 0 when every line came, whatever the figures.
    """
    with ExitStack() as stack:
        lab = stack.enter_context(
            temporary_lab("bench-logs", workers=clusters, report=lambda line: click.echo(line, err=True))
        )
        size = write_logs(lab, megabytes)
        address = stack.enter_context(registered(lab))
        controller = Controller.start(lab, environment={"JOB_DISPATCHER_VIEW_ADDRESS": address})
        stack.callback(controller.stop)
        wait_available(lab)
        result = measure(lab, controller, pods=pods, size=size, rounds=rounds)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


FAILURES = (BuildFailed, ComponentFailed, ControllerFailed, LabError, RuntimeError, TimeoutError, OSError)


if __name__ == "__main__":
    commandline.run(main, failures=(*FAILURES, subprocess.CalledProcessError), name="bench-logs")
