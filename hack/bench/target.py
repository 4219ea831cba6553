"""An entry of a run's ``targets``: what was measured, what it should be, and whether it is."""

from typing import Any

JSON = dict[str, Any]


def at_most(name: str, value: float | None, most: float) -> JSON:
    """Met by no more than this; what could not be measured (None) is missed."""
    return {"target": name, "value": value, "atMost": most, "met": value is not None and value <= most}


def at_least(name: str, value: float, least: float) -> JSON:
    """Met by no less than this."""
    return {"target": name, "value": value, "atLeast": least, "met": value >= least}
