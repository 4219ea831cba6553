"""An API server as a command reaches it: with the identity of a kubeconfig, in raw JSON."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import click

from dispatcher import __version__
from dispatcher.commands.kubeconfigs import Identity, read_identity
from dispatcher.commands.refusals import ClusterSaysNo, Manifest, refusal

CONNECT_SECONDS: Final = 10.0
ANSWER_SECONDS: Final = 60.0
PAGE: Final = 500
"""Objects that a list asks for at once, as many as kubectl does."""

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

Parameters = Mapping[str, str | int | Sequence[str]]


class Listed(NamedTuple):
    """All items of a list (which do not name their own kind), and the resourceVersion to watch from."""

    items: list[Manifest]
    resource_version: str


class Connection:
    """Requests with the rights of a kubeconfig. The file is read, and a server asked, when first needed.

    Every request raises ClusterSaysNo when there is no answer, or an error, with the API server's own message.
    May be used by several threads.
    """

    def __init__(
        self,
        *,
        kubeconfig: str | None = None,
        context: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """``request_timeout``: seconds that an answer may take, 0 for any; None for the default."""
        self._kubeconfig = kubeconfig
        self._context = context
        self._timeout = request_timeout

    @functools.cached_property
    def _identity(self) -> Identity:
        return read_identity(kubeconfig=self._kubeconfig, context=self._context)

    @functools.cached_property
    def _pool(self) -> Any:
        from kubernetes.client import rest

        # The library's own reading of certificates, proxies and server names.
        library: Any = rest
        try:
            return library.RESTClientObject(self._identity.configuration).pool_manager
        except (OSError, ValueError) as error:
            raise ClusterSaysNo(f"the kubeconfig cannot be used: {in_one_line(error)}") from None

    @property
    def context_namespace(self) -> str:
        """The namespace of the kubeconfig's context."""
        return self._identity.namespace

    @property
    def server(self) -> str:
        """The API server's address."""
        host: str = self._identity.configuration.host
        return host

    def get(self, path: str, parameters: Parameters | None = None) -> Manifest:
        """GET a path of the API; the answer as it came."""
        return self.request("GET", path, parameters=parameters)

    def find(self, path: str, parameters: Parameters | None = None) -> Manifest | None:
        """GET one object; None when there is none, or nobody serves such objects."""
        try:
            return self.get(path, parameters)
        except ClusterSaysNo as error:
            if error.status != 404:
                raise
            return None

    def get_all(self, path: str, parameters: Parameters | None = None) -> list[Manifest]:
        """GET all pages of a list; the items, which do not name their own kind."""
        return self.list(path, parameters).items

    def list(self, path: str, parameters: Parameters | None = None) -> Listed:
        """GET all pages of a list."""
        items: list[Manifest] = []
        position: dict[str, str | int] = {"limit": PAGE}
        while True:
            try:
                page = self.get(path, {**(parameters or {}), **position})
            except ClusterSaysNo as error:
                if error.status != 410 or not items:
                    raise
                # The list is so long that its beginning expired: once more, in one piece.
                items, position = [], {}
                continue
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return Listed(items, metadata.get("resourceVersion") or "")
            position = {"limit": PAGE, "continue": metadata["continue"]}

    def create(self, path: str, body: Manifest, *, parameters: Parameters | None = None) -> Manifest:
        """POST an object to the path of its list; what the server made of it."""
        return self.request("POST", path, body=body, parameters=parameters)

    def patch(
        self,
        path: str,
        body: Manifest | Sequence[Manifest],
        *,
        content_type: str = MERGE_PATCH,
        parameters: Parameters | None = None,
    ) -> Manifest:
        """PATCH an object."""
        return self.request("PATCH", path, body=body, content_type=content_type, parameters=parameters)

    def apply(self, path: str, body: Manifest, *, force: bool = True) -> Manifest:
        """Server-side apply of an object, with our own field manager."""
        parameters = {"fieldManager": "kubectl-dispatch", "force": "true" if force else "false"}
        return self.patch(path, body, content_type=APPLY_PATCH, parameters=parameters)

    def delete(self, path: str, *, options: Manifest | None = None) -> Manifest:
        """DELETE an object; ``options``: DeleteOptions."""
        return self.request("DELETE", path, body=options)

    def request(
        self,
        method: str,
        path: str,
        *,
        parameters: Parameters | None = None,
        body: Manifest | Sequence[Manifest] | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        """One request with a JSON answer. Warnings of the API server go to standard error."""
        import orjson
        import urllib3

        response = self._send(method, path, parameters, body=body, content_type=content_type)
        try:
            data = response.read(decode_content=True)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None
        finally:
            response.release_conn()
        try:
            answer = orjson.loads(data)
        except ValueError:
            answer = None
        if not 200 <= response.status < 300:
            status = answer if isinstance(answer, dict) else self._foreign(response.status, data)
            raise refusal(response.status, status, method=method, path=path, parameters=parameters)
        if not isinstance(answer, dict):
            raise ClusterSaysNo(self._foreign(response.status, data)["message"], status=response.status)
        _show_warnings(response)
        return answer

    @contextlib.contextmanager
    def stream(
        self, path: str, parameters: Parameters | None = None, *, timeout: float | None = None
    ) -> Iterator[Iterator[bytes]]:
        """GET a path whose answer goes on (a watch, a log): blocks of bytes as they come, decoded.

        ``timeout``: seconds without any byte after which ClusterSaysNo is raised; None for none.
        The connection is closed at the end of the context.
        """
        import orjson

        response = self._send("GET", path, parameters, timeout=timeout or 0.0)
        try:
            if response.status != 200:
                data = response.read(decode_content=True)
                try:
                    answer = orjson.loads(data)
                except ValueError:
                    answer = None
                status = answer if isinstance(answer, dict) else self._foreign(response.status, data)
                raise refusal(response.status, status, method="GET", path=path, parameters=parameters)
            yield self._blocks(response)
        finally:
            response.close()

    def _blocks(self, response: Any) -> Iterator[bytes]:
        import urllib3

        try:
            # read1: what is there, without waiting until a block is full.
            while block := response.read1(1 << 16, decode_content=True):
                yield block
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None

    def _send(
        self,
        method: str,
        path: str,
        parameters: Parameters | None,
        *,
        body: Manifest | Sequence[Manifest] | None = None,
        content_type: str = "application/json",
        timeout: float | None = None,
    ) -> Any:
        import orjson
        import urllib3

        answer_seconds = self._timeout if timeout is None else timeout
        if answer_seconds is None:
            answer_seconds = ANSWER_SECONDS
        headers = urllib3.HTTPHeaderDict(
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": f"kubectl-dispatch/{__version__}",
            }
        )
        if body is not None:
            headers["Content-Type"] = content_type
        for name, value in self._identity.impersonation:
            headers.add(name, value)
        # Asked for at each request: a token of a plugin is renewed when it has expired.
        for setting in self._identity.configuration.auth_settings().values():
            if setting.get("value"):
                headers[setting["key"]] = setting["value"]
        url = self.server + path + (f"?{urlencode(parameters, doseq=True)}" if parameters else "")
        try:
            return self._pool.request(
                method,
                url,
                body=None if body is None else orjson.dumps(body),
                headers=headers,
                timeout=urllib3.Timeout(
                    connect=min(CONNECT_SECONDS, answer_seconds or CONNECT_SECONDS),
                    read=answer_seconds or None,
                ),
                preload_content=False,
            )
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(error) from None

    def _unreachable(self, error: Exception) -> ClusterSaysNo:
        return ClusterSaysNo(f"{self.server} cannot be reached: {_cause(error)}")

    def _foreign(self, status: int, data: bytes) -> Manifest:
        """An answer that is no JSON object, as a Status."""
        if status == 404 and data.startswith(b"404 page not found"):
            return {"reason": "NotFound", "message": "the server could not find the requested resource"}
        message = f"{self.server} answers {status}, but no JSON object; is it a Kubernetes API server?"
        return {"message": message}


def resource_path(
    api_version: str, resource: str, *, namespace: str | None = None, name: str | None = None, sub: str = ""
) -> str:
    """The path of a list or, with ``name``, of an object; ``sub`` is a subresource."""
    prefix = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
    parts = ["namespaces", quote(namespace, "")] if namespace else []
    parts += [resource, *([quote(name, "")] if name else []), *([sub] if sub else [])]
    return "/".join([prefix, *parts])


def in_one_line(text: object) -> str:
    """A text of any form without line breaks."""
    return " ".join(str(text).split())


def _show_warnings(response: Any) -> None:
    for header in response.headers.getlist("Warning"):
        # RFC 9111: 299 - "text"
        text = header.split('"', 1)[-1].rsplit('"', 1)[0]
        click.echo(f"Warning: {text}", err=True)


def _cause(error: object) -> str:
    """The innermost reason: urllib3 wraps a refused connection in text about pools and retries."""
    while True:
        inner = getattr(error, "reason", None) or next(reversed(getattr(error, "args", ())), None)
        if not isinstance(inner, Exception):
            return in_one_line(inner if isinstance(inner, str) else error)
        error = inner
