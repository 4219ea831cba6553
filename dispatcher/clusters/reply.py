"""What came of one request, as data: every answer and every failure to get one maps to an ``Outcome`` here.

Callers match on the outcome; nothing outside this module interprets HTTP codes or client exceptions.
"""

import dataclasses
import email.utils
import enum
import errno
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import aiohttp
import orjson

from dispatcher.clusters import redaction

Manifest: TypeAlias = dict[str, Any]
"""An object of the Kubernetes API as decoded JSON, never a typed model."""

_MESSAGE_LIMIT: Final = 1024
"""Characters of a foreign text that are kept; an Event's message may hold as many."""

_LONGEST_WAIT: Final = 60.0
"""Seconds of a Retry-After that are heeded; API servers ask for up to 32."""

_REASONS: Final = frozenset(
    {
        *(
            "AlreadyExists",
            "BadRequest",
            "Conflict",
            "Expired",
            "Forbidden",
            "Gone",
            "InternalError",
            "Invalid",
        ),
        *("MethodNotAllowed", "NotAcceptable", "NotFound", "RequestEntityTooLarge", "ServerTimeout"),
        *("ServiceUnavailable", "StorageReadError", "Timeout", "TooManyRequests", "Unauthorized"),
        "UnsupportedMediaType",
    }
)
"""Of ``metav1.Status``. What else a server gives for one could pass for a reason of ours, and is not taken."""

_NO_SUCH_PATH: Final = "404 page not found"
"""Of API servers where the group is not served; also of other programs written in Go."""


class Outcome(enum.Enum):
    """What a request came to. Only ``OK`` says that the server did what was asked."""

    OK = "OK"
    NOT_FOUND = "NotFound"
    """A ``Status`` that names the object says so. Any other 404 (no such API, a load balancer) is SERVER_ERROR."""
    ALREADY_EXISTS = "AlreadyExists"
    CONFLICT = "Conflict"
    """A resourceVersion or UID precondition did not hold."""
    GONE = "Gone"
    """The resourceVersion or continue token is too old: list again."""
    INVALID = "Invalid"
    """The request will never be accepted as it is (400, 405, 413, 415, 422, …)."""
    FORBIDDEN = "Forbidden"
    """No permission, or an admission plugin (quota, a terminating namespace) said no."""
    UNAUTHORIZED = "Unauthorized"
    THROTTLED = "Throttled"
    SERVER_ERROR = "ServerError"
    """5xx; or with the reasons NotServed and NotKubernetes a 404 or an answer that says nothing of the object."""
    UNREACHABLE = "Unreachable"
    """No whole answer came. Whether the request was carried out is unknown."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The outcome of one request and what came with it."""

    outcome: Outcome
    code: int = 0
    """HTTP status; 0 when there was no answer."""
    body: Manifest | None = None
    """The decoded object, list or ``Status``; None when there was none or it was no JSON object."""
    reason: str = ""
    """PascalCase: ``Status.reason``, or one of ours where the server gave none (ConnectionRefused, Timeout, …)."""
    message: str = ""
    """For people; one line of at most 1024 characters, without credentials."""
    retry_after: float | None = None
    """Seconds the server asked to wait (header ``Retry-After`` or ``Status.details.retryAfterSeconds``), at most 60."""
    size: int = 0
    """Bytes of the answer, unpacked."""

    @property
    def ok(self) -> bool:
        """Whether the server did what was asked."""
        return self.outcome is Outcome.OK

    @property
    def details(self) -> Manifest:
        """``Status.details`` of a refusal (kind, name, causes), or an empty dict."""
        details = self.body.get("details") if self.body and self.body.get("kind") == "Status" else None
        return details if isinstance(details, dict) else {}

    def __str__(self) -> str:
        return f"{self.reason or self.outcome.value} ({self.code or 'no answer'}): {self.message}"


_BY_CODE: Final[Mapping[int, Outcome]] = {
    401: Outcome.UNAUTHORIZED,
    403: Outcome.FORBIDDEN,
    404: Outcome.NOT_FOUND,
    409: Outcome.CONFLICT,
    410: Outcome.GONE,
    429: Outcome.THROTTLED,
}


