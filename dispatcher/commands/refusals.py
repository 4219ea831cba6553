"""How a command says that the cluster said no: in kubectl's form, with the right that is missing."""

import re
from collections.abc import Mapping
from typing import IO, Any, Final
from urllib.parse import unquote

import click

Manifest = dict[str, Any]

_PATH: Final = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/[^/]+"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<subresource>.+))?)?"
)
_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


class ClusterSaysNo(click.ClickException):
    """A cluster cannot be reached, or refuses, or has not what was asked for; exit code 1."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "") -> None:
        """``status``: the HTTP status of the answer, 0 when there was none. ``reason``: the Status' own."""
        super().__init__(message)
        self.status = status
        self.reason = reason

    def show(self, file: IO[Any] | None = None) -> None:
        """Print as kubectl does."""
        click.echo(self.in_kubectls_form(), file=file, err=file is None)

    def in_kubectls_form(self) -> str:
        """The message with kubectl's beginning."""
        if self.status and self.reason:
            return f"Error from server ({self.reason}): {self.message}"
        return f"Error from server: {self.message}" if self.status else f"error: {self.message}"


class WrongInput(click.ClickException):
    """A file or an argument that cannot be used, seen before anything was sent; exit code 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print as kubectl does."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


def refusal(
    status: int, answer: Manifest, *, method: str, path: str, parameters: Mapping[str, object] | None = None
) -> ClusterSaysNo:
    """What an error answer means. ``answer``: the Status object that the API server sent."""
    message = str(answer.get("message") or answer.get("reason") or f"the server answers {status}")
    # Only authorizers speak so; quotas and admission answer 403 too.
    if status == 403 and " cannot " in message:
        rule = missing_rule(method, path, parameters or {})
        message += f"\nMissing: {rule}" if rule else ""
    return ClusterSaysNo(message, status=status, reason=str(answer.get("reason") or ""))


def missing_rule(method: str, path: str, parameters: Mapping[str, object]) -> str:
    """The RBAC rule that would allow a request, and where it belongs; empty for what is no resource."""
    found = _PATH.fullmatch(path)
    if found is None:
        return ""
    group, namespace, resource, name, subresource = (
        unquote(found[key] or "") for key in ("group", "namespace", "resource", "name", "subresource")
    )
    if resource == "namespaces" and not namespace:
        # The path of one Namespace looks like that of something in it.
        namespace = ""
    verb = _VERBS.get(method) or ("delete" if method == "DELETE" else "get")
    if not name and method == "DELETE":
        verb = "deletecollection"
    if not name and method == "GET":
        verb = "watch" if parameters.get("watch") else "list"
    if subresource:
        resource = f"{resource}/{subresource.split('/')[0]}"
    where = f"in a Role of namespace {namespace}" if namespace else "in a ClusterRole"
    return f'a rule {{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}} {where}'
