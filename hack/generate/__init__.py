"""Files that are made of others: ``python -m hack.generate`` writes them, a test finds those that are out of date."""

from hack.generate.files import generated

__all__ = ["generated"]
