"""Trust in the management API server's front proxy: only it may say who a reader is.

Its client certificate must chain to the CA that the API server publishes in the ConfigMap
``kube-system/extension-apiserver-authentication``, and bear one of the names published there.
The CA may rotate, so it is read again and again, and connections that were made before are judged by the new one.
"""

import functools
import logging
import ssl
import tempfile
import weakref
from typing import Any, Final

import orjson
from aiohttp import web

from dispatcher.clusters.client import ApiServer, resource_path
from dispatcher.view.access import HeaderNames, User, user_from_headers
from dispatcher.view.certificates import as_files
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
        self._judged_by: weakref.WeakKeyDictionary[ssl.SSLContext, str] = weakref.WeakKeyDictionary()
        """The CA that connections of a context were judged by."""
        self.listening = _server_context()
        """The context to listen with: each handshake goes on with the newest one."""
        self.listening.sni_callback = self._use_current

    async def refresh(self) -> bool:
        """Read the published configuration; False while there is none.

        :raises ssl.SSLError, ValueError: what is published is no CA, or no list of names; what was there before holds.
        """
        namespace, name = CONFIG_MAP
        reply = await self._api.get(resource_path("v1", "configmaps", namespace=namespace, name=name))
        data = (reply.body or {}).get("data") or {}
        if not reply.ok or not data.get("requestheader-client-ca-file"):
            logger.warning("no front proxy CA is published", extra={"answer": str(reply)})
            return bool(self._authority)
        if data != self._published:
            # Everything is read before anything of it holds: without its names, a CA would vouch for anyone.
            allowed = _names(data, "requestheader-allowed-names", ())
            names = HeaderNames(
                users=_names(data, "requestheader-username-headers", ("X-Remote-User",)),
                groups=_names(data, "requestheader-group-headers", ("X-Remote-Group",)),
                uids=_names(data, "requestheader-uid-headers", ("X-Remote-Uid",)),
                extra_prefixes=_names(data, "requestheader-extra-headers-prefix", ("X-Remote-Extra-",)),
            )
            self._rebuild(data["requestheader-client-ca-file"])
            self._allowed, self._names = allowed, names
            self._published = dict(data)
            logger.info("trusting the published front proxy", extra={"allowed_names": list(self._allowed)})
        return True

    def serve_with(self, certificate: str, key: str) -> None:
        """Use this certificate and its key (PEM) for the handshakes to come."""
        self._certificate = (certificate, key)
        self._rebuild(self._authority)

    def user_of(self, request: web.Request) -> User:
        """Who asks. Raises Refused 401 unless the request came through the front proxy."""
        connection: ssl.SSLObject | None = (
            request.transport.get_extra_info("ssl_object") if request.transport else None
        )
        if connection is None or not self._trusts(connection):
            raise Refused(401, "Unauthorized: this API is reached through the management API server only")
        user = user_from_headers(request.headers, self._names)
        if user is None:
            raise Refused(401, "Unauthorized: the front proxy names no user")
        return user

    def _trusts(self, connection: ssl.SSLObject) -> bool:
        """Whether the peer has a certificate of the CA that is published now, with an allowed name.

        Connections outlive rotations. A certificate with an intermediate has to be shown anew then: a proxy does that
        with its next connection.
        """
        peer = connection.getpeercert()
        name = _common_name(peer) if peer else None
        if name is None or (self._allowed and name not in self._allowed):
            return False
        if self._judged_by.get(connection.context) == self._authority:
            return True
        return issued_by(connection.getpeercert(binary_form=True) or b"", self._authority)

    def _rebuild(self, authority: str) -> None:
        """Judge connections by this CA from now on."""
        if authority:
            context = _server_context()
            # Optional, so that a caller without a certificate is told 401 and why.
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=authority)
            if self._certificate is not None:
                with tempfile.TemporaryDirectory(prefix="view-") as folder:
                    files = as_files(*self._certificate, folder)
                    context.load_cert_chain(*files)
                    self.listening.load_cert_chain(*files)
                self._current = context
                self._judged_by[context] = authority
                # The session that begins with `listening` takes its mode from there.
                self.listening.verify_mode = ssl.CERT_OPTIONAL
        self._authority = authority

    def _use_current(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> int | None:
        if self._current is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._current
        return None


@functools.lru_cache(maxsize=32)
def issued_by(certificate: bytes, authorities: str) -> bool:
    """Whether one of the authorities (PEM) signed a certificate (DER) itself."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    try:
        read = x509.load_der_x509_certificate(certificate)
        known = x509.load_pem_x509_certificates(authorities.encode())
    except ValueError:
        return False
    for authority in known:
        try:
            read.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A resumed session would bring a peer that a rotated CA no longer vouches for.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


def _names(data: dict[str, str], key: str, default: tuple[str, ...]) -> tuple[str, ...]:
    found = orjson.loads(data.get(key) or "[]")
    return tuple(str(name) for name in found) or default


def _common_name(peer: dict[str, Any]) -> str | None:
    for part in peer.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return None
