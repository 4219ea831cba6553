"""Structured logs: a constant message and fields, as text or JSON."""

import json
import logging
import sys
from typing import Any

from dispatcher.clusters import request_id
from dispatcher.clusters.redaction import redacted

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "settings",
    "k8s_skip",
    "k8s_ref",
}

_encode = json.JSONEncoder(default=str).encode


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
    if request := request_id.current.get():
        fields["request_id"] = request
    return fields


class TextFormatter(logging.Formatter):
    """One line: time, level, message, then ``field=value``."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        first, newline, rest = line.partition("\n")
        fields = " ".join(f"{key}={_encode(value)}" for key, value in _fields(record).items())
        return redacted((f"{first} {fields}" if fields else first) + newline + rest)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return redacted(_encode(entry))


def _says_something(record: logging.LogRecord) -> bool:
    """kopf warns when it is ended before its cleanup handlers have run; there are none here."""
    return not str(record.msg).startswith("Cleanup activity is ")


def configure(level: str, form: str) -> None:
    """Log to standard error. kopf's own news about single objects is left out below warning."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("kopf", "aiohttp", "asyncio", "kubernetes"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    logging.getLogger("kopf._core.reactor.running").addFilter(_says_something)
