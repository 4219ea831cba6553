"""One API server: raw JSON over a connection pool, every outcome as a ``Reply``.

TLS, client certificates and tokens are those of ``kubernetes.aio`` (``Configuration``, ``RESTClientObject``); its
typed models and its JSON are not used (four times the time and memory for a list of Jobs). Retrying is left to
the callers, who reread state and decide again.
"""

import asyncio
import contextlib
import dataclasses
import logging
import re
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from time import perf_counter
from typing import Any, Final, TypeAlias

import aiohttp
import orjson
import yarl
from kubernetes.aio.client.configuration import Configuration

import dispatcher
from dispatcher.clusters import redaction
from dispatcher.clusters import reply as replies
from dispatcher.clusters.fencing import LEASE_LOST, WRITE_PERMIT, FencedBody
from dispatcher.clusters.kubeconfig import Credentials, KubeconfigError
from dispatcher.clusters.pool import RestClient, Slots, client_certificate
from dispatcher.clusters.reply import Outcome, Reply

logger = logging.getLogger(__name__)

Observe: TypeAlias = Callable[[str, str, int, float], None]
"""Called with method, resource (``jobs``, ``jobs/status``, ``version``), HTTP status (0: no answer), seconds."""

Params: TypeAlias = Mapping[str, str | int]

MAX_OBJECT_BYTES: Final = 4 * 2**20
"""Of an answer about one object. In etcd it has at most 1.5 MiB."""
MAX_LIST_BYTES: Final = 64 * 2**20
"""Of a list in one piece."""

