"""Colours for people: on a terminal only, and never where NO_COLOR asks for none."""

import os
import sys
from typing import IO, Any, Final

import click

GOOD: Final = "green"
BAD: Final = "red"
ATTENTION: Final = "yellow"
BUSY: Final = "cyan"

WORDS: Final = {
    "Complete": GOOD,
    "Running": BUSY,
    "Failed": BAD,
    "Waiting": ATTENTION,
    "Pending": ATTENTION,
    "Suspended": ATTENTION,
    "Terminating": ATTENTION,
    "Lost": BAD,
    "True": GOOD,
    "False": BAD,
    "Unknown": ATTENTION,
    "true": ATTENTION,
    "Warning": ATTENTION,
}
"""The colour of a phase, a state, a condition's status or an Event's type."""


def are_wanted(stream: IO[Any] | None = None) -> bool:
    """Whether text for a stream (None: standard output) may have colours."""
    stream = stream or sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def paint(text: str, colour: str | None) -> str:
    """Text in a colour."""
    return click.style(text, fg=colour) if colour else text


def by_word(text: str, *, wanted: bool) -> str:
    """A word in its own colour, if it has one."""
    return paint(text, WORDS.get(text.strip())) if wanted else text
