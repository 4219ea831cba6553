"""Local control planes: python -m hack.lab up | down | status | build"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import click

from hack import commandline
from hack.lab.api import ApiError
from hack.lab.binaries import DEFAULT_KUBERNETES, provide, provide_kubelet
from hack.lab.component import ComponentFailed
from hack.lab.gobuild import BuildFailed
from hack.lab.kubelet.machine import MachineError
from hack.lab.kubelet.support import make_possible
from hack.lab.lab import DEFAULT_FOLDER, Lab, LabError

folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="The lab's folder.",
)
version_option = click.option(
    "--kubernetes-version",
    default=DEFAULT_KUBERNETES,
    show_default=True,
    help="Release of the control planes.",
)


def say(line: str) -> None:
    """A line of progress; whole lines only, as several threads speak."""
    sys.stderr.write(f"lab: {line}\n")
    sys.stderr.flush()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Real Kubernetes control planes on this machine, without containers: one to manage, several to work.

    Binaries are built once into ${JOB_DISPATCHER_CACHE:-~/.cache/job-dispatcher}; that takes about 12 minutes on two
    cores and needs Go. Exit codes: 0 done, 1 it failed, 2 wrong usage.
    """


@main.command()
@click.option(
    "--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Worker control planes."
)
@folder_option
@click.option(
    "--nodes",
    type=click.Choice(["kwok", "kubelet", "none"]),
    default="kwok",
    show_default=True,
    help="Nodes: fake ones; a real one on each worker (Linux, root; installs Debian's packages); none.",
)
@click.option(
    "--management-node",
    is_flag=True,
    help="With --nodes kubelet: a real node on the management plane too; Deployments then work there.",
)
@version_option
@click.option("--bare", is_flag=True, help="Planes only: no CRDs, no accounts, no WorkerClusters.")
def up(
    *, workers: int, folder: Path, nodes: str, management_node: bool, kubernetes_version: str, bare: bool
) -> None:
    """Start a lab and wait until Jobs can run on it.

    A healthy lab with the same options is left as it is.
    """
    _end_like_ctrl_c(signal.SIGTERM, signal.SIGHUP)
    lab = Lab.up(
        folder,
        workers=workers,
        nodes=nodes,
        management_node=management_node,
        kubernetes_version=kubernetes_version,
        bare=bare,
        report=say,
    )
    for plane in lab.planes:
        click.echo(f"{plane.name:<12} {plane.url}   {plane.kubeconfig}")
    here = _shown(lab.folder)
    what = "nodes" if bare else "workerclusters"
    click.echo(f"Try:  {here}/bin/kubectl --kubeconfig {here}/management.kubeconfig get {what}")
    click.echo(f"Stop: {_shown(Path(sys.executable))} -m hack.lab down --dir {here}")


@main.command()
@folder_option
def down(*, folder: Path) -> None:
    """Stop everything of a lab, wait until it is gone, and remove its folder."""
    begin = time.monotonic()
    if Lab(folder).down(report=say):
        say(f"down: nothing of {folder} is left ({time.monotonic() - begin:.1f} s)")
    else:
        say(f"no lab in {folder}: nothing to do")


@main.command()
@folder_option
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def status(*, folder: Path, output: str) -> None:
    """Show each component: pid, port, version, log file. Exit code 0 when all are alive."""
    lab = Lab.open(folder)
    rows = lab.status()
    if output == "json":
        click.echo(
            json.dumps({"dir": str(lab.folder), "ready": lab.is_ready(), "components": rows}, indent=2)
        )
    else:
        click.echo(f"{'PLANE':<12} {'COMPONENT':<24} {'STATE':<7} {'PID':>8} {'PORT':>6} {'VERSION':<9} LOG")
        for row in rows:
            state = "paused" if row["paused"] else "alive" if row["alive"] else "dead"
            click.echo(
                f"{row['plane']:<12} {row['component']:<24} {state:<7} {row['pid'] or '-':>8} {row['port'] or '-':>6} "
                f"{row['version'] or '-':<9} {_shown(Path(row['log']))}"
            )
    if not lab.is_ready():
        raise SystemExit(1)


@main.command()
@version_option
@click.option(
    "--kubelet", is_flag=True, help="With what real nodes need, if they can run here; else say why not."
)
def build(*, kubernetes_version: str, kubelet: bool) -> None:
    """Build what is missing of the binaries, without starting anything."""
    binaries = provide(kubernetes_version, report=say)
    say(f"binaries of Kubernetes {binaries.kubernetes_version}, kwok and helm are there")
    if not kubelet:
        return
    if obstacle := make_possible(say):
        say(f"no kubelet: {obstacle}")
    else:
        provide_kubelet(kubernetes_version, report=say)
        say(f"kubelet {binaries.kubernetes_version} and what it needs are there")


def _shown(path: Path) -> Path:
    """As short as it can be typed from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _end_like_ctrl_c(*numbers: signal.Signals) -> None:
    """Lets these signals end `up` as SIGINT does, so that it cleans up."""
    if threading.current_thread() is not threading.main_thread():
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in numbers:
        signal.signal(number, interrupt)


FAILURES = (ApiError, BuildFailed, ComponentFailed, LabError, MachineError, TimeoutError)


if __name__ == "__main__":
    commandline.run(main, failures=FAILURES, name="lab", interrupted="interrupted")
