"""Workers' tokens, renewed at half their life: asked for on the worker, proven there, then put into the Secret.

Only Secrets with the label ``jobdispatcher.io/token-renewal: enabled`` are written (``kubectl dispatch join`` sets it):
others belong to whoever keeps them. The old token stays valid until its own end, so whatever fails here has half a life
to be tried again.
"""

import asyncio
import base64
import datetime
import logging
from collections.abc import Callable
from typing import Final

from dispatcher import metrics
from dispatcher.clusters import account_token, jobs
from dispatcher.clusters.account_token import AccountToken
from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.clusters.kubeconfig import KubeconfigError, parse_kubeconfig
from dispatcher.clusters.reply import Manifest, Outcome, Reply
from dispatcher.core import names
from dispatcher.operator.fleet import Fleet
from dispatcher.operator.registered import RegisteredCluster

logger = logging.getLogger(__name__)

LOOK_INTERVAL: Final = 5.0
"""Seconds between two looks at all tokens."""
RETRY_FIRST: Final = 30.0
RETRY_CAP: Final = 600.0
"""Seconds to the next try for a token that could not be renewed, growing to the cap."""


class TokenRenewal:
    """Looks at the tokens of the fleet's clusters, and renews those whose time has come."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        management: ApiServer,
        namespace: str,
        now: Callable[[], datetime.datetime],
        may_write: Callable[[], bool] = lambda: True,
        interval: float = LOOK_INTERVAL,
    ) -> None:
        """``may_write``: whether this process is the one that writes now (leader election)."""
        self._fleet = fleet
        self._management = management
        self._namespace = namespace
        self._now = now
        self._may_write = may_write
        self._interval = interval
        self._read: dict[names.ClusterName, tuple[str, AccountToken | None]] = {}
        """By cluster: a kubeconfig, and the token in it."""
        self._failures: dict[names.ClusterName, int] = {}
        self._not_before: dict[names.ClusterName, datetime.datetime] = {}

    async def run(self) -> None:
        """Renew for as long as the process runs."""
        while True:
            if self._may_write():
                await self.look()
            await asyncio.sleep(self._interval)

    async def look(self) -> None:
        """One look at all clusters; each that is due is tried once."""
        due = [cluster for cluster in list(self._fleet.clusters.values()) if self._is_due(cluster)]
        await asyncio.gather(*(self._try(cluster) for cluster in due))

    def _is_due(self, cluster: RegisteredCluster) -> bool:
        token = self._token(cluster)
        if token is None or cluster.connection is None:
            return False
        now = self._now()
        if now < token.renew_at or now < self._not_before.get(cluster.name, now):
            return False
        secret = self._fleet.secret_of(cluster)
        labels = (secret or {}).get("metadata", {}).get("labels") or {}
        return labels.get(names.TOKEN_RENEWAL_LABEL) == names.TOKEN_RENEWAL_ENABLED

    def _token(self, cluster: RegisteredCluster) -> AccountToken | None:
        kubeconfig = cluster.credentials or ""
        known = self._read.get(cluster.name)
        if known is None or known[0] != kubeconfig:
            token = account_token.token_in(kubeconfig)
            known = kubeconfig, account_token.read_token(token) if token else None
            self._read[cluster.name] = known
        return known[1]

    async def _try(self, cluster: RegisteredCluster) -> None:
        problem = await self._renew(cluster)
        metrics.TOKEN_RENEWALS.labels(cluster.name, "failed" if problem else "renewed").inc()
        if not problem:
            self._failures.pop(cluster.name, None)
            self._not_before.pop(cluster.name, None)
            logger.info("token renewed", extra={"cluster": cluster.name})
            return
        failures = self._failures[cluster.name] = self._failures.get(cluster.name, 0) + 1
        pause = min(RETRY_CAP, RETRY_FIRST * 2 ** min(failures - 1, 10))
        self._not_before[cluster.name] = self._now() + datetime.timedelta(seconds=pause)
        logger.warning("token not renewed", extra={"cluster": cluster.name, "problem": problem})

    async def _renew(self, cluster: RegisteredCluster) -> str:
        """Renew one token. Returns what went wrong, without any secret; empty when all went well."""
        secret, kubeconfig, token = (
            self._fleet.secret_of(cluster),
            cluster.credentials or "",
            self._token(cluster),
        )
        if secret is None or token is None:
            return "the Secret changed"
        reply = await account_token.request_next(cluster.api, token)
        if not reply.ok or reply.body is None:
            return f"the worker gave no token for {token.namespace}/{token.account}: {_answer(reply)}"
        status = reply.body.get("status")
        renewed = account_token.read_token(str(status.get("token")) if isinstance(status, dict) else "")
        if renewed is None or (renewed.namespace, renewed.account) != (token.namespace, token.account):
            return "what the worker gave is no token of that account"
        content = account_token.with_token(kubeconfig, renewed.text)
        return await self._prove(cluster, content) or await self._store(cluster, secret, content, renewed)

    async def _prove(self, cluster: RegisteredCluster, kubeconfig: str) -> str:
        """A token that works is never replaced by one that does not."""
        try:
            # The old kubeconfig was accepted: what it skips was allowed then.
            api = ApiServer.from_credentials(parse_kubeconfig(kubeconfig, allow_insecure=True))
        except KubeconfigError as error:
            return str(error)
        try:
            reply = await jobs.get_namespace(api, "kube-system")
        finally:
            await api.close()
        return "" if reply.ok else f"the new token is not accepted: {_answer(reply)}"

    async def _store(
        self, cluster: RegisteredCluster, secret: Manifest, kubeconfig: str, token: AccountToken
    ) -> str:
        if not self._may_write():
            return "another replica leads now"
        key = self._fleet.secret_key_of(cluster)
        data = {**(secret.get("data") or {}), key: base64.b64encode(kubeconfig.encode()).decode()}
        name = secret["metadata"]["name"]
        path = resource_path("v1", "secrets", namespace=self._namespace, name=name)
        # The resourceVersion of what was read: a Secret that a person changed meanwhile is not overwritten.
        reply = await self._management.request("PUT", path, body={**secret, "data": data})
        if reply.outcome is Outcome.CONFLICT:
            return "the Secret changed meanwhile"
        if not reply.ok:
            return f"the Secret {self._namespace}/{name} was not written: {_answer(reply)}"
        return ""


def _answer(reply: Reply) -> str:
    return reply.message or reply.reason or reply.outcome.value
