"""A small JSON client for one API server: what the lab itself needs, at a tenth of a full client's start-up time."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import urllib3
import yaml

from hack.lab.pki import KeyPair

JSON = dict[str, Any]
APPLY = "application/apply-patch+yaml"


class ApiError(RuntimeError):
    """A request was refused, or not answered (code 0)."""

    def __init__(self, request: str, code: int, message: str) -> None:
        super().__init__(f"{request}: {code} {message}")
        self.code = code


class Api:
    """Requests to `url`, verified with the authority's certificate, identified by a client certificate."""

    def __init__(self, url: str, *, authority: Path, identity: KeyPair) -> None:
        context = ssl.create_default_context(cafile=str(authority))
        context.load_cert_chain(identity.certificate, identity.key)
        self.url = url
        self._pool = urllib3.PoolManager(ssl_context=context, maxsize=4, retries=False, timeout=30.0)
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    def is_healthy(self, path: str = "/readyz") -> bool:
        """Whether a GET there answers 200."""
        try:
            return self._pool.request("GET", self.url + path, timeout=2.0).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def get(self, path: str) -> JSON:
        """The object or list at `path`."""
        return self._request("GET", path)

    def text(self, path: str) -> str:
        """A plain answer, such as that of /metrics."""
        try:
            response = self._pool.request("GET", self.url + path)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"GET {self.url}{path}", 0, f"no answer: {error}") from error
        if response.status != 200:
            raise ApiError(f"GET {path}", response.status, response.data.decode(errors="replace")[:500])
        return response.data.decode()

    def create(self, path: str, body: Mapping[str, Any]) -> JSON:
        """What the server made of `body`."""
        return self._request("POST", path, body)

    def delete(self, path: str, *, grace: int | None = None, propagation: str = "Background") -> JSON:
        """Deletes the object at `path`; `grace` in seconds, None for the object's own."""
        options: JSON = {"propagationPolicy": propagation}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        return self._request("DELETE", path, options)

    def apply(self, manifest: Mapping[str, Any]) -> JSON:
        """Server-side apply of one object of any kind that the server knows."""
        metadata = manifest["metadata"]
        prefix, plural, namespaced = self._resource(manifest["apiVersion"], manifest["kind"])
        namespace = f"/namespaces/{metadata.get('namespace', 'default')}" if namespaced else ""
        path = f"{prefix}{namespace}/{plural}/{metadata['name']}?fieldManager=lab&force=true"
        return self._request("PATCH", path, manifest, content_type=APPLY)

    def _resource(self, api_version: str, kind: str) -> tuple[str, str, bool]:
        prefix = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        if kind not in self._kinds.get(prefix, {}):
            found = self.get(prefix)["resources"]
            self._kinds[prefix] = {
                entry["kind"]: (entry["name"], entry["namespaced"])
                for entry in found
                if "/" not in entry["name"]
            }
        plural, namespaced = self._kinds[prefix][kind]
        return prefix, plural, namespaced

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        content_type: str = "application/json",
    ) -> JSON:
        data = None if body is None else json.dumps(body).encode()
        headers = {
            "Content-Type": content_type,
            "Accept": "application/json",
            "User-Agent": "job-dispatcher-lab",
        }
        try:
            response = self._pool.request(method, self.url + path, body=data, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise ApiError(f"{method} {self.url}{path}", 0, f"no answer: {error}") from error
        if response.status >= 300:
            try:
                message = json.loads(response.data)["message"]
            except (ValueError, KeyError, TypeError):
                message = response.data.decode(errors="replace")[:500]
            raise ApiError(f"{method} {path}", response.status, message)
        answer: JSON = json.loads(response.data)
        return answer


def write_kubeconfig(
    path: Path,
    *,
    name: str,
    url: str,
    authority: Path,
    identity: KeyPair | None = None,
    token: str | None = None,
) -> None:
    """A kubeconfig with everything inline, readable by its owner only. `name` is its context."""
    text = yaml.safe_dump(
        kubeconfig(name=name, url=url, authority=authority, identity=identity, token=token), sort_keys=False
    )
    path.touch(mode=0o600)
    path.write_text(text)


def kubeconfig(
    *, name: str, url: str, authority: Path, identity: KeyPair | None = None, token: str | None = None
) -> JSON:
    """The content of a kubeconfig for a client certificate or a token."""
    user: dict[str, str] = {}
    if identity is not None:
        user = {
            "client-certificate-data": _base64(identity.certificate),
            "client-key-data": _base64(identity.key),
        }
    if token is not None:
        user["token"] = token
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": name, "cluster": {"server": url, "certificate-authority-data": _base64(authority)}}
        ],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
