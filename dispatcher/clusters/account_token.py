"""Tokens of ServiceAccounts: whose they are, how long they live, and how a new one is asked for.

What a token says is read, not verified: only the API server that made it can do that. Nothing here trusts it further
than to ask that very server, with this very token, for the next one.
"""

import base64
import dataclasses
import datetime
import json
import re
from typing import Any, Final

import yaml

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.reply import Manifest, Reply

MINIMUM_SECONDS: Final = 600
"""The API server refuses a shorter life."""


MOST_CHARACTERS: Final = 16 * 1024
"""Of a token that is put into a Secret; a header may not be much longer."""
_TOKEN: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


@dataclasses.dataclass(frozen=True, slots=True)
class AccountToken:
    """A bound token of a ServiceAccount that will expire."""

    text: str = dataclasses.field(repr=False)
    namespace: str
    account: str
    issued: datetime.datetime
    expires: datetime.datetime

    @property
    def life(self) -> datetime.timedelta:
        """From its issue to its end."""
        return self.expires - self.issued

    @property
    def renew_at(self) -> datetime.datetime:
        """Half of its life."""
        return self.issued + self.life / 2


def read_token(text: str) -> AccountToken | None:
    """What a token says of itself; None for one that is no ServiceAccount's, or that never expires."""
    try:
        if len(text) > MOST_CHARACTERS or not _TOKEN.fullmatch(text):
            return None
        _, payload, _ = text.split(".")
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        kind, sort, namespace, account = claims["sub"].split(":")
        if (kind, sort) != ("system", "serviceaccount") or not namespace or not account:
            return None
        issued, expires = (
            datetime.datetime.fromtimestamp(claims[key], datetime.UTC) for key in ("iat", "exp")
        )
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError):
        return None
    return AccountToken(text, namespace, account, issued, expires) if expires > issued else None


def request_body(seconds: int) -> Manifest:
    """A TokenRequest for a life of ``seconds``."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": max(MINIMUM_SECONDS, seconds)},
    }


def request_path(namespace: str, account: str) -> str:
    """Where a TokenRequest is posted to."""
    return resource_path("v1", "serviceaccounts", namespace=namespace, name=account, sub="token")


async def request_next(api: ApiServer, token: AccountToken) -> Reply:
    """Ask for a new token of the same account with the same life; it is in ``reply.body["status"]["token"]``."""
    body = request_body(round(token.life.total_seconds()))
    return await api.request("POST", request_path(token.namespace, token.account), body=body)


def token_in(kubeconfig: str) -> str | None:
    """The token of a kubeconfig's current context; None where there is none or the kubeconfig is unusable."""
    user = _user(_load(kubeconfig))
    token = user.get("token") if user else None
    return token.strip() if isinstance(token, str) else None


def with_token(kubeconfig: str, token: str) -> str:
    """The kubeconfig with another token for its current context.

    Raises ValueError where it has no current context with a user.
    """
    content = _load(kubeconfig)
    user = _user(content)
    if user is None:
        raise ValueError("the kubeconfig has no current context with a user")
    user["token"] = token
    text: str = yaml.safe_dump(content, sort_keys=False)
    return text


def _load(kubeconfig: str) -> Any:
    try:
        return yaml.safe_load(kubeconfig)
    except yaml.YAMLError:
        return None


def _user(content: Any) -> dict[str, Any] | None:
    """The user of the current context, in ``content`` itself."""
    try:
        contexts = {entry["name"]: entry["context"] for entry in content["contexts"]}
        users = {entry["name"]: entry["user"] for entry in content["users"]}
        user = users[contexts[content["current-context"]]["user"]]
    except (KeyError, TypeError):
        return None
    return user if isinstance(user, dict) else None
