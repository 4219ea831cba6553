"""Plain aligned columns and short ages, as kubectl prints them."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from dispatcher.core.job import parse_timestamp

_GAP = 3

Row = Sequence[str]


def format_table(
    headers: Row,
    rows: Sequence[Row],
    *,
    with_headers: bool = True,
    coloured: bool = False,
    widths: Sequence[int] = (),
) -> str:
    """Lines of left-aligned columns; an empty cell is shown as ``<none>``. ``widths``: the least of each."""
    lines = [[cell or "<none>" for cell in row] for row in rows]
    if with_headers:
        lines.insert(0, list(headers))
    if not lines:
        return ""
    widths = column_widths(lines, least=widths)
    paint = _painter(coloured)
    return "\n".join(_line(line, widths, paint) for line in lines)


def column_widths(lines: Sequence[Row], *, least: Sequence[int] = ()) -> list[int]:
    """The width of each column."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [max(pair) for pair in zip(widths, least, strict=True)] if least else widths


def _painter(coloured: bool) -> Callable[[str], str]:
    if not coloured:
        return lambda cell: cell
    from dispatcher.commands import colours

    return lambda cell: colours.by_word(cell, wanted=True)


def _line(line: Row, widths: Sequence[int], paint: Callable[[str], str]) -> str:
    *before, last = [
        # Padded after it is painted: codes of colours have no width.
        paint(cell) + " " * (width - len(cell) + _GAP)
        for cell, width in zip(line, widths, strict=True)
    ]
    return "".join([*before, last.rstrip()]).rstrip()


def age(timestamp: str | None, now: datetime | None = None) -> str:
    """How long ago a timestamp of the API is; ``<unknown>`` without one."""
    moment = parse_timestamp(timestamp)
    return short_duration((now or datetime.now(UTC)) - moment) if moment else "<unknown>"


def short_duration(duration: timedelta) -> str:
    """An age in the two units that matter, as kubectl's AGE column: ``90s``, ``5m30s``, ``3h``, ``4d12h``."""
    seconds = int(duration.total_seconds())
    if seconds < 0:
        # Clocks differ a little; kubectl forgives two seconds.
        return "0s" if seconds >= -2 else "<invalid>"
    minutes, hours, days = seconds // 60, seconds // 3_600, seconds // 86_400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two_units(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two_units(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two_units(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 2920:
        return _two_units(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two_units(amount: int, unit: str, rest: int, smaller: str) -> str:
    return f"{amount}{unit}{rest}{smaller}" if rest else f"{amount}{unit}"
