"""The credentials that kopf gets are those that our own client uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.config import incluster_config

from dispatcher.clusters.kubeconfig import load_in_cluster
from dispatcher.operator.management import connection_info
from tests.protocol.certificates import Authority


@pytest.mark.parametrize(
    ("key", "scheme", "token"), [("Bearer abc.d", "Bearer", "abc.d"), ("bearer abc.d", "Bearer", "abc.d")]
)
def test_a_token_is_handed_on_without_its_scheme(key: str, scheme: str, token: str) -> None:
    class Configuration:
        host, ssl_ca_cert, ca_cert_data, verify_ssl = "https://10.0.0.1", "/ca.crt", None, True
        cert_file = key_file = None
        api_key = {"BearerToken": key}  # noqa: RUF012

    found = connection_info(Configuration())  # type: ignore[arg-type]
    assert (found.scheme, found.token) == (scheme, token)


def test_the_account_of_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client makes of a token file: its form is the client's, and changes with it."""
    files: dict[str, Any] = {"SERVICE_TOKEN_FILENAME": "pod-token", "SERVICE_CERT_FILENAME": Authority().pem}
    for name, content in files.items():
        path = tmp_path / name
        path.write_text(content)
        monkeypatch.setattr(incluster_config, name, str(path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    found = connection_info(load_in_cluster())
    assert (found.server, found.scheme, found.token) == ("https://10.0.0.1:443", "Bearer", "pod-token")
