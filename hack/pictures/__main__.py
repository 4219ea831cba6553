"""Run the plugin on two local clusters and draw what it prints: python -m hack.pictures"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import yaml
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from hack.demo import jobs
from hack.lab import Lab
from hack.running import Controller, temporary_lab
from hack.running.terminal import Session
from hack.running.view import registered, wait_available

PLUGIN = Path(sys.executable).with_name("kubectl-dispatch")
SIZE = (30, 150)
FORMAT = re.sub(
    r"@font-face \{\{.*?\}\}\n|<!--.*?-->\n",
    "",
    CONSOLE_SVG_FORMAT.replace("Fira Code, ", ""),
    flags=re.DOTALL,
)
"""With the reader's own fonts: a picture loads nothing."""
CONTAINER = "told"
"""Its log is a file on each worker (hack/lab)."""


class Recording:
    """One terminal's picture."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._console = Console(record=True, width=SIZE[1], file=io.StringIO(), force_terminal=True)
        self._environment = {
            **{key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ},
            "KUBECONFIG": str(lab.management.kubeconfig),
            "TERM": "xterm-256color",
        }
        self._folder = folder

    def run(self, *arguments: str) -> None:
        """Run the plugin to its end."""
        session = Session([str(PLUGIN), *arguments], environment=self._environment, size=SIZE)
        code = session.end()
        if code:
            raise click.ClickException(
                f"kubectl dispatch {' '.join(arguments)} ended with {code}: {session.text}"
            )
        self._add(arguments, session.output)

    def screen(self, *arguments: str, until: str) -> None:
        """Start the plugin, and end it when its screen shows a text; only that screen is drawn."""
        session = Session([str(PLUGIN), *arguments], environment=self._environment, size=SIZE)
        session.read_until(until)
        session.interrupt()
        session.end()
        frames = [frame for frame in session.output.split("\x1b[H") if until in _plain(frame)]
        self._add(arguments, frames[-1].split("\x1b[?")[0].rstrip())

    def _add(self, arguments: tuple[str, ...], output: str) -> None:
        words = " ".join(arguments).replace(str(self._folder) + "/", "")
        self._console.print(Text.assemble(("$ ", "bold green"), (f"kubectl dispatch {words}", "bold")))
        self._console.print(Text.from_ansi(output.replace("\r\n", "\n").rstrip()))
        self._console.print()

    def save(self, path: Path) -> None:
        """Write the picture."""
        svg = self._console.export_svg(
            title="kubectl dispatch", theme=MONOKAI, code_format=FORMAT, unique_id="t"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")
        click.echo(path)


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def _manifest(folder: Path, name: str, text: str, script: str) -> str:
    """A file with one of the demonstration's Jobs; the dispatcher's field is left to submit."""
    job = yaml.safe_load(text)
    del job["spec"]["managedBy"]
    job["metadata"]["name"] = name
    job["spec"]["template"]["metadata"]["annotations"]["lab.jobdispatcher.io/script"] = script
    job["spec"]["template"]["spec"]["containers"][0]["name"] = CONTAINER
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(job, sort_keys=False))
    return str(file)


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60.0
    while not condition():
        if time.monotonic() > end:
            raise click.ClickException("the Jobs do not get on")
        time.sleep(0.1)


def _succeeded(lab: Lab, name: str) -> int:
    path = f"/apis/batch/v1/namespaces/default/jobs/{name}"
    return int(lab.management.api.get(path).get("status", {}).get("succeeded", 0))


def _write_logs(lab: Lab) -> None:
    for number, worker in enumerate(lab.workers):
        lines = [
            f"2026-01-01T09:00:{second:02}.{number}00000000Z stdout F rows {second}0000 of 50000 done\n"
            for second in range(1, 6)
        ]
        worker.container_log(CONTAINER).write_text("".join(lines))


def record(lab: Lab, folder: Path, target: Path) -> None:
    """All pictures."""
    _write_logs(lab)
    slow = '[{"index": "0-5", "after": "2s"}, {"after": "20s"}]'
    chunks = _manifest(folder, "chunks", jobs.INDEXED, slow)
    render = _manifest(folder, "render", jobs.SPLIT, '[{"nth": "0-3", "after": "2s"}, {"after": "20s"}]')
    first = Recording(lab, folder)
    first.run("clusters")
    first.run("submit", "-f", chunks)
    _wait(lambda: _succeeded(lab, "chunks") >= 2)
    first.run("get")
    first.run("describe", "chunks")
    first.save(target / "kubectl-dispatch.svg")
    logs = Recording(lab, folder)
    logs.run("pods", "chunks")
    logs.run("logs", "chunks", "--tail", "2")
    logs.run("logs", "chunks", "--cluster", "worker-2", "--index", "5", "--tail", "3", "--timestamps")
    logs.save(target / "logs.svg")
    second = Recording(lab, folder)
    lab.management.api.apply(
        {
            "apiVersion": "jobdispatcher.io/v1alpha1",
            "kind": "WorkerCluster",
            "metadata": {"name": "worker-2"},
            "spec": {"kubeconfigSecretRef": {"name": "worker-2"}, "capacity": {"parallelism": 8}},
        }
    )
    Recording(lab, folder).run("submit", "-f", render)
    _wait(lambda: _succeeded(lab, "render") >= 2)
    second.screen("top", "-A", until="render")
    second.save(target / "top.svg")


@click.command(help=__doc__)
@click.option("--target", type=click.Path(path_type=Path), default=Path("docs/pictures"), show_default=True)
@click.option("--lab", "existing", type=click.Path(path_type=Path), help="A lab that runs already.")
def main(target: Path, existing: Path | None) -> None:
    """Record with a lab of its own, or with one that runs."""
    with tempfile.TemporaryDirectory() as folder:
        if existing is not None:
            _with_controller(Lab.open(existing), Path(folder), target)
            return
        with temporary_lab("pictures", workers=2, report=click.echo) as lab:
            _with_controller(lab, Path(folder), target)


def _with_controller(lab: Lab, folder: Path, target: Path) -> None:
    with registered(lab) as address:
        controller = Controller.start(lab, environment={"JOB_DISPATCHER_VIEW_ADDRESS": address})
        try:
            wait_available(lab)
            record(lab, folder, target)
        finally:
            controller.stop()


if __name__ == "__main__":
    main()
