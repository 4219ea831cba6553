"""Kubeconfigs: a worker's, which is foreign input and checked strictly, and our own, which is trusted.

A worker's kubeconfig comes from a Secret that others may write. It must not make this process run a program, read
a file of its own file system, skip TLS verification or act as somebody else; so everything is inline or refused,
each refusal with its reason.
"""

import base64
import binascii
import dataclasses
import os
import ssl
import time
import urllib.parse
from pathlib import Path
from typing import Any, Final

import yaml
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.configuration import Configuration


class KubeconfigError(Exception):
    """A kubeconfig that can not be used. ``reason``: PascalCase; ``message``: what to do, without any secret."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """What is needed to reach one API server; all text is PEM or plain, nothing is a file name."""

    server: str
    """``https://host[:port][/path]``, without a trailing slash."""
    ca_data: str | None = None
    """PEM; None: the system's certificate authorities."""
    client_certificate: str | None = None
    client_key: str | None = dataclasses.field(default=None, repr=False)
    token: str | None = dataclasses.field(default=None, repr=False)
    tls_server_name: str | None = None
    proxy_url: str | None = dataclasses.field(default=None, repr=False)
    insecure: bool = False
    """The server's certificate is not checked."""


_INLINE: Final = (
    "put its content, base64-encoded, into {data} (`kubectl config view --raw --flatten` does it)"
)
_TOKEN_HINT: Final = (
    "use a token or a client certificate (a ServiceAccount of the worker cluster is a good choice)"
)

_REFUSED_USER_FIELDS: Final = {
    "exec": ("ExecPluginRefused", f"exec plugins are not run here: {_TOKEN_HINT}"),
    "auth-provider": ("AuthProviderRefused", f"auth-provider plugins are not run here: {_TOKEN_HINT}"),
    "tokenFile": ("TokenFileRefused", "tokenFile is not read: put the token itself into token"),
    "client-certificate": (
        "ClientCertificateFileRefused",
        "client-certificate names a file, which is not read: "
        + _INLINE.format(data="client-certificate-data"),
    ),
    "client-key": (
        "ClientKeyFileRefused",
        "client-key names a file, which is not read: " + _INLINE.format(data="client-key-data"),
    ),
    "username": (
        "BasicAuthRefused",
        f"username and password are no credentials of Kubernetes any more: {_TOKEN_HINT}",
    ),
    "password": (
        "BasicAuthRefused",
        f"username and password are no credentials of Kubernetes any more: {_TOKEN_HINT}",
    ),
    "as": (
        "ImpersonationRefused",
        "impersonation (as) is not used: give the credentials of the account itself",
    ),
    "as-uid": (
        "ImpersonationRefused",
        "impersonation (as-uid) is not used: give the credentials of the account itself",
    ),
    "as-groups": (
        "ImpersonationRefused",
        "impersonation (as-groups) is not used: give the account its own groups",
    ),
    "as-user-extra": ("ImpersonationRefused", "impersonation (as-user-extra) is not used: leave it out"),
}


def parse_kubeconfig(data: bytes | str, *, allow_insecure: bool = False) -> Credentials:
    """Check a worker's kubeconfig and take the credentials of its current context.

    Reads no file and runs nothing. ``allow_insecure``: accept ``insecure-skip-tls-verify: true``.

    :raises KubeconfigError: with a reason of its own for each thing that is refused.
    """
    root = _load(data)
    cluster, user = _current(root)
    for field, (reason, message) in _REFUSED_USER_FIELDS.items():
        if user.get(field):
            raise KubeconfigError(reason, message)
    insecure = cluster.get("insecure-skip-tls-verify") is True
    if insecure and not allow_insecure:
        raise KubeconfigError(
            "InsecureSkipTLSVerifyRefused",
            "insecure-skip-tls-verify is refused: put the cluster's CA into certificate-authority-data",
        )
    certificate = _pem(user, "client-certificate-data", "CERTIFICATE-----", "ClientCertificateDataInvalid")
    key = _pem(user, "client-key-data", "PRIVATE KEY-----", "ClientKeyDataInvalid")
    token = _token(user)
    if certificate and not key:
        raise KubeconfigError(
            "ClientKeyMissing", "client-certificate-data needs its key: add client-key-data"
        )
    if key and not certificate:
        raise KubeconfigError("ClientCertificateMissing", "client-key-data needs its client-certificate-data")
    if key and "ENCRYPTED" in key:
        raise KubeconfigError(
            "ClientKeyEncrypted", "client-key-data is protected by a password: give it without one"
        )
    if not certificate and not token:
        raise KubeconfigError(
            "CredentialsMissing", f"the user of the current context has no credentials: {_TOKEN_HINT}"
        )
    return Credentials(
        server=_server(cluster),
        ca_data=None if insecure else _ca(cluster),
        client_certificate=certificate,
        client_key=key,
        token=token,
        tls_server_name=_text(cluster, "tls-server-name"),
        proxy_url=_proxy(cluster),
        insecure=insecure,
    )


