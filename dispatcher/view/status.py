"""Refusals as a Kubernetes ``Status``, which kubectl prints as its own."""

from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from dispatcher.clusters.reply import Reply

JSON = "application/json"

_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str, *, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def status(self) -> dict[str, Any]:
        """The Status."""
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": _REASONS.get(self.code, "InternalError"),
            "code": self.code,
            **({"details": self.details} if self.details else {}),
        }

    def response(self) -> web.Response:
        """The Status as an answer."""
        return answer(self.status(), code=self.code)


def answer(body: Any, *, code: int = 200, warnings: Sequence[str] = ()) -> web.Response:
    """A JSON answer; kubectl shows the warnings on standard error."""
    response = web.Response(status=code, body=orjson.dumps(body), content_type=JSON)
    for text in warnings:
        response.headers.add("Warning", warning(text))
    return response


def warning(text: str) -> str:
    """The value of a ``Warning`` header (RFC 9111, 5.5)."""
    plain = " ".join(text.split()).replace("\\", "/").replace('"', "'")
    return f'299 - "{plain.encode("ascii", "replace").decode()[:1000]}"'


def from_reply(reply: Reply, what: str) -> Refused:
    """The refusal that a failed request to an API server means for the reader."""
    code = reply.code if reply.code >= 400 else 503
    return Refused(code, f"{what}: {reply.message or reply.reason}")
