"""Measure dispatching: python -m hack.bench"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from dispatcher.core import names
from hack import commandline
from hack.bench import report
from hack.bench.cpu_quota import QuotaError
from hack.bench.run import Bench
from hack.bench.scaling import scaling
from hack.bench.scaling import show as show_scaling
from hack.bench.standing import standing
from hack.bench.takeover import show as show_takeover
from hack.bench.takeover import takeover
from hack.bench.workload import SHAPES, Workload
from hack.lab import ComponentFailed, Lab, LabError
from hack.lab.gobuild import BuildFailed
from hack.running import Controller, ControllerFailed, temporary_lab

STANDARD = (
    Workload(shape="single", jobs=20, rate="idle"),
    Workload(shape="split", jobs=20, rate="idle"),
    Workload(shape="single", jobs=200, rate="burst"),
)
OUTPUT = Path("build/bench.json")


def say(line: str) -> None:
    """A line of progress, beside the table."""
    sys.stderr.write(f"bench: {line}\n")
    sys.stderr.flush()


async def measure(bench: Bench, workloads: Sequence[Workload], *, built_in: bool, lab: Lab) -> list[Any]:
    """All runs, one after the other, each printed when it is done."""
    console = Console(highlight=False)
    runs = []
    for workload in workloads:
        say(f"warming up: {workload.shape}")
        await bench.dispatched(Workload(shape=workload.shape, jobs=3, rate="burst"))
        load = os.getloadavg()[0]
        say(f"dispatched: {workload.title}")
        dispatched = await bench.dispatched(workload)
        twin = None
        if built_in:
            say(f"built-in on {lab.worker(1).name}: {workload.title}")
            twin = await bench.built_in(workload, lab.worker(1))
        run = report.figures(workload, dispatched=dispatched, built_in=twin)
        run["loadAverageBefore"] = round(load, 1)
        run["targets"] = report.targets(run)
        runs.append(run)
        report.show(console, f"{workload.title}, over {len(lab.workers)} clusters", run)
    return runs


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--jobs", type=int, help="Number of Jobs.  [default: 20]")
@click.option("--shape", type=click.Choice(list(SHAPES)), help="What each Job is like.  [default: single]")
@click.option(
    "--rate", help="idle (one after the other), burst (all at once), or Jobs a second.  [default: burst]"
)
@click.option("--duration", type=float, help="Seconds, at a given --rate.  [default: 10]")
@click.option(
    "--ladder", help="Several rates one after the other, Jobs a second each, such as 2,5,10,20 (see --plot)."
)
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw latency over the rates of --ladder, as PNG."
)
@click.option(
    "--standing",
    "stand",
    type=(int, int),
    metavar="FINISHED RUNNING",
    help="Memory with so many Jobs, and a restart with them, instead of a run.",
)
@click.option(
    "--takeover",
    "rounds",
    is_flag=False,
    flag_value=3,
    type=click.IntRange(1, 100),
    metavar="[TIMES]",
    help="How long Jobs wait when the leader is killed or stopped, or shards go over, instead of a run: "
    "each so many times (3 without a number).",
)
@click.option(
    "--scaling",
    "scales",
    is_flag=True,
    help="Jobs/s of two replicas over one's, each with the same small part of a CPU, instead of a run (root).",
)
@click.option("--clusters", type=click.IntRange(1, 8), default=2, show_default=True, help="Worker clusters.")
@click.option(
    "--managed-by",
    default=names.DEFAULT_MANAGED_BY,
    show_default=True,
    help="spec.managedBy of the Jobs; another controller's value measures that one (see --pid).",
)
@click.option(
    "--pid", "pids", type=int, multiple=True, help="The controller's processes, if it runs already."
)
@click.option(
    "--lab", "folder", type=click.Path(path_type=Path), help="A running lab, instead of an own one."
)
@click.option(
    "--built-in/--no-built-in", default=True, show_default=True, help="Run the same Jobs there too."
)
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT, show_default=True)
def main(
    *,
    jobs: int | None,
    shape: str | None,
    rate: str | None,
    duration: float | None,
    ladder: str | None,
    plot: Path | None,
    stand: tuple[int, int] | None,
    rounds: int | None,
    scales: bool,
    clusters: int,
    managed_by: str,
    pids: tuple[int, ...],
    folder: Path | None,
    built_in: bool,
    output: Path,
) -> None:
    """Measure a controller on a lab, and beside it the built-in one on a single cluster with the same Jobs.

    Without --jobs, --shape, --rate and --duration: 20 single-pod and 20 split Jobs one after the other, then a burst
    of 200 single-pod Jobs, and takeovers and handovers of shards once. Exit code 0 when every Job completed, whatever
    the figures; 1 otherwise; 2 for wrong usage.
    """
    try:
        workloads = _workloads(jobs=jobs, shape=shape, rate=rate, duration=duration, ladder=ladder)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if plot is not None and len({run.rate for run in workloads if isinstance(run.rate, float)}) < 2:
        raise click.UsageError(
            "--plot draws latency over load: give two rates or more, as in --ladder 2,5,10,20"
        )
    given = {"--standing": stand is not None, "--takeover": rounds is not None, "--scaling": scales}
    which = [option for option, is_given in given.items() if is_given]
    if which and (pids or ladder or jobs or shape or rate or duration):
        raise click.UsageError(f"{which[0]} starts and ends the dispatcher itself, and takes no other Jobs")
    if len(which) > 1:
        raise click.UsageError(f"{' and '.join(which)}: give one of them")
    if pids and folder is None:
        raise click.UsageError(
            "--pid names the processes of a controller that runs already: give its --lab too"
        )
    with contextlib.ExitStack() as stack:
        if folder is None:
            lab = stack.enter_context(temporary_lab("bench", workers=clusters, report=say))
        else:
            lab = Lab.open(folder)
        if stand is not None:
            _stand(lab, *stand, managed_by=managed_by, output=output)
            return
        if rounds is not None:
            found = _take_over(lab, rounds, managed_by=managed_by)
            _write(output, {"managedBy": managed_by, "cpus": os.cpu_count(), "takeover": found})
            _check(found)
            return
        if scales:
            _scale(lab, managed_by=managed_by, output=output)
            return
        controller = None
        if not pids:
            controller = Controller.start(lab, managed_by=managed_by)
            stack.callback(controller.stop)
            pids = (controller.pid,)
        bench = Bench(lab, managed_by=managed_by, pids=pids)
        runs = asyncio.run(measure(bench, workloads, built_in=built_in, lab=lab))
        content = {
            "managedBy": managed_by,
            "clusters": len(lab.workers),
            "kubernetesVersion": next(
                row["version"] for row in lab.status() if row["component"] == "kube-apiserver"
            ),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "runs": runs,
        }
        if controller is not None and workloads is STANDARD:
            controller.stop()
            content["takeover"] = _take_over(lab, 1, managed_by=managed_by)
    _write(output, content)
    if plot is not None:
        from hack.bench import picture  # matplotlib takes a second to import

        picture.draw(runs, plot)
        say(f"drew {plot}")
    if any(run[who]["unfinished"] for run in runs for who in ("dispatched", "builtIn") if who in run):
        raise SystemExit(1)
    _check(content.get("takeover"))


def _workloads(
    *, jobs: int | None, shape: str | None, rate: str | None, duration: float | None, ladder: str | None
) -> Sequence[Workload]:
    """Raises ValueError with what to give instead."""
    if ladder is not None:
        if rate is not None:
            raise ValueError("--rate and --ladder: give one of them")
        return [
            Workload.of(shape=shape or "single", jobs=jobs, rate=step.strip(), duration=duration)
            for step in ladder.split(",")
        ]
    if all(given is None for given in (jobs, shape, rate, duration)):
        return STANDARD
    return [Workload.of(shape=shape or "single", jobs=jobs, rate=rate or "burst", duration=duration)]


def _stand(lab: Lab, finished: int, running: int, *, managed_by: str, output: Path) -> None:
    result = asyncio.run(standing(lab, finished=finished, running=running, managed_by=managed_by, say=say))
    report.show_standing(Console(highlight=False), result)
    _write(output, {"managedBy": managed_by, "cpus": os.cpu_count(), "standing": result})


def _scale(lab: Lab, *, managed_by: str, output: Path) -> None:
    try:
        result = asyncio.run(scaling(lab, managed_by=managed_by, say=say))
    except QuotaError as error:
        raise click.ClickException(str(error)) from None
    show_scaling(Console(highlight=False), result)
    _write(output, {"managedBy": managed_by, "cpus": os.cpu_count(), "scaling": result})


def _take_over(lab: Lab, rounds: int, *, managed_by: str) -> Any:
    result = asyncio.run(takeover(lab, rounds=rounds, managed_by=managed_by, say=say))
    show_takeover(Console(highlight=False), result)
    return result


def _check(takeovers: Any) -> None:
    """A Job that was lost or run twice while others took over is a failure."""
    if takeovers and any(row["unfinished"] or row["doubled"] for row in takeovers["handovers"]):
        raise SystemExit(1)


def _write(output: Path, content: Any) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=2) + "\n")
    say(f"wrote {output}")


FAILURES = (BuildFailed, ComponentFailed, ControllerFailed, LabError, RuntimeError, TimeoutError)


if __name__ == "__main__":
    commandline.run(main, failures=FAILURES, name="bench")
