"""What a request for logs asks for: the query, checked."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from dispatcher.view.status import Refused

_NAMES: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_TIME: Final = re.compile(r"[0-9T:.Z+\-]{1,40}")
_KNOWN: Final = frozenset(
    {
        "cluster",
        "index",
        "pod",
        "container",
        "follow",
        "previous",
        "timestamps",
        "prefix",
        "frames",
        "tailLines",
        "sinceSeconds",
        "sinceTime",
        "after",
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of ``jobs/NAME/log``; the names are those of PodLogOptions, and ours."""

    cluster: str = ""
    index: str = ""
    pod: str = ""
    container: str = ""
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    prefix: bool = False
    frames: bool = False
    """Blocks with a header of their own instead of plain lines (``logs.py``)."""
    tail_lines: int | None = None
    since_seconds: int | None = None
    since_time: str = ""
    after: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """``CLUSTER/POD`` to the time from which a resumed follow goes on there, in place of the beginning; repeated in the
    query as ``after=CLUSTER/POD=TIME``. Lines of that very second come again."""


def read_options(query: Mapping[str, str]) -> LogOptions:
    """Raises Refused 400 for what makes no sense."""
    for key in query:
        if key not in _KNOWN:
            raise Refused(400, f"unknown parameter {key}; known are {', '.join(sorted(_KNOWN))}")
    options = LogOptions(
        cluster=_name(query, "cluster"),
        index=str(_number(query, "index", least=0)) if "index" in query else "",
        pod=_name(query, "pod"),
        container=_name(query, "container"),
        follow=_flag(query, "follow"),
        previous=_flag(query, "previous"),
        timestamps=_flag(query, "timestamps"),
        prefix=_flag(query, "prefix"),
        frames=_flag(query, "frames"),
        tail_lines=_number(query, "tailLines", least=0),
        since_seconds=_number(query, "sinceSeconds", least=1),
        since_time=query.get("sinceTime", ""),
        after=_after(query),
    )
    if options.since_seconds is not None and options.since_time:
        raise Refused(400, "at most one of sinceSeconds and sinceTime may be given")
    if options.since_time and not _TIME.fullmatch(options.since_time):
        raise Refused(400, "sinceTime is no RFC 3339 time")
    if options.follow and options.previous:
        raise Refused(400, "only one of follow and previous may be given")
    return options


def _after(query: Mapping[str, str]) -> dict[str, str]:
    several: Any = query  # a request's query is a multidict
    values: Sequence[str] = several.getall("after", ()) if hasattr(query, "getall") else ()
    found = {}
    for value in values:
        pod, equals, time = value.partition("=")
        if not equals or not _TIME.fullmatch(time):
            raise Refused(400, f"after is CLUSTER/POD=TIME, not {value!r}")
        found[pod] = time
    return found


def _flag(query: Mapping[str, str], key: str) -> bool:
    value = query.get(key, "false")
    if value not in ("true", "false", "1", "0", ""):
        raise Refused(400, f"{key} is true or false, not {value!r}")
    return value in ("true", "1")


def _number(query: Mapping[str, str], key: str, *, least: int) -> int | None:
    value = query.get(key)
    if value is None:
        return None
    if not value.isascii() or not value.isdecimal() or len(value) > 15 or int(value) < least:
        raise Refused(400, f"{key} is a whole number from {least} on, not {value!r}")
    return int(value)


def _name(query: Mapping[str, str], key: str) -> str:
    value = query.get(key, "")
    if value and (len(value) > 253 or not _NAMES.fullmatch(value)):
        raise Refused(400, f"{key} {value!r} is no name of an object")
    return value
