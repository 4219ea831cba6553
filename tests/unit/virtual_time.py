"""An event loop whose clock goes on by itself: what takes minutes takes no time, and always the same course."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class NothingWillHappen(Exception):
    """Everything waits, and no timer runs."""


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Where nothing is left to do now, the clock moves to the next timer. ``observe`` is called before each step."""

    def __init__(self, observe: Callable[[], None]) -> None:
        self._now = 1000.0
        super().__init__()
        select = self._selector.select  # type: ignore[attr-defined]

        def moving(timeout: float | None = None) -> Any:
            observe()
            found = select(0)
            if timeout is None and not found:
                raise NothingWillHappen
            if timeout and not found:
                self._now += timeout
            return found

        self._selector.select = moving  # type: ignore[attr-defined]

    def time(self) -> float:
        """Seconds."""
        return self._now


def run(course: Callable[[], Coroutine[Any, Any, Result]], observe: Callable[[], None]) -> Result:
    """What ``course`` gives, on a clock of its own."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(observe)) as runner:
        return runner.run(course())
