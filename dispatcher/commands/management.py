"""The management cluster as a command reaches it: by the user's own kubeconfig, in raw JSON."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

_TIMEOUTS: Final = (10.0, 60.0)
"""Seconds to connect, and to wait for an answer."""
_PAGE: Final = 500
"""Objects that a list asks for at once, as many as kubectl does."""

Manifest = dict[str, Any]
_Command = TypeVar("_Command", bound=Callable[..., Any])


class ClusterSaysNo(click.ClickException):
    """The management cluster cannot be reached, or refuses; exit code 1."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        """``status``: the HTTP status of the answer, 0 when there was none."""
        super().__init__(message)
        self.status = status


def connection_options(command: _Command) -> _Command:
    """The options ``--kubeconfig`` and ``--context`` of a verb that talks to the management cluster."""
    command = click.option("--context", metavar="NAME", help="Context of the kubeconfig.")(command)
    return click.option(
        "--kubeconfig",
        metavar="FILE",
        help="Kubeconfig of the management cluster (default: $KUBECONFIG, then ~/.kube/config).",
    )(command)


class ManagementCluster:
    """A connection with the rights of the user's kubeconfig."""

    def __init__(self, *, kubeconfig: str | None = None, context: str | None = None) -> None:
        """Read the kubeconfig; nothing is sent yet.

        Raises:
            ClusterSaysNo: there is none, it is malformed, or it has no such context.
        """
        # Imports that take longer than all the rest; help and wrong usage do not wait for them.
        import yaml
        from kubernetes import client, config
        from kubernetes.config import kube_config

        # The library is untyped; one Any instead of an ignore on each call.
        library: Any = kube_config
        configuration: Any = client.Configuration()
        # A refused connection is said at once; by default it is tried four times, with a warning for each.
        configuration.retries = False
        try:
            merged = library.KubeConfigMerger(kubeconfig or library.KUBE_CONFIG_DEFAULT_LOCATION).config
            if merged is None:
                missing = f"{kubeconfig} is missing" if kubeconfig else "there is no kubeconfig"
                raise ClusterSaysNo(f"{missing}; give --kubeconfig FILE or set KUBECONFIG")
            loader = library.KubeConfigLoader(
                config_dict=merged, active_context=context, config_base_path=None
            )
            loader.load_and_set(configuration)
            self.namespace: str = loader.current_context["context"].get("namespace") or "default"
            """The context's namespace."""
        except (
            *(config.ConfigException, yaml.YAMLError, OSError),
            # Values of a wrong type, which the library does not look for.
            *(ValueError, TypeError, KeyError, AttributeError),
        ) as error:
            raise ClusterSaysNo(f"the kubeconfig cannot be used: {_in_one_line(error)}") from None
        self._host: str = configuration.host
        self._client: Any = client.ApiClient(configuration)

    def get(self, path: str, parameters: Mapping[str, str | int] | None = None) -> Manifest:
        """GET a path of the API; the answer as it came.

        Raises:
            ClusterSaysNo: no answer, or an error, with the API server's own message.
        """
        from kubernetes.client import rest

        library: Any = rest
        # It lets errors through of the one that it is built on.
        connection_errors = (library.ApiException, library.urllib3.exceptions.HTTPError)
        request = self._client.param_serialize(
            "GET",
            path,
            query_params=list((parameters or {}).items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
        )
        try:
            response = self._client.call_api(*request, _request_timeout=_TIMEOUTS)
            body = response.read()
        except connection_errors as error:
            raise ClusterSaysNo(f"{self._host} cannot be reached: {_cause(error)}") from None
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ClusterSaysNo(
                f"{self._host} answers {response.status}, but no JSON object; is it a Kubernetes API server?",
                status=response.status,
            )
        if not 200 <= response.status < 300:
            message = answer.get("message") or answer.get("reason") or "no message"
            raise ClusterSaysNo(f"{message} ({response.status})", status=response.status)
        return answer

    def get_all(self, path: str, parameters: Mapping[str, str | int] | None = None) -> list[Manifest]:
        """GET all pages of a list; the items, which do not name their own kind.

        Raises:
            ClusterSaysNo: as for :meth:`get`.
        """
        items: list[Manifest] = []
        position: dict[str, str | int] = {"limit": _PAGE}
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
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return items
            position = {"limit": _PAGE, "continue": following}


def _cause(error: object) -> str:
    """The innermost reason: urllib3 wraps a refused connection in text about pools and retries."""
    while True:
        inner = getattr(error, "reason", None) or next(reversed(getattr(error, "args", ())), None)
        if not isinstance(inner, Exception):
            return _in_one_line(inner if isinstance(inner, str) else error)
        error = inner


def _in_one_line(text: object) -> str:
    return " ".join(str(text).split())
