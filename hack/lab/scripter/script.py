"""The script of a pod: what each of its runs does. Pure parsing and matching.

`[{"index": "3-5", "try": "0-1", "nth": "0", "after": "2s", "exit": 42}, {"exit": 0}]`: the first entry whose fields all
match decides. Without a match the run ends at once with 0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCRIPT = "lab.jobdispatcher.io/script"
TERMINATION = "lab.jobdispatcher.io/termination"
RUN = "lab.jobdispatcher.io/run"

# What a container that does not handle SIGTERM ends with: 128 + 15.
SIGTERM_EXIT = 143

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ENTRY_FIELDS = {"index", "try", "nth", "after", "exit"}
_TERMINATION_FIELDS = {"after", "exit"}


class InvalidScript(ValueError):
    """The annotation cannot be understood; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A set of numbers such as "1,3", "3-5" or "2-" (2 and all above): pairs of first and last, last None if open."""

    intervals: tuple[tuple[int, int | None], ...]

    def __contains__(self, number: int) -> bool:
        return any(first <= number and (last is None or number <= last) for first, last in self.intervals)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run does: it ends after `after` seconds with `exit`, or never when that is None."""

    after: float = 0.0
    exit: int | None = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a script; a field that is None matches everything."""

    index: Numbers | None
    tries: Numbers | None
    nth: Numbers | None
    outcome: Outcome

    def matches(self, *, index: int | None, attempt: int, nth: int) -> bool:
        """Whether it is about this run; a pod without a completion index matches no `index`."""
        return (
            (self.index is None or (index is not None and index in self.index))
            and (self.tries is None or attempt in self.tries)
            and (self.nth is None or nth in self.nth)
        )


@dataclass(frozen=True, slots=True)
class Script:
    """A pod's script, and what it does when it is told to end."""

    entries: tuple[Entry, ...] = ()
    termination: Outcome = Outcome(exit=SIGTERM_EXIT)

    def outcome(self, *, index: int | None, attempt: int, nth: int) -> Outcome:
        """What a run does: `attempt` runs of that index (else of the Job here) were before it, `nth` pods."""
        for entry in self.entries:
            if entry.matches(index=index, attempt=attempt, nth=nth):
                return entry.outcome
        return Outcome()


def parse(annotations: Mapping[str, str]) -> Script:
    """The script in a pod's annotations.

    Raises InvalidScript.
    """
    entries = _json(annotations.get(SCRIPT, "[]"), SCRIPT)
    if not isinstance(entries, list):
        raise InvalidScript(f"{SCRIPT}: expected a list of entries")
    termination = _json(annotations.get(TERMINATION, "{}"), TERMINATION)
    _check_fields(termination, _TERMINATION_FIELDS, TERMINATION)
    return Script(
        entries=tuple(_entry(value, f"{SCRIPT}[{number}]") for number, value in enumerate(entries)),
        termination=_outcome(termination, TERMINATION, default=SIGTERM_EXIT),
    )


def _entry(value: Any, where: str) -> Entry:
    _check_fields(value, _ENTRY_FIELDS, where)
    return Entry(
        index=_numbers(value.get("index"), f"{where}.index"),
        tries=_numbers(value.get("try"), f"{where}.try"),
        nth=_numbers(value.get("nth"), f"{where}.nth"),
        outcome=_outcome(value, where, default=0),
    )


def _outcome(value: Mapping[str, Any], where: str, *, default: int) -> Outcome:
    code = value.get("exit", default)
    if code is not None and (isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255):
        raise InvalidScript(f"{where}.exit: expected 0 to 255, or null for never, not {code!r}")
    return Outcome(after=_seconds(value.get("after", "0s"), f"{where}.after"), exit=code)


def _numbers(value: Any, where: str) -> Numbers | None:
    if value is None:
        return None
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not re.fullmatch(r"\d+(-\d*)?(,\d+(-\d*)?)*", text):
        raise InvalidScript(f'{where}: expected numbers such as "3", "1,3", "3-5" or "2-", not {value!r}')
    intervals = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        intervals.append((int(first), int(last) if last else None if dash else int(first)))
    return Numbers(tuple(intervals))


def _seconds(value: Any, where: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", value) if isinstance(value, str) else []
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise InvalidScript(f'{where}: expected a duration such as "2s", "500ms" or "1m30s", not {value!r}')
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def _check_fields(value: Any, known: set[str], where: str) -> None:
    if not isinstance(value, dict):
        raise InvalidScript(f"{where}: expected an object with {', '.join(sorted(known))}")
    if unknown := sorted(set(value) - known):
        raise InvalidScript(f"{where}: unknown {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidScript(f"{where} is not JSON: {error}") from None