def from_response(code: int, headers: Mapping[str, str], raw: bytes, *, text: bool = False) -> Reply:
    """Map a whole HTTP answer. ``text``: a success may be plain text (``/readyz``), given as the message."""
    body = _decode(raw)
    status: Manifest | None = body if body is not None and body.get("kind") == "Status" else None
    succeeded = 200 <= code < 300
    if succeeded and body is not None:
        return Reply(Outcome.OK, code, body, size=len(raw))
    message = _message(status, raw)
    if succeeded and text:
        return Reply(Outcome.OK, code, message=message)
    retry_after = _retry_after(headers, status)
    if code == 404 and text:
        return Reply(Outcome.NOT_FOUND, code, body, "NotFound", message)
    if code == 404 and not _names_an_object(status):
        # Taking such a 404 for "the object is gone" would let a broken network path delete work.
        reason = "NotKubernetes" if status is None and message != _NO_SUCH_PATH else "NotServed"
        return Reply(Outcome.SERVER_ERROR, code, body, reason, _foreign(code, message), retry_after)
    if code < 400:
        # A login page, a redirect.
        return Reply(Outcome.SERVER_ERROR, code, body, "NotKubernetes", _foreign(code, message), retry_after)
    outcome = _BY_CODE.get(code, Outcome.SERVER_ERROR if code >= 500 else Outcome.INVALID)
    given = status.get("reason") if status else None
    reason = given if isinstance(given, str) and given in _REASONS else ""
    if outcome is Outcome.CONFLICT and reason == "AlreadyExists":
        outcome = Outcome.ALREADY_EXISTS
    return Reply(outcome, code, body, reason or outcome.value, message, retry_after)


def from_status(status: Manifest) -> Reply:
    """Map a ``Status`` object that came inside a watch as an ERROR event."""
    code = status.get("code")
    # A watch's ERROR may lack the code; only Expired and Gone matter for what to do next.
    if not isinstance(code, int):
        code = 410 if status.get("reason") in ("Expired", "Gone") else 500
    return from_response(code if code >= 400 else 500, {}, orjson.dumps(status))


def unreachable(reason: str, message: str) -> Reply:
    """No whole answer came, for a reason of ours."""
    return Reply(Outcome.UNREACHABLE, reason=reason, message=message[:_MESSAGE_LIMIT])


def from_error(error: BaseException, *, server: str) -> Reply:
    """Map what the HTTP client raised. ``server``: the base URL, for the message."""
    reason, message = _explain(error)
    return unreachable(reason, f"{server}: {message}")


def _explain(error: BaseException) -> tuple[str, str]:
    """Reason and message. The HTTP client's own texts may quote a proxy URL with its password: not used."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return "ProxyError", f"the proxy answered {error.status}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return "ProxyError", f"the proxy does not answer: {_os_text(error.os_error)}"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "NameNotResolved", f"the host name is not known: {_os_text(error.os_error)}"
    cause = _tls_cause(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "CertificateInvalid", f"the server's certificate is not accepted: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return "TLSError", f"TLS failed: {cause.reason or 'closed'}"
    if isinstance(error, TimeoutError):
        return "Timeout", "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "ConnectionClosed", "the connection was closed before the answer was whole"
    if isinstance(error, OSError):
        number = error.errno
        if number == errno.ECONNREFUSED:
            return "ConnectionRefused", "the connection was refused"
        if number in (errno.ECONNRESET, errno.EPIPE):
            return "ConnectionClosed", "the connection was reset"
        return "ConnectionFailed", _os_text(error)
    return "ConnectionFailed", type(error).__name__


def _tls_cause(error: BaseException) -> ssl.SSLError | None:
    # The client's own certificate error is an SSLError too, but without the fields of one: its cause comes first.
    causes = (
        getattr(error, "certificate_error", None),
        getattr(error, "os_error", None),
        error.__cause__,
        error,
    )
    return next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)


def _os_text(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _names_an_object(status: Manifest | None) -> bool:
    details = status.get("details") if status is not None else None
    return isinstance(details, dict) and bool(details.get("name"))


def _foreign(code: int, message: str) -> str:
    text = (
        f"HTTP {code} from something that does not serve this API; check the server URL, or install the API"
    )
    return f"{text}: {message}"[:_MESSAGE_LIMIT] if message else text


def _decode(raw: bytes) -> Manifest | None:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _message(status: Manifest | None, raw: bytes) -> str:
    if status is not None:
        text = str(status.get("message") or "")[: 4 * _MESSAGE_LIMIT]
    else:
        text = raw[: 4 * _MESSAGE_LIMIT].decode("utf-8", "replace")
    return redaction.printable(redaction.redacted(text))[:_MESSAGE_LIMIT]


def _retry_after(headers: Mapping[str, str], status: Manifest | None) -> float | None:
    seconds = _asked_for(headers, status)
    return None if seconds is None else min(seconds, _LONGEST_WAIT)


def _asked_for(headers: Mapping[str, str], status: Manifest | None) -> float | None:
    """Seconds; API servers send whole seconds, proxies may send a date (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After")
    if value is None:
        details = status.get("details") if status else None
        seconds = details.get("retryAfterSeconds") if isinstance(details, dict) else None
        return float(seconds) if isinstance(seconds, int) and seconds > 0 else None
    if value.strip().isdecimal():
        return float(value) if len(value) < 10 else _LONGEST_WAIT
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
