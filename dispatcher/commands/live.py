"""Live screens on a terminal, drawn by rich: tables that change in place."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import FrameType

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dispatcher.commands.colours import WORDS

_FRAME_SECONDS = 0.2


def show_live(
    render: Callable[[], RenderableType],
    take: Callable[[float], bool],
    *,
    whole_screen: bool = False,
    console: Console | None = None,
    until: Callable[[], bool] = lambda: False,
) -> None:
    """Draw again whenever something changed and every second, until ``until`` or Ctrl-C.

    ``take`` waits for changes, at most so many seconds, and says whether there were any.
    """
    console = console or Console(highlight=False)
    with (
        _interrupted_only_at_rest() as at_rest,
        Live(
            render(), console=console, auto_refresh=False, screen=whole_screen, vertical_overflow="crop"
        ) as live,
    ):
        drawn = time.monotonic()
        changed = False
        while not until():
            with at_rest():
                changed |= take(_FRAME_SECONDS)
            since = time.monotonic() - drawn
            if (changed and since >= _FRAME_SECONDS) or since >= 1.0:
                live.update(render(), refresh=True)
                drawn, changed = time.monotonic(), False
        live.update(render(), refresh=True)


@contextmanager
def _interrupted_only_at_rest() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Ctrl-C raises KeyboardInterrupt only inside the context that this hands out, or when pressed again.

    rich does not give the screen and the cursor back when it is interrupted while it begins, draws or ends.
    """
    resting = pressed = False

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if resting or pressed:
            raise KeyboardInterrupt
        pressed = True

    @contextmanager
    def at_rest() -> Iterator[None]:
        nonlocal resting
        resting = True
        try:
            if pressed:
                raise KeyboardInterrupt
            yield
        finally:
            resting = False

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield at_rest
    finally:
        signal.signal(signal.SIGINT, before)


class LiveTable:
    """Columns like kubectl's that fit the terminal: what has no room below is counted, not shown."""

    def __init__(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        with_headers: bool = True,
        trouble: str = "",
        lines: int | None = None,
    ) -> None:
        """``lines``: so many at most; None for the terminal's."""
        self._headers = headers
        self._rows = rows
        self._with_headers = with_headers
        self._trouble = trouble
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw."""
        room = (self._lines or console.size.height - 1) - self._with_headers - bool(self._trouble)
        rows = self._rows
        if len(rows) > room:
            rows = rows[: max(0, room - 1)]
        table = Table(box=None, show_header=self._with_headers, pad_edge=False, padding=(0, 3, 0, 0))
        for header in self._headers:
            table.add_column(header, header_style="bold", no_wrap=True, overflow="ellipsis")
        for row in rows:
            table.add_row(*(Text(cell or "<none>", style=WORDS.get(cell, "")) for cell in row))
        yield table
        if len(rows) < len(self._rows):
            yield Text(f"… and {len(self._rows) - len(rows)} more", style="dim")
        if self._trouble:
            yield Text(f"{self._trouble}; trying again", style="yellow")
