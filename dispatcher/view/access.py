"""Who asks, and whether they may: the front proxy's headers, and the management cluster's SubjectAccessReview."""

import dataclasses
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.view.status import Refused

ANSWER_SECONDS: Final = 10.0
"""How long an answer of the API server is remembered."""
_REMEMBERED: Final = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class User:
    """A person or account, as the front proxy names it."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class HeaderNames:
    """Which headers the front proxy uses; each a list of which the first that is set counts."""

    users: tuple[str, ...] = ("X-Remote-User",)
    groups: tuple[str, ...] = ("X-Remote-Group",)
    uids: tuple[str, ...] = ("X-Remote-Uid",)
    extra_prefixes: tuple[str, ...] = ("X-Remote-Extra-",)


def user_from_headers(headers: Any, names: HeaderNames) -> User | None:
    """Who asks; None where no header says it. ``headers``: a multidict of a request that is trusted already."""
    name = next((headers[key] for key in names.users if headers.get(key)), "")
    if not name:
        return None
    groups = [value for key in names.groups for value in headers.getall(key, ())]
    uid = next((headers[key] for key in names.uids if headers.get(key)), "")
    extra: dict[str, list[str]] = {}
    for key, value in headers.items():
        for prefix in names.extra_prefixes:
            if key.lower().startswith(prefix.lower()):
                # The rest of the name is percent-encoded, in any case.
                rest = urllib.parse.unquote(key[len(prefix) :].lower())
                extra.setdefault(rest, []).append(value)
    return User(name, uid, tuple(groups), tuple(sorted((k, tuple(v)) for k, v in extra.items())))


class Access:
    """Asks whether a user may do something to the core resources of a namespace; remembers answers briefly."""

    def __init__(self, api: ApiServer, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._known: OrderedDict[tuple[User, str, str, str], tuple[str | None, float]] = OrderedDict()

    async def require(self, user: User, verb: str, resource: str, namespace: str) -> None:
        """Raises Refused unless the user may ``verb`` the core resource, such as ``pods/log``, in ``namespace``."""
        key = (user, verb, resource, namespace)
        known = self._known.get(key)
        if known is None or known[1] <= self._clock():
            known = await self._ask(user, verb, resource, namespace), self._clock() + ANSWER_SECONDS
            self._known[key] = known
            self._known.move_to_end(key)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        if known[0] is None:
            return
        why = f": {known[0]}" if known[0] else ""
        raise Refused(
            403,
            f'{resource} is forbidden: user "{user.name}" may not {verb} resource "{resource}" in API group "" '
            f'in the namespace "{namespace}"{why}\nMissing: a rule {{apiGroups: [""], '
            f'resources: ["{resource}"], verbs: ["{verb}"]}} in a Role of namespace {namespace}',
            details={"kind": resource},
        )

    async def _ask(self, user: User, verb: str, resource: str, namespace: str) -> str | None:
        """None when allowed, else the authorizer's reason, which may be empty."""
        plain, _, sub = resource.partition("/")
        attributes: Mapping[str, str] = {
            "namespace": namespace,
            "verb": verb,
            "group": "",
            "version": "v1",
            "resource": plain,
            "subresource": sub,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "uid": user.uid,
                "groups": list(user.groups),
                "extra": {key: list(values) for key, values in user.extra},
                "resourceAttributes": attributes,
            },
        }
        path = resource_path("authorization.k8s.io/v1", "subjectaccessreviews")
        reply = await self._api.request("POST", path, body=body)
        if not reply.ok:
            raise Refused(503, f"the API server cannot be asked what {user.name} may do: {reply.message}")
        status = (reply.body or {}).get("status") or {}
        return None if status.get("allowed") else str(status.get("reason") or "")
