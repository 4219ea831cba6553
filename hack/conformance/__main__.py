"""python -m hack.conformance: the differential conformance suite, in a lab of its own or on any clusters."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click

from dispatcher.core.names import DEFAULT_MANAGED_BY
from hack.conformance import program, report, scenario
from hack.conformance.controller import Controller, controller
from hack.conformance.differential import Result
from hack.conformance.suite import Planes, planes_of, run_suite
from hack.lab import Lab
from hack.lab.binaries import DEFAULT_KUBERNETES

path_option = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--clusters", help="Over how many clusters; a list is tried one by one.  [default: 2,3; on real nodes 2]"
)
@click.option(
    "-k", "wanted", default="", help="Only scenarios with this in their feature or id; 'a or b' works."
)
@click.option(
    "--at-once", type=int, help="Scenarios that run at the same time.  [default: 16; on real nodes 4]"
)
@click.option(
    "--nodes",
    type=click.Choice(["kwok", "kubelet"]),
    default="kwok",
    show_default=True,
    help="Of the lab. On real nodes run those scenarios that depend on a kubelet.",
)
@click.option(
    "--kubernetes-version", default=DEFAULT_KUBERNETES, show_default=True, help="Release of the planes."
)
@click.option(
    "--lab", "folder", type=click.Path(path_type=Path), help="Use the lab in this folder (made, and kept)."
)
@click.option(
    "--kubeconfig-management", type=path_option, help="Administrator of your management cluster; no lab then."
)
@click.option(
    "--kubeconfig-worker",
    "kubeconfigs",
    multiple=True,
    metavar="NAME=FILE",
    help="Administrator of a worker cluster of that name. Its pods must follow the lab's script annotation.",
)
@click.option(
    "--kubeconfig-builtin", type=path_option, help="Where the built-in controller runs (default: management)."
)
@click.option(
    "--managed-by", default=DEFAULT_MANAGED_BY, show_default=True, help="The dispatcher to measure."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("build/conformance.json"), show_default=True
)
def main(
    *,
    clusters: str | None,
    wanted: str,
    at_once: int | None,
    nodes: str,
    kubernetes_version: str,
    folder: Path | None,
    kubeconfig_management: Path | None,
    kubeconfigs: tuple[str, ...],
    kubeconfig_builtin: Path | None,
    managed_by: str,
    output: Path,
) -> None:
    """Run each scenario by the built-in Job controller and dispatched, and compare.

    Without kubeconfigs it starts a lab and this dispatcher. With them, a dispatcher for --managed-by must run already.
    Exit codes: 0 all equal or documented, 1 something differs, 2 wrong usage.
    """
    counts = _counts(clusters or ("2" if nodes == "kubelet" else "2,3"))
    parts = wanted.split(" or ")
    scenarios = [
        entry for entry in scenario.load() if any(part in f"{entry.row} {entry.id}" for part in parts)
    ]
    if nodes == "kubelet":
        if kubeconfig_management:
            raise click.UsageError("--nodes is about the lab; with --kubeconfig-management there is none")
        scenarios = [
            entry for entry in scenarios if program.depends_on_kubelet(entry) and program.can_play(entry)
        ]
    if not scenarios:
        raise click.UsageError(f"no scenario's feature or id holds {wanted!r}")
    asyncio.run(
        _run(
            scenario.for_release(scenarios, kubernetes_version),
            counts,
            at_once=at_once or (4 if nodes == "kubelet" else 16),
            nodes=nodes,
            version=kubernetes_version,
            folder=folder,
            given=_given(kubeconfig_management, kubeconfigs, kubeconfig_builtin, counts),
            managed_by=managed_by,
            output=output,
        )
    )


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise click.UsageError(f"--clusters {text}: give numbers such as 2 or 2,3")
    return counts


def _given(
    management: Path | None, kubeconfigs: tuple[str, ...], builtin: Path | None, counts: list[int]
) -> Planes | None:
    if management is None:
        if kubeconfigs or builtin:
            raise click.UsageError(
                "--kubeconfig-worker and --kubeconfig-builtin go with --kubeconfig-management"
            )
        return None
    workers = {}
    for entry in kubeconfigs:
        name, equals, path = entry.partition("=")
        if not equals or not Path(path).is_file():
            raise click.UsageError(f"--kubeconfig-worker {entry}: expected NAME=FILE")
        workers[name] = Path(path)
    if len(workers) < max(counts):
        raise click.UsageError(f"--clusters {max(counts)} needs as many --kubeconfig-worker")
    return Planes(management, workers, builtin)


async def _run(
    scenarios: list[scenario.Scenario],
    counts: list[int],
    *,
    at_once: int,
    nodes: str,
    version: str,
    folder: Path | None,
    given: Planes | None,
    managed_by: str,
    output: Path,
) -> None:
    begin = time.monotonic()
    number = 0

    def progress(result: Result) -> None:
        nonlocal number
        number += 1
        total = len(scenarios) * len(counts)
        sys.stderr.write(
            f"{number}/{total} {result.scenario.id} ({result.clusters}): {result.verdict}, {result.seconds:.0f} s\n"
        )

    with _lab(given, max(counts), version, folder, nodes) as lab:
        planes = planes_of(lab) if lab else given
        assert planes is not None
        async with _dispatcher(lab, output, managed_by) as running:
            results = await run_suite(
                scenarios,
                planes,
                clusters=counts,
                managed_by=managed_by,
                at_once=at_once,
                choose_clusters=given is None or managed_by == DEFAULT_MANAGED_BY,
                report=progress,
            )
            rejected = (
                await running.metric("job_dispatcher_status_writes_rejected_total") if running else None
            )
    seconds = time.monotonic() - begin
    report.write(output, results, seconds=seconds, rejected=rejected)
    click.echo(report.table(results))
    if rejected is not None:
        click.echo(f"\nrejected status writes: {rejected:.0f}")
    click.echo(f"{seconds:.0f} s; {output}")
    if rejected or not all(result.passed for result in results):
        raise SystemExit(1)


@contextlib.contextmanager
def _lab(
    given: Planes | None, workers: int, version: str, folder: Path | None, nodes: str
) -> Iterator[Lab | None]:
    if given is not None:
        yield None
        return
    if folder is not None and Lab(folder).is_ready():
        yield Lab.open(folder)
        return
    with tempfile.TemporaryDirectory(prefix="conformance-") as temporary:
        lab = Lab.up(
            folder or Path(temporary) / "lab",
            workers=workers,
            nodes=nodes,
            management_node=nodes == "kubelet",
            kubernetes_version=version,
            report=lambda line: click.echo(f"lab: {line}", err=True),
        )
        try:
            yield lab
        finally:
            if folder is None:
                lab.down()


@contextlib.asynccontextmanager
async def _dispatcher(lab: Lab | None, output: Path, managed_by: str) -> AsyncIterator[Controller | None]:
    if lab is None:
        yield None
        return
    log = output.with_suffix(".log")
    async with controller(lab.dispatcher_kubeconfig, log=log, managed_by=managed_by) as running:
        yield running


if __name__ == "__main__":
    main()
