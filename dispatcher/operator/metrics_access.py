"""Who may read /metrics: asked of the management API server, as the built-in components do it.

The bearer token goes into a TokenReview, and its user into a SubjectAccessReview for ``get`` on the non-resource URL.
"""

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
_REMEMBERED: Final = 256
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
        self._known: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()

    async def judge(self, authorization: str | None) -> Verdict:
        """The verdict on a request with this ``Authorization`` header."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _LONGEST_TOKEN:
            return Verdict(401, "a bearer token is needed")
        key = hashlib.sha256(token.encode()).digest()
        known = self._known.get(key)
        if known is not None and known[1] > self._clock():
            return known[0]
        verdict = await self._ask(token)
        if verdict.status != 503:
            life = ALLOWED_SECONDS if verdict.status == 200 else REFUSED_SECONDS
            self._known[key] = verdict, self._clock() + life
            self._known.move_to_end(key)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return verdict

    async def _ask(self, token: str) -> Verdict:
        review = await self._review("authentication.k8s.io", "TokenReview", {"token": token})
        if not review.ok:
            return Verdict(503, "the API server cannot be asked who this is")
        status = _status(review)
        if not status.get("authenticated"):
            return Verdict(401, "the token is not accepted")
        user = status.get("user") or {}
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
        if not _status(access).get("allowed"):
            return Verdict(403, f"{user.get('username')} may not get the non-resource URL {PATH}")
        return Verdict(200)

    async def _review(self, group: str, kind: str, spec: dict[str, Any]) -> Reply:
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        return await self._api.request("POST", resource_path(f"{group}/v1", f"{kind.lower()}s"), body=body)


def _status(reply: Reply) -> dict[str, Any]:
    status = (reply.body or {}).get("status")
    return status if isinstance(status, dict) else {}
