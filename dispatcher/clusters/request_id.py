"""An id for one look at a Job: it joins the log lines from the key in the queue to the answer of the last write."""

import itertools
from contextvars import ContextVar

current: ContextVar[str] = ContextVar("request_id", default="")
"""Tasks that are started during a look inherit it."""
_numbers = itertools.count(1)


def begin() -> str:
    """Give the running task a new id."""
    value = f"{next(_numbers):x}"
    current.set(value)
    return value
