"""Lines with timestamps, and where a log goes on after its stream broke: each line once.

Used on both sides: the server resumes logs of workers, the plugin resumes the server's answer. No line is looked at by
itself while a stream flows: a block costs two regular expressions, whatever it holds.
"""

import datetime
import re
from typing import Final

_STAMP: Final = re.compile(
    rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)(?: |$)", re.MULTILINE
)
"""RFC 3339 at a line's begin; a node writes its own time zone."""

Moment = tuple[int, bytes]
"""Seconds since the epoch, and nine digits or more of their fraction."""


class Stamps:
    """What was passed on of one container's log. Blocks are whole lines with their newlines."""

    def __init__(self, *, wanted: bool) -> None:
        """``wanted``: the reader sees the timestamps."""
        self._wanted = wanted
        self._last: Moment | None = None
        self._lines_at_last = 0
        self._skipping = 0
        self._resumed = False

    def new(self, lines: bytes) -> bytes:
        """The lines that were not passed on before, without their timestamps unless they are wanted.

        Lines without a timestamp are a node's own words, such as that it cannot read on; they stay.
        """
        if self._resumed and lines:
            lines = self._unseen(lines)
        self._remember(lines)
        return lines if self._wanted else _STAMP.sub(b"", lines)

    def resume(self) -> str:
        """Begin anew, with blocks that may hold lines which were passed on. ``sinceTime`` to ask for; empty for all."""
        if self._last is None:
            return ""
        self._resumed = True
        self._skipping = self._lines_at_last
        return self.since

    @property
    def since(self) -> str:
        """The second of the last line, in UTC; empty before the first one."""
        if self._last is None:
            return ""
        # sinceTime has whole seconds; what comes twice is dropped.
        moment = datetime.datetime.fromtimestamp(self._last[0], datetime.UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _unseen(self, lines: bytes) -> bytes:
        assert self._last is not None
        kept = []
        position = 0
        while position < len(lines):
            end = lines.index(b"\n", position) + 1
            stamp = _STAMP.match(lines, position)
            if stamp is None:
                kept.append(lines[position:end])
            else:
                at = _moment(stamp)
                if at > self._last or (at == self._last and not self._skipping):
                    self._resumed = False
                    kept.append(lines[position:])
                    break
                if at == self._last:
                    self._skipping -= 1
            position = end
        return b"".join(kept)

    def _remember(self, lines: bytes) -> None:
        """Take the last timestamp, and how many of the last lines have it."""
        last: Moment | None = None
        count = 0
        end = len(lines) - 1
        while end >= 0:
            start = lines.rfind(b"\n", 0, end) + 1
            if stamp := _STAMP.match(lines, start):
                at = _moment(stamp)
                if last is None:
                    last = at
                elif at != last:
                    break
                count += 1
            end = start - 1
        if last is None:
            return
        self._lines_at_last = count + (self._lines_at_last if last == self._last and end < 0 else 0)
        self._last = last


def _moment(stamp: re.Match[bytes]) -> Moment:
    seconds, fraction, zone = stamp.groups(b"")
    text = (seconds + (b"+00:00" if zone == b"Z" else zone)).decode("ascii")
    return int(datetime.datetime.fromisoformat(text).timestamp()), fraction[1:].ljust(9, b"0")
