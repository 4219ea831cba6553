"""python -m hack.chaos: faults at random points of many Jobs' lives, and what became of the Jobs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from hack import commandline
from hack.chaos import isolation, report
from hack.chaos.run import DEFAULT_MANAGED_BY, ChaosRun, Settings
from hack.lab import ComponentFailed, Lab, LabError
from hack.lab.api import ApiError
from hack.lab.gobuild import BuildFailed
from hack.running import ControllerFailed, temporary_lab

OUTPUT = Path("build/chaos.json")


def say(line: str) -> None:
    """A line of progress, beside the table."""
    sys.stderr.write(f"chaos: {line}\n")
    sys.stderr.flush()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--jobs", type=click.IntRange(1, 2000), default=300)
@click.option("--faults", type=click.IntRange(0, 2000), help="[default: one for every four seconds]")
@click.option("--seconds", type=float, help="Jobs are created over so long.  [default: 0.8 a Job]")
@click.option("--seed", type=int, help="What is injected when, and the Jobs.  [default: a new one]")
@click.option("--runs", type=click.IntRange(1, 100), default=1, help="With seeds that follow each other.")
@click.option("--clusters", type=click.IntRange(1, 6), default=3, help="Worker clusters.")
@click.option(
    "--failover-after", type=click.IntRange(1), help="Seconds, in a policy.  [default: no failover]"
)
@click.option("--longest-fault", type=float, default=6.0, help="Seconds.")
@click.option(
    "--patience", type=float, default=240.0, help="Seconds for the Jobs to end after the last fault."
)
@click.option("--isolation", "only_isolation", is_flag=True, help="Measure isolation instead; see below.")
@click.option("--managed-by", default=DEFAULT_MANAGED_BY)
@click.option(
    "--lab", "folder", type=click.Path(path_type=Path), help="A running lab, instead of an own one."
)
@click.option("--output", type=click.Path(path_type=Path), default=OUTPUT)
def main(
    *,
    jobs: int,
    faults: int | None,
    seconds: float | None,
    seed: int | None,
    runs: int,
    clusters: int,
    longest_fault: float,
    failover_after: int | None,
    patience: float,
    only_isolation: bool,
    managed_by: str,
    folder: Path | None,
    output: Path,
) -> None:
    """Run Jobs of all kinds while parts of the clusters are killed, stopped, cut off and lied to.

    Afterwards every Job must have its right end, every index must have succeeded exactly once, and no mirror may be
    left over or lie outside a placement. A run is repeated by its --seed (what is injected when and the Jobs are the
    same; how the processes interleave is not).

    --isolation: p99 of the time from a Job to its mirrors on two clusters, with a third one hung and without.

    Exit code 0 when everything held, 1 otherwise, 2 for wrong usage.
    """
    first = seed if seed is not None else random.SystemRandom().randrange(1_000_000)
    length = seconds if seconds is not None else 0.8 * jobs
    console = Console(highlight=False)
    content: dict[str, Any]
    with contextlib.ExitStack() as stack:
        if folder is None:
            lab = stack.enter_context(temporary_lab("chaos", workers=clusters, report=say))
        else:
            lab = Lab.open(folder)
        if only_isolation:
            found = asyncio.run(isolation.measure(lab, managed_by=managed_by, report=say))
            isolation.show(console, found)
            content = {"isolation": found}
            passed = bool(found["met"])
        else:
            played = []
            for number in range(first, first + runs):
                say(f"seed {number}: {jobs} Jobs over {length:.0f} s on {len(lab.workers)} clusters")
                settings = Settings(
                    jobs=jobs,
                    faults=faults if faults is not None else round(length / 4),
                    seconds=length,
                    seed=number,
                    patience=patience,
                    longest_fault=longest_fault,
                    failover_after=failover_after,
                    managed_by=managed_by,
                )
                outcome = asyncio.run(ChaosRun(lab, settings, report=say).play())
                figures = report.figures(outcome)
                report.show(console, figures)
                played.append(figures)
            content = {"runs": played}
            passed = all(entry["passed"] for entry in played)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=2) + "\n")
    say(f"wrote {output}")
    if not passed:
        raise SystemExit(1)


FAILURES = (ApiError, BuildFailed, ComponentFailed, ControllerFailed, LabError)


if __name__ == "__main__":
    commandline.run(main, failures=FAILURES, name="chaos")
