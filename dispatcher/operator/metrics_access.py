"""Who may read /metrics: asked of the management API server, as the built-in components do it.

The bearer token goes into a TokenReview, and its user into a SubjectAccessReview for ``get`` on the non-resource URL.
"""

import asyncio
import dataclasses
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.reply import Reply

PATH: Final = "/metrics"
ALLOWED_SECONDS: Final = 60.0
REFUSED_SECONDS: Final = 10.0
"""How long an answer is remembered; a Prometheus asks every few seconds."""
REMEMBERED: Final = 256
"""Tokens that were let in; and as many that were not, apart from them: a flood of made-up ones drives out no other."""
ASKED_AT_ONCE: Final = 4
"""Reviews under way. Who floods us with made-up tokens does not flood the API server."""
WAIT_SECONDS: Final = 5.0
"""For a turn to ask; a Prometheus gives up after ten."""
_LONGEST_TOKEN: Final = 32 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """An HTTP status and, where it is not 200, why."""

    status: int
    message: str = ""


class MetricsAccess:
    """Answers for tokens, each remembered for a while by its hash."""

    def __init__(self, api: ApiServer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._allowed: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._turns = asyncio.Semaphore(ASKED_AT_ONCE)

    async def judge(self, authorization: str | None) -> Verdict:
        """The verdict on a request with this ``Authorization`` header."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
            return Verdict(401, "a bearer token is needed")
        key = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        if (known := self._remembered(key)) is not None:
            return known
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            return Verdict(503, "too many ask at once")
        try:
            # Another request with the same token may have been answered meanwhile.
            verdict = self._remembered(key) or await self._ask(token)
        finally:
            self._turns.release()
        if verdict.status != 503:
            self._remember(key, verdict)
        return verdict

    def _remembered(self, key: bytes) -> Verdict | None:
        for known in (self._allowed, self._refused):
            if key in known:
                verdict, until = known[key]
                if until > self._clock():
                    return verdict
                del known[key]
        return None

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        allowed = verdict.status == 200
        known, life = (self._allowed, ALLOWED_SECONDS) if allowed else (self._refused, REFUSED_SECONDS)
        known.setdefault(key, (verdict, self._clock() + life))
        while len(known) > REMEMBERED:
            known.popitem(last=False)

    async def _ask(self, token: str) -> Verdict:
        review = await self._review("authentication.k8s.io", "TokenReview", {"token": token})
        if not review.ok:
            return Verdict(503, "the API server cannot be asked who this is")
        status = _status(review)
        if status.get("authenticated") is not True:
            return Verdict(401, "the token is not accepted")
        user = status.get("user") or {}
        if not user.get("username"):
            return Verdict(401, "the token names nobody")
        spec = {
            "user": user.get("username"),
            "groups": user.get("groups") or [],
            "uid": user.get("uid"),
            "extra": user.get("extra") or {},
            "nonResourceAttributes": {"path": PATH, "verb": "get"},
        }
        access = await self._review("authorization.k8s.io", "SubjectAccessReview", spec)
        if not access.ok:
            return Verdict(503, "the API server cannot be asked what this user may do")
        decision = _status(access)
        if decision.get("allowed") is not True or decision.get("denied") is True:
            return Verdict(403, f"{user.get('username')} may not get the non-resource URL {PATH}")
        return Verdict(200)

    async def _review(self, group: str, kind: str, spec: dict[str, Any]) -> Reply:
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        return await self._api.request("POST", resource_path(f"{group}/v1", f"{kind.lower()}s"), body=body)


def _status(reply: Reply) -> dict[str, Any]:
    status = (reply.body or {}).get("status")
    return status if isinstance(status, dict) else {}