JSON: Final = "application/json"
JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
METADATA_OBJECT: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""An object, or a watch, without anything but metadata: no data of a Secret comes."""
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

_MOST_URLS: Final = 2_000
"""Paths whose URL is kept: a Job is written several times."""
_SAFE_PATH: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._:~@-]+)+")
"""No empty segment (``DELETE …/jobs/`` would mean all of them), no dot segments, nothing escaped."""


class ApiServer:
    """Requests to one API server with one set of credentials; another set means another ``ApiServer``.

    ``timeout``: seconds a request may take as a whole unless it says otherwise. ``limit``: connections at a time.
    ``writes``: of these for writes, as long as the server answers in good time (see :class:`Slots`).
    ``allow_http``: plain HTTP for tests against a server on the loopback interface.

    :raises KubeconfigError: the configuration names certificates or a key that can not be used.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float = 10.0,
        limit: int = 100,
        writes: int | None = None,
        observe: Observe | None = None,
        allow_http: bool = False,
    ) -> None:
        self.server: str = configuration.host.rstrip("/")
        if not self.server.startswith("https://") and not allow_http:
            raise KubeconfigError("InsecureServer", "the server must be an https:// URL")
        self.timeout = timeout
        self._configuration = configuration
        self._observe = observe
        configuration.connection_pool_maxsize = limit
        # Go's verification, and so kubectl, accepts certificate authorities without a key identifier.
        configuration.disable_strict_ssl_verification = True
        self._session_options: dict[str, Any] = {
            "trust_env": False,  # a proxy is used only where the kubeconfig says so
            "timeout": aiohttp.ClientTimeout(total=None),  # every use has an asyncio.timeout of its own
            "headers": {"Accept": JSON, "User-Agent": f"job-dispatcher/{dispatcher.__version__}"},
        }
        try:
            self._rest = RestClient(configuration)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise _unusable(error) from None
        self._session: aiohttp.ClientSession | None = None
        self._writes = Slots(writes) if writes else None
        self._urls: dict[str, yarl.URL] = {}
        self._closed = False
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @classmethod
    def from_credentials(
        cls,
        credentials: Credentials,
        *,
        timeout: float = 10.0,
        limit: int = 100,
        writes: int | None = None,
        observe: Observe | None = None,
        allow_http: bool = False,
    ) -> "ApiServer":
        """Connect with checked credentials (``parse_kubeconfig``). Nothing is sent yet.

        :raises KubeconfigError: client certificate and key do not belong together.
        """
        with client_certificate(credentials) as (certificate_file, key_file):
            configuration = Configuration(
                host=credentials.server,
                api_key={"BearerToken": f"Bearer {credentials.token}"} if credentials.token else {},
                ca_cert_data=credentials.ca_data,
                cert_file=certificate_file,
                key_file=key_file,
                verify_ssl=not credentials.insecure,
                tls_server_name=credentials.tls_server_name,
                proxy=credentials.proxy_url,
            )
            return cls(
                configuration,
                timeout=timeout,
                limit=limit,
                writes=writes,
                observe=observe,
                allow_http=allow_http,
            )

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        content_type: str = JSON,
        timeout: float | None = None,
        text: bool = False,
        max_bytes: int = MAX_OBJECT_BYTES,
        accept: str | None = None,
    ) -> Reply:
        """Send one request and read the whole answer. Never raises for what a server or network does.

        ``path``: from ``/``, without query, of plain name segments (see ``resource_path``); anything else is
        answered with INVALID here. ``body``: what orjson encodes. ``timeout``: seconds for all of it.
        ``text``: the answer may be plain text. ``max_bytes``: a longer answer counts as torn. ``accept``: another
        form, such as METADATA_OBJECT.
        """
        if not _SAFE_PATH.fullmatch(path):
            return Reply(
                Outcome.INVALID, reason="InvalidName", message=f"not a path of plain names: {path!r}"
            )
        data = None if body is None else orjson.dumps(body)
        has_slot = self._writes is not None and method != "GET" and await self._writes.take()
        started = perf_counter()
        try:
            async with (
                asyncio.timeout(self.timeout if timeout is None else timeout),
                self.send(
                    method, path, params=params, data=data, content_type=content_type, accept=accept
                ) as response,
            ):
                raw = await read_body(response, max_bytes)
                reply = self.reply_to(response, raw, text=text)
        except TransportError as error:
            reply = error.reply
        except TimeoutError as error:
            reply = replies.from_error(error, server=self.server)
        finally:
            if has_slot and self._writes is not None:
                self._writes.give_back()
        seconds = perf_counter() - started
        if self._observe is not None:
            self._observe(method, resource_of(path), reply.code, seconds)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "request",
                extra={
                    "server": self.server,
                    "method": method,
                    "path": path,
                    "code": reply.code,
                    "seconds": round(seconds, 4),
                },
            )
        return reply

    async def get(
        self,
        path: str,
        *,
        params: Params | None = None,
        timeout: float | None = None,
        max_bytes: int = MAX_OBJECT_BYTES,
    ) -> Reply:
        """GET one object, or with ``max_bytes`` a list in one piece."""
        return await self.request("GET", path, params=params, timeout=timeout, max_bytes=max_bytes)

    @contextlib.asynccontextmanager
    async def send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        data: bytes | None = None,
        content_type: str = JSON,
        accept: str | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The open answer, its body not yet read; for streams. Without a time limit: the caller sets one.

        A write asks the permit of the current task (:mod:`dispatcher.clusters.fencing`) as its body is sent.
        ``accept``: another form than plain JSON, such as a Table.

        :raises TransportError: no answer, or it broke while the body of the ``async with`` was reading it.
        """
        if self._closed:
            raise TransportError(
                replies.unreachable("ClientClosed", f"{self.server}: this client was closed")
            )
        permit = None if method == "GET" else WRITE_PERMIT.get()
        body = data if data is None or permit is None else FencedBody(data, permit)
        if body is None and permit is not None and not permit():
            raise TransportError(_not_sent(self.server))
        self._in_flight += 1
        self._idle.clear()
        try:
            url = self._url(path, params)
            headers = await self._authorization()
            if data is not None:
                headers["Content-Type"] = content_type
            if accept is not None:
                headers["Accept"] = accept
            async with self._open_session().request(
                method,
                url,
                data=body,
                headers=headers,
                allow_redirects=False,  # a redirect could carry the token elsewhere
                server_hostname=self._configuration.tls_server_name,
                proxy=self._configuration.proxy,
            ) as response:
                yield response
        except TimeoutError:
            raise  # of the caller's time limit
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(body, FencedBody) and body.refused:
                raise TransportError(_not_sent(self.server)) from None
            raise TransportError(replies.from_error(error, server=self.server)) from None
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    def reply_to(self, response: aiohttp.ClientResponse, raw: bytes, *, text: bool = False) -> Reply:
        """A whole answer as a Reply; its message does not hold our own token, which a server or proxy may quote."""
        reply = replies.from_response(response.status, response.headers, raw, text=text)
        if reply.ok and not reply.message:
            return reply
        token = (self._configuration.api_key or {}).get("BearerToken", "").removeprefix("Bearer ")
        return dataclasses.replace(reply, size=len(raw), message=redaction.without(reply.message, token))

    async def close(self, *, grace: float = 0.0) -> None:
        """Take no more requests, let those under way end for up to ``grace`` seconds, drop the connections."""
        self._closed = True
        if grace > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._idle.wait()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _url(self, path: str, params: Params | None) -> yarl.URL:
        if params:
            return yarl.URL(f"{self.server}{path}?{urllib.parse.urlencode(params)}", encoded=True)
        url = self._urls.get(path)
        if url is None:
            if len(self._urls) >= _MOST_URLS:
                self._urls.clear()
            url = self._urls[path] = yarl.URL(self.server + path, encoded=True)
        return url

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Several clients may share the configuration.
            options = self._session_options | {"cookie_jar": aiohttp.DummyCookieJar()}
            self._configuration.client_session_kwargs = options
            self._session = self._rest._create_pool_manager()
        return self._session

    async def _authorization(self) -> dict[str, str]:
        """Headers; runs the configuration's token refresh, which may read a file or run a plugin."""
        try:
            token = await self._configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:
            message = f"the token could not be read: {type(error).__name__}"
            raise TransportError(replies.unreachable("CredentialsUnavailable", message)) from None
        return {"Authorization": token} if token else {}


