"""How a Job's progress is shown: in place on a terminal, as lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from hack.demo.view import View

FRAMES_PER_SECOND = 8


class Screen:
    """Everything that the demonstration prints."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)

    def step(self, text: str) -> None:
        """A heading."""
        self.console.print()
        self.console.print(Text(f"▸ {text}", style="bold cyan"), soft_wrap=True)

    def note(self, text: str) -> None:
        """A line below a heading."""
        self.console.print(Text(f"  {text}", style="dim"), soft_wrap=True)

    def output(self, text: str) -> None:
        """What a command has written."""
        for line in text.splitlines():
            self.console.print(Text(f"  {line}"), soft_wrap=True)

    def manifest(self, text: str) -> None:
        """A manifest, as it is applied."""
        if self.console.is_terminal:
            self.console.print(Syntax(text, "yaml", background_color="default", padding=(0, 2)))
        else:
            self.console.print(Text("\n".join(f"  {line}" for line in text.splitlines())), soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Shows the views it is given while the context lasts."""
        if not self.console.is_terminal:
            yield Progress(self.console, in_place=False)
            return
        progress = Progress(self.console, in_place=True)
        with Live(console=self.console, get_renderable=progress.render, refresh_per_second=FRAMES_PER_SECOND):
            yield progress

    def division(self, first: View, last: View) -> None:
        """How the Job was divided at first, and what came of each part."""
        table = Table("CLUSTER", "MIRROR", "PARALLELISM", "WORK", "SUCCEEDED", "FAILED", "END", box=None)
        began = {part.mirror + part.cluster: part.parallelism for part in first.parts}
        for part in last.parts:
            table.add_row(
                part.cluster,
                part.mirror,
                str(began.get(part.mirror + part.cluster, part.parallelism)),
                part.work,
                str(part.counts.succeeded),
                str(part.counts.failed),
                part.state,
            )
        self.console.print(table)


class Progress:
    """One Job's progress: the last view shown, with the time that runs on."""

    def __init__(self, console: Console, *, in_place: bool) -> None:
        self._console = console
        self._in_place = in_place
        self._began = time.monotonic()
        self._view: View | None = None
        self._said = ""

    def show(self, view: View) -> None:
        """Show what is now; a line is printed only when it says something new."""
        self._view = view
        line = _line(view)
        if not self._in_place and line != self._said:
            self._said = line
            self._console.print(Text(f"  {self._seconds()}  {line}"), soft_wrap=True)

    def render(self) -> RenderableType:
        """The present frame."""
        table = Text() if self._view is None else _table(self._view)
        return Group(Text(f"  {self._seconds()}", style="dim"), table)

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._began:5.1f} s"


def _line(view: View) -> str:
    parts = [
        f"{part.cluster} {part.counts.active} active, {part.counts.succeeded}/{part.completions} {part.state}"
        for part in view.parts
    ]
    whole = f"Job {view.counts.active} active, {view.counts.succeeded}/{view.completions} {view.state}"
    return " | ".join([*parts, whole])


def _table(view: View) -> Table:
    table = Table("", "PARALLELISM", "ACTIVE", "SUCCEEDED", "", "STATE", box=None)
    for part in view.parts:
        table.add_row(
            part.cluster,
            str(part.parallelism),
            str(part.counts.active),
            f"{part.counts.succeeded}/{part.completions}",
            _bar(part.counts.succeeded, part.completions),
            part.state,
        )
    table.add_row(
        Text(f"Job {view.name}", style="bold"),
        str(sum(part.parallelism for part in view.parts if part.state != "Complete")),
        str(view.counts.active),
        f"{view.counts.succeeded}/{view.completions}",
        _bar(view.counts.succeeded, view.completions),
        Text(view.state, style="bold green" if view.state == "Complete" else "bold"),
    )
    return table


def _bar(done: int, of: int) -> ProgressBar:
    return ProgressBar(total=max(1, of), completed=done, width=24)
