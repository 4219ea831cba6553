"""The HTTP endpoints of the process: /metrics, /healthz, /readyz, /debug/state."""

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dispatcher.operator.metrics_access import Verdict

Check = Callable[[], str]
"""Why it is not so; empty when it is."""


def split_address(address: str) -> tuple[str, int]:
    """``host:port``, ``:port`` or ``[v6]:port``. Raises ValueError for anything else."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port")
    return host.strip("[]") or "0.0.0.0", int(port)


class ServingCertificate:
    """A certificate and its key, in files that may be renewed under way (as those of a mounted Secret are)."""

    def __init__(self, certificate: str, key: str) -> None:
        """Raises OSError or ssl.SSLError for files that cannot be used."""
        self._files = certificate, key
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._loaded = self._times()
        self.context.load_cert_chain(*self._files)

    def refresh(self) -> None:
        """Take a renewed certificate for the connections to come; while it is half written, keep the old one."""
        try:
            times = self._times()
            if times != self._loaded:
                self.context.load_cert_chain(*self._files)
                self._loaded = times
        except (OSError, ssl.SSLError):
            return

    def _times(self) -> tuple[int, ...]:
        return tuple(Path(name).stat().st_mtime_ns for name in self._files)


async def serve(
    address: str,
    *,
    healthy: Check,
    ready: Check,
    refresh: Callable[[], Awaitable[None]] | None = None,
    debug: Callable[[], dict[str, Any]] | None = None,
    access: Callable[[str | None], Awaitable[Verdict]] | None = None,
    certificate: ServingCertificate | None = None,
) -> web.AppRunner:
    """Serve on ``host:port``. Raises OSError where the address cannot be had.

    ``refresh`` is called before the metrics are read. ``debug`` gives the JSON of /debug/state. ``access`` judges a
    request for /metrics or /debug/state by its ``Authorization`` header; None lets everybody in.
    """

    async def refused(request: web.Request) -> web.Response | None:
        if access is None:
            return None
        verdict = await access(request.headers.get("Authorization"))
        if verdict.status == 200:
            return None
        headers = {"WWW-Authenticate": "Bearer"} if verdict.status == 401 else None
        return web.Response(status=verdict.status, text=verdict.message, headers=headers)

    async def metrics(request: web.Request) -> web.Response:
        if (refusal := await refused(request)) is not None:
            return refusal
        if refresh is not None:
            await refresh()
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def state(request: web.Request) -> web.Response:
        if (refusal := await refused(request)) is not None:
            return refusal
        if refresh is not None:
            await refresh()
        return web.json_response(debug() if debug is not None else {})

    def answer(check: Check) -> Callable[[web.Request], object]:
        async def handler(_request: web.Request) -> web.Response:
            if certificate is not None:
                certificate.refresh()  # the probes come every few seconds
            fault = check()
            return web.Response(status=503 if fault else 200, text=fault or "ok")

        return handler

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_get("/debug/state", state)
    app.router.add_get("/healthz", answer(healthy))  # type: ignore[arg-type]
    app.router.add_get("/readyz", answer(ready))  # type: ignore[arg-type]
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    host, port = split_address(address)
    context = certificate.context if certificate is not None else None
    await web.TCPSite(runner, host, port, ssl_context=context).start()
    return runner
