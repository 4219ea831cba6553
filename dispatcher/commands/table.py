"""Plain aligned columns and short ages, as kubectl prints them."""

from collections.abc import Sequence
from datetime import timedelta

_GAP = 3


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, with_headers: bool = True) -> str:
    """Lines of left-aligned columns; an empty cell is shown as ``<none>``."""
    lines = [[cell or "<none>" for cell in row] for row in rows]
    if with_headers:
        lines.insert(0, list(headers))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "".join(cell.ljust(width + _GAP) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


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
