"""Trust in the management API server's front proxy: only it may say who a reader is.

Its client certificate must chain to the CA that the API server publishes in the ConfigMap
``kube-system/extension-apiserver-authentication``, and bear one of the names published there.
The CA may rotate, so it is read again and again.
"""

import logging
import ssl
from typing import Any, Final

import orjson
from aiohttp import web

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.view.access import HeaderNames, User, user_from_headers
from dispatcher.view.status import Refused

logger = logging.getLogger(__name__)

CONFIG_MAP: Final = ("kube-system", "extension-apiserver-authentication")


class FrontProxy:
    """The published configuration, and the TLS context of our server made of it and of our own certificate."""

    def __init__(self, api: ApiServer) -> None:
        self._api = api
        self._published: dict[str, str] = {}
        self._authority = ""
        self._allowed: tuple[str, ...] = ()
        self._names = HeaderNames()
        self._certificate: tuple[str, str] | None = None
        self._current: ssl.SSLContext | None = None
        self.listening = _server_context()
        """The context to listen with: each handshake goes on with the newest one."""
        self.listening.sni_callback = self._use_current

    async def refresh(self) -> bool:
        """Read the published configuration; False while there is none."""
        namespace, name = CONFIG_MAP
        reply = await self._api.get(resource_path("v1", "configmaps", namespace=namespace, name=name))
        data = (reply.body or {}).get("data") or {}
        if not reply.ok or not data.get("requestheader-client-ca-file"):
            logger.warning("no front proxy CA is published", extra={"answer": str(reply)})
            return bool(self._authority)
        if data != self._published:
            self._allowed = _names(data, "requestheader-allowed-names", ())
            self._names = HeaderNames(
                users=_names(data, "requestheader-username-headers", ("X-Remote-User",)),
                groups=_names(data, "requestheader-group-headers", ("X-Remote-Group",)),
                uids=_names(data, "requestheader-uid-headers", ("X-Remote-Uid",)),
                extra_prefixes=_names(data, "requestheader-extra-headers-prefix", ("X-Remote-Extra-",)),
            )
            self._authority = data["requestheader-client-ca-file"]
            self._published = dict(data)
            self._rebuild()
            logger.info("trusting the published front proxy", extra={"allowed_names": list(self._allowed)})
        return True

    def serve_with(self, certificate_file: str, key_file: str) -> None:
        """Use this certificate for the handshakes to come."""
        self._certificate = (certificate_file, key_file)
        self._rebuild()

    def user_of(self, request: web.Request) -> User:
        """Who asks. Raises Refused 401 unless the request came through the front proxy."""
        connection = request.transport.get_extra_info("ssl_object") if request.transport else None
        peer = connection.getpeercert() if connection is not None else None
        name = _common_name(peer) if peer else None
        if name is None or (self._allowed and name not in self._allowed):
            raise Refused(401, "Unauthorized: this API is reached through the management API server only")
        user = user_from_headers(request.headers, self._names)
        if user is None:
            raise Refused(401, "Unauthorized: the front proxy names no user")
        return user

    def _rebuild(self) -> None:
        if self._certificate is None or not self._authority:
            return
        context = _server_context()
        context.load_cert_chain(*self._certificate)
        # Optional, so that a caller without a certificate is told 401 and why.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self._authority)
        self._current = context
        # The session that begins with `listening` takes its mode from there.
        self.listening.verify_mode = ssl.CERT_OPTIONAL
        self.listening.load_cert_chain(*self._certificate)

    def _use_current(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would bring a peer that a rotated CA no longer vouches for.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _names(data: dict[str, str], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    try:
        found = orjson.loads(data.get(key) or "[]")
    except orjson.JSONDecodeError:
        return default
    return tuple(str(name) for name in found) or default


def _common_name(peer: dict[str, Any]) -> str | None:
    for part in peer.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return None