async def load_kubeconfig_file(path: str | Path, *, context: str | None = None) -> Configuration:
    """The management side's ``--kubeconfig FILE``, trusted: files, exec plugins and all else are allowed in it.

    Tokens of plugins and token files are loaded again each minute.

    :raises KubeconfigError: the file is missing or can not be used.
    """
    if not os.path.isfile(path):  # noqa: ASYNC240 - once, at the start of the process
        raise KubeconfigError("KubeconfigNotFound", f"there is no file {path}: give the path of a kubeconfig")
    configuration = Configuration()
    try:
        loader = await kubernetes_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(path), context=context, client_configuration=configuration, persist_config=False
        )
    except Exception as error:
        # The loader raises whatever its parts raise; its own messages name fields, never their values.
        detail = str(error) if isinstance(error, kubernetes_config.ConfigException) else type(error).__name__
        raise KubeconfigError(
            "KubeconfigUnusable", f"{path} can not be used as a kubeconfig: {detail}"
        ) from error
    due = time.monotonic() + _RELOAD_SECONDS

    async def reload(target: Configuration) -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + _RELOAD_SECONDS
            await loader.load_and_set(target)

    # The client's annotation knows only the default, None.
    configuration.refresh_api_key_hook = reload  # type: ignore[assignment]
    return configuration


def load_in_cluster() -> Configuration:
    """The account of the Pod this process runs in; its token is read again each minute.

    :raises KubeconfigError: this is no Pod, or it has no token.
    """
    configuration = Configuration()
    try:
        kubernetes_config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except kubernetes_config.ConfigException as error:
        raise KubeconfigError(
            "NotInCluster", f"no in-cluster account ({error}): outside a cluster give --kubeconfig FILE"
        ) from error
    return configuration


_RELOAD_SECONDS: Final = 60.0


def _load(data: bytes | str) -> dict[str, Any]:
    try:
        root = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        # The parser's own message quotes the text around the error, which may be a key.
        raise KubeconfigError("KubeconfigNotYAML", "the kubeconfig is not valid YAML") from None
    if not isinstance(root, dict) or root.get("kind", "Config") != "Config" or "clusters" not in root:
        raise KubeconfigError(
            "NotAKubeconfig", "the data is no kubeconfig (kind: Config with clusters, contexts, users)"
        )
    return root


def _current(root: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The cluster and the user of the current context."""
    name = root.get("current-context")
    if not isinstance(name, str) or not name:
        raise KubeconfigError(
            "CurrentContextMissing", "set current-context (`kubectl config use-context NAME`)"
        )
    context = _named(root, "contexts", "context", name)
    if context is None:
        raise KubeconfigError("ContextUnknown", "current-context names a context that is not in contexts")
    cluster = _named(root, "clusters", "cluster", context.get("cluster"))
    if cluster is None:
        raise KubeconfigError("ClusterUnknown", "the current context names a cluster that is not in clusters")
    user = _named(root, "users", "user", context.get("user"))
    if user is None:
        raise KubeconfigError("UserUnknown", "the current context names a user that is not in users")
    return cluster, user


def _named(root: dict[str, Any], field: str, inner: str, name: object) -> dict[str, Any] | None:
    entries = root.get(field)
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise KubeconfigError("NotAKubeconfig", f"{field} must be a list of named entries")
    for entry in entries:
        if entry.get("name") == name:
            value = entry.get(inner) or {}
            if not isinstance(value, dict):
                raise KubeconfigError("NotAKubeconfig", f"{field}: {inner} must be a mapping")
            return value
    return None


def _text(source: dict[str, Any], field: str) -> str | None:
    value = source.get(field)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise KubeconfigError("NotAKubeconfig", f"{field} must be a string: put it in quotes")
    return value


def _server(cluster: dict[str, Any]) -> str:
    server = _text(cluster, "server")
    if server is None:
        raise KubeconfigError("ServerMissing", "the cluster has no server: give its https:// URL")
    try:
        url = urllib.parse.urlsplit(server)
        valid = (
            bool(url.hostname) and url.port != 0 and not url.username and not url.query and not url.fragment
        )
    except ValueError:
        valid = False
    if not valid or any(character.isspace() for character in server):
        raise KubeconfigError("ServerInvalid", "server must be a URL such as https://host:6443")
    if url.scheme != "https":
        raise KubeconfigError(
            "InsecureServer", "server must be an https:// URL: plain HTTP would show the credentials"
        )
    return server.rstrip("/")


def _proxy(cluster: dict[str, Any]) -> str | None:
    proxy = _text(cluster, "proxy-url")
    if proxy is not None and urllib.parse.urlsplit(proxy).scheme not in ("http", "https"):
        raise KubeconfigError("ProxyUnsupported", "proxy-url must be an http:// or https:// URL")
    return proxy


def _token(user: dict[str, Any]) -> str | None:
    token = _text(user, "token")
    if token is None:
        return None
    token = token.strip()  # a newline at the end is what `base64` of a file gives
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise KubeconfigError(
            "TokenInvalid", "token holds characters that no bearer token has: copy it again"
        )
    return token


def _ca(cluster: dict[str, Any]) -> str | None:
    if cluster.get("certificate-authority"):
        raise KubeconfigError(
            "CertificateAuthorityFileRefused",
            "certificate-authority names a file, which is not read: "
            + _INLINE.format(data="certificate-authority-data"),
        )
    reason = "CertificateAuthorityDataInvalid"
    pem = _pem(cluster, "certificate-authority-data", "CERTIFICATE-----", reason)
    if pem is None:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):
        raise KubeconfigError(
            reason, "certificate-authority-data holds no certificate that can be read"
        ) from None
    return pem


def _pem(source: dict[str, Any], field: str, marker: str, reason: str) -> str | None:
    encoded = _text(source, field)
    if encoded is None:
        return None
    try:
        pem = base64.b64decode("".join(encoded.split()), validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        raise KubeconfigError(reason, f"{field} must be PEM text, base64-encoded") from None
    if "-----BEGIN " not in pem or marker not in pem:
        raise KubeconfigError(reason, f"{field} must be PEM text (-----BEGIN …-----), base64-encoded")
    return pem
