"""An HTTPS layer before an API server, with a certificate of its own authority: it answers for the server at times.

It forwards each request with its bearer token, so that the API server still decides who may do what.
"""

from __future__ import annotations

import json
import random
import ssl
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
import yarl
from aiohttp import web

from hack.lab import pki
from hack.lab.ports import ADDRESS

WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "host", "content-length", "te", "trailer"}
)
SHARE = 0.7
"""Of the requests that are answered wrongly while there is trouble, unless said otherwise."""


class Trouble(StrEnum):
    """What happens to requests."""

    NONE = "none"
    THROTTLE = "throttle"
    """429 with Retry-After."""
    ERROR = "error"
    """500."""
    UNAVAILABLE = "unavailable"
    """503, as of a server behind a load balancer."""
    FORBIDDEN = "forbidden"
    """403, as after a role was taken away."""
    EXPIRED = "expired"
    """410 for lists and watches; watches that are open get an ERROR event with 410 and end."""
    LOSE = "lose"
    """Writes are carried out, and the connection is closed without an answer."""


CODES = {
    Trouble.THROTTLE: (429, "TooManyRequests", "chaos: too many requests"),
    Trouble.ERROR: (500, "InternalError", "chaos: an error on the server"),
    Trouble.UNAVAILABLE: (503, "ServiceUnavailable", "chaos: no server is there"),
    Trouble.FORBIDDEN: (403, "Forbidden", "chaos: no role allows this"),
    Trouble.EXPIRED: (410, "Expired", "chaos: too old resource version"),
}


class Gateway:
    """Forwards to ``url``. ``version`` replaces the answer to /version. ``trouble`` may be set at any time."""

    def __init__(
        self,
        url: str,
        *,
        authority: Path,
        folder: Path,
        rng: random.Random | None = None,
        share: float = SHARE,
        version: dict[str, Any] | None = None,
    ) -> None:
        self._url = url
        self._upstream = ssl.create_default_context(cafile=str(authority))
        self._folder = folder
        self._rng = rng or random.Random()
        self._share = share
        self._version = version
        self._trouble = Trouble.NONE
        self._watches: set[web.StreamResponse] = set()
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.ServerRunner | None = None
        self.answered: dict[Trouble, int] = dict.fromkeys(Trouble, 0)
        """How many requests each trouble has met."""

    @property
    def authority(self) -> Path:
        """The certificate of its authority."""
        return self._folder / "gateway-ca.crt"

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._runner is not None
        address = self._runner.addresses[0]
        return int(address[1])

    async def start(self) -> None:
        """Listen on a port of its own, with a fresh certificate."""
        self._folder.mkdir(parents=True, exist_ok=True)
        pair = pki.KeyPair(self._folder / "gateway.crt", self._folder / "gateway.key")
        pki.Authority(self._folder, "gateway-ca").server(pair, addresses=[ADDRESS])
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        connector = aiohttp.TCPConnector(ssl=self._upstream, limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, ADDRESS, 0, ssl_context=context).start()

    async def stop(self) -> None:
        """Close everything."""
        assert self._runner is not None
        assert self._session is not None
        await self._runner.cleanup()
        await self._session.close()

    async def set(self, trouble: Trouble) -> None:
        """From now on."""
        self._trouble = trouble
        if trouble is Trouble.EXPIRED:
            for watch in tuple(self._watches):
                code, reason, message = CODES[trouble]
                event = {"type": "ERROR", "object": _status(code, reason, message)}
                try:
                    await watch.write(json.dumps(event).encode() + b"\n")
                    await watch.write_eof()
                except (ConnectionError, RuntimeError):
                    continue  # it ended at the same moment

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        trouble = self._trouble
        hit = trouble is not Trouble.NONE and self._rng.random() < self._share
        if hit and trouble in CODES and (trouble is not Trouble.EXPIRED or _reads_many(request)):
            self.answered[trouble] += 1
            code, reason, message = CODES[trouble]
            headers = {"Retry-After": "1"} if code == 429 else {}
            return web.json_response(_status(code, reason, message), status=code, headers=headers)
        if self._version is not None and request.path == "/version":
            return web.json_response(self._version)
        body = await request.read()
        headers = {key: value for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP}
        assert self._session is not None
        try:
            async with self._session.request(
                request.method,
                yarl.URL(self._url + request.raw_path, encoded=True),
                data=body,
                headers=headers,
            ) as answer:
                if hit and trouble is Trouble.LOSE and request.method in WRITES:
                    await answer.read()
                    self.answered[trouble] += 1
                    return _hang_up(request)
                return await self._pass_on(request, answer)
        except (aiohttp.ClientError, OSError):
            return _hang_up(request)

    async def _pass_on(self, request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {key: value for key, value in answer.headers.items() if key.lower() not in HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        is_watch = "watch" in request.query
        await response.prepare(request)
        if is_watch:
            self._watches.add(response)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        except (ConnectionError, RuntimeError):  # the client went, or an ERROR event ended the watch
            pass
        except (aiohttp.ClientError, OSError):  # the server went: so must this connection
            _hang_up(request)
        finally:
            self._watches.discard(response)
        return response


def _reads_many(request: web.BaseRequest) -> bool:
    return request.method == "GET" and request.path.endswith("/jobs")


def _hang_up(request: web.BaseRequest) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=502)


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "metadata": {},
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }
