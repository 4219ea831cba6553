"""A lab for one command, gone when the command ends, however it ends."""

from __future__ import annotations

import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from hack.lab import Lab

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def temporary_lab(
    purpose: str, *, workers: int, nodes: str = "kwok", report: Callable[[str], None]
) -> Iterator[Lab]:
    """A lab in a folder of its own (``.lab-PURPOSE-…``, which ``make clean`` finds should this process be killed).

    SIGTERM and SIGHUP end the body as Ctrl-C does. Nothing interrupts the clearing up.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".lab-{purpose}-", dir=ROOT))
    with _signals(_interrupt, signal.SIGTERM, signal.SIGHUP):
        try:
            yield Lab.up(folder, workers=workers, nodes=nodes, report=report)
        finally:
            with _signals(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                Lab(folder).down()
                shutil.rmtree(folder, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _signals(handler: object, *numbers: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