class TransportError(Exception):
    """No whole answer; ``reply`` says why. Does not leave this package."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def resource_path(
    api_version: str, resource: str, *, namespace: str | None = None, name: str | None = None, sub: str = ""
) -> str:
    """The path of a collection, an object (``name``) or its subresource (``sub``).

    ``("batch/v1", "jobs", namespace="a", name="b")`` gives ``/apis/batch/v1/namespaces/a/jobs/b``. Segments are
    escaped; a name that is empty or holds a slash gives a path that ``ApiServer.request`` refuses.
    """
    parts = ["/api/v1" if api_version == "v1" else f"/apis/{api_version}"]
    if namespace is not None:
        parts += ["namespaces", _segment(namespace)]
    parts.append(resource)
    if name is not None:
        parts.append(_segment(name))
    if sub:
        parts.append(sub)
    return "/".join(parts)


def resource_of(path: str) -> str:
    """The resource with its subresource, for metrics: ``jobs``, ``jobs/status``, ``namespaces``, ``version``."""
    parts = path.split("/")
    if parts[1] == "apis" and len(parts) > 4:
        parts = parts[4:]
    elif parts[1] == "api" and len(parts) > 3:
        parts = parts[3:]
    else:
        return parts[1]
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    return f"{parts[0]}/{parts[2]}" if len(parts) > 2 else parts[0]


def _not_sent(server: str) -> Reply:
    return replies.unreachable(LEASE_LOST, f"{server}: not sent, the Lease is not held any more")


def _segment(value: str) -> str:
    return urllib.parse.quote(value, safe=":")


async def read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The whole body.

    :raises TransportError: it is longer than ``max_bytes``.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > max_bytes:
            response.close()
            raise TransportError(
                replies.unreachable("ReplyTooLarge", f"the answer is longer than {max_bytes} bytes")
            )
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _unusable(error: Exception) -> KubeconfigError:
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return KubeconfigError(
            "ClientKeyMismatch", "client-key-data is not the key of client-certificate-data"
        )
    detail = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
    return KubeconfigError(
        "ClientCertificateInvalid",
        f"the CA, client certificate or client key can not be used ({detail}): issue them anew",
    )
