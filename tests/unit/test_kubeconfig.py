import base64
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from dispatcher.clusters.kubeconfig import (
    Credentials,
    KubeconfigError,
    load_in_cluster,
    load_kubeconfig_file,
    parse_kubeconfig,
)
from tests.protocol.certificates import Authority

CA = Authority()
CLIENT = CA.issue("client")
TOKEN = "a-very-secret-token"
SECRETS = (TOKEN, "hunter2", CLIENT.key.splitlines()[1])


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


CLUSTER = {"server": "https://10.0.0.1:6443", "certificate-authority-data": b64(CA.pem)}
CERTIFICATE = {"client-certificate-data": b64(CLIENT.certificate), "client-key-data": b64(CLIENT.key)}


def kubeconfig(
    *, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None, **root: Any
) -> str:
    """A good kubeconfig with these changes; None removes a field."""
    whole: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "ignored"}}],
        "clusters": [{"name": "k", "cluster": _changed(CLUSTER, cluster or {})}],
        "users": [{"name": "u", "user": _changed({"token": TOKEN}, user or {})}],
        "preferences": {},
    }
    return yaml.safe_dump(_changed(whole, {key.replace("_", "-"): value for key, value in root.items()}))


def _changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (copy.deepcopy(base) | changes).items() if value is not None}


def test_a_token() -> None:
    assert parse_kubeconfig(kubeconfig()) == Credentials(
        server="https://10.0.0.1:6443", ca_data=CA.pem, token=TOKEN
    )


def test_a_client_certificate_as_bytes_with_all_that_is_allowed() -> None:
    cluster = {
        "tls-server-name": "k8s",
        "proxy-url": "http://proxy:3128",
        "server": "https://h/k8s/clusters/c-1/",
    }
    text = kubeconfig(cluster=cluster, user={"token": None} | CERTIFICATE)
    assert parse_kubeconfig(text.encode()) == Credentials(
        server="https://h/k8s/clusters/c-1",
        ca_data=CA.pem,
        client_certificate=CLIENT.certificate,
        client_key=CLIENT.key,
        tls_server_name="k8s",
        proxy_url="http://proxy:3128",
    )


def test_json_is_yaml() -> None:
    text = '{"clusters":[{"name":"k","cluster":{"server":"https://h"}}],"contexts":[{"name":"c","context":{"cluster":"k",'
    text += '"user":"u"}}],"users":[{"name":"u","user":{"token":"t"}}],"current-context":"c"}'
    assert parse_kubeconfig(text) == Credentials(server="https://h", token="t")


def test_line_breaks_around_a_token_are_no_part_of_it() -> None:
    assert parse_kubeconfig(kubeconfig(user={"token": TOKEN + "\n"})).token == TOKEN


def test_line_breaks_within_base64_are_allowed() -> None:
    data = b64(CA.pem)
    assert parse_kubeconfig(
        kubeconfig(cluster={"certificate-authority-data": f"{data[:60]}\n{data[60:]}\n"})
    ).ca_data


def test_no_ca_means_the_systems() -> None:
    assert parse_kubeconfig(kubeconfig(cluster={"certificate-authority-data": None})).ca_data is None


def test_only_the_current_context_counts() -> None:
    users = [{"name": "other", "user": {"exec": {"command": "x"}}}, {"name": "u", "user": {"token": TOKEN}}]
    assert parse_kubeconfig(kubeconfig(users=users)).token == TOKEN


def test_insecure_by_flag_only() -> None:
    text = kubeconfig(cluster={"insecure-skip-tls-verify": True, "certificate-authority-data": None})
    with pytest.raises(KubeconfigError, match="InsecureSkipTLSVerifyRefused"):
        parse_kubeconfig(text)
    assert parse_kubeconfig(text, allow_insecure=True).insecure
    assert not parse_kubeconfig(kubeconfig(cluster={"insecure-skip-tls-verify": False})).insecure


def test_secrets_are_not_shown() -> None:
    cluster = {"proxy-url": "http://user:hunter2@proxy:1"}
    shown = repr(parse_kubeconfig(kubeconfig(cluster=cluster, user=CERTIFICATE)))
    assert not any(secret in shown for secret in SECRETS)


BAD_CA = "CertificateAuthorityDataInvalid"
REFUSED = [
    ("not YAML", "{a: [", "KubeconfigNotYAML"),
    ("not text", b"\x80\xff\x00", "KubeconfigNotYAML"),
    ("YAML with a date that is none", "a: 2001-99-99", "KubeconfigNotYAML"),
    ("YAML nested without end", "[" * 5000, "KubeconfigNotYAML"),
    ("YAML with a Python object", "!!python/object/apply:os.system [id]", "KubeconfigNotYAML"),
    ("two documents", "a: 1\n---\nb: 2", "KubeconfigNotYAML"),
    ("empty", "", "NotAKubeconfig"),
    ("a string", TOKEN, "NotAKubeconfig"),
    ("another kind", "kind: Secret\nclusters: []", "NotAKubeconfig"),
    ("no clusters", "kind: Config", "NotAKubeconfig"),
    ("users that are no list", kubeconfig(users={"u": TOKEN}), "NotAKubeconfig"),
    ("a user that is no mapping", kubeconfig(users=[{"name": "u", "user": TOKEN}]), "NotAKubeconfig"),
    ("contexts of strings", kubeconfig(contexts=["c"]), "NotAKubeconfig"),
    ("a token that is a number", kubeconfig(user={"token": 12345}), "NotAKubeconfig"),
    ("no current-context", kubeconfig(current_context=None), "CurrentContextMissing"),
    ("empty current-context", kubeconfig(current_context=""), "CurrentContextMissing"),
    ("unknown context", kubeconfig(current_context="x"), "ContextUnknown"),
    ("no contexts", kubeconfig(contexts=None), "ContextUnknown"),
    ("unknown cluster", kubeconfig(clusters=[]), "ClusterUnknown"),
    ("unknown user", kubeconfig(users=[]), "UserUnknown"),
    ("exec", kubeconfig(user={"exec": {"command": "aws", "args": [TOKEN]}}), "ExecPluginRefused"),
    ("auth-provider", kubeconfig(user={"auth-provider": {"name": "gcp"}}), "AuthProviderRefused"),
    ("tokenFile", kubeconfig(user={"tokenFile": "/var/run/token"}), "TokenFileRefused"),
    (
        "client-certificate file",
        kubeconfig(user={"client-certificate": "/c"}),
        "ClientCertificateFileRefused",
    ),
    ("client-key file", kubeconfig(user={"client-key": "/k"}), "ClientKeyFileRefused"),
    ("CA file", kubeconfig(cluster={"certificate-authority": "/ca"}), "CertificateAuthorityFileRefused"),
    ("username", kubeconfig(user={"username": "admin", "password": "hunter2"}), "BasicAuthRefused"),
    ("password alone", kubeconfig(user={"password": "hunter2"}), "BasicAuthRefused"),
    ("impersonation", kubeconfig(user={"as": "root"}), "ImpersonationRefused"),
    ("impersonated groups", kubeconfig(user={"as-groups": ["system:masters"]}), "ImpersonationRefused"),
    ("http", kubeconfig(cluster={"server": "http://10.0.0.1"}), "InsecureServer"),
    ("no server", kubeconfig(cluster={"server": None}), "ServerMissing"),
    ("no URL", kubeconfig(cluster={"server": "10.0.0.1:6443"}), "ServerInvalid"),
    ("a port that is none", kubeconfig(cluster={"server": "https://h:66666"}), "ServerInvalid"),
    ("a password in the URL", kubeconfig(cluster={"server": "https://me:hunter2@h"}), "ServerInvalid"),
    ("a query in the URL", kubeconfig(cluster={"server": "https://h?x=1"}), "ServerInvalid"),
    ("a space in the URL", kubeconfig(cluster={"server": "https://h /x"}), "ServerInvalid"),
    ("insecure", kubeconfig(cluster={"insecure-skip-tls-verify": True}), "InsecureSkipTLSVerifyRefused"),
    ("socks", kubeconfig(cluster={"proxy-url": "socks5://p:1"}), "ProxyUnsupported"),
    ("a CA that is no base64", kubeconfig(cluster={"certificate-authority-data": "***"}), BAD_CA),
    ("a CA that is no PEM", kubeconfig(cluster={"certificate-authority-data": b64(TOKEN)}), BAD_CA),
    ("a CA that is a key", kubeconfig(cluster={"certificate-authority-data": b64(CLIENT.key)}), BAD_CA),
    (
        "a CA that holds nothing",
        kubeconfig(
            cluster={
                "certificate-authority-data": b64(
                    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
                )
            }
        ),
        BAD_CA,
    ),
    (
        "a certificate that is no PEM",
        kubeconfig(user=CERTIFICATE | {"client-certificate-data": b64("x")}),
        "ClientCertificateDataInvalid",
    ),
    (
        "a key that is no PEM",
        kubeconfig(user=CERTIFICATE | {"client-key-data": b64(TOKEN)}),
        "ClientKeyDataInvalid",
    ),
    (
        "a certificate for a key",
        kubeconfig(user=CERTIFICATE | {"client-key-data": b64(CA.pem)}),
        "ClientKeyDataInvalid",
    ),
    ("no key", kubeconfig(user=CERTIFICATE | {"client-key-data": None}), "ClientKeyMissing"),
    (
        "no certificate",
        kubeconfig(user=CERTIFICATE | {"client-certificate-data": None}),
        "ClientCertificateMissing",
    ),
    (
        "a key with a password",
        kubeconfig(
            user=CERTIFICATE | {"client-key-data": b64(CLIENT.key.replace("PRIVATE", "ENCRYPTED PRIVATE"))}
        ),
        "ClientKeyEncrypted",
    ),
    ("no credentials", kubeconfig(user={"token": None}), "CredentialsMissing"),
    ("a token of blanks", kubeconfig(user={"token": " \n"}), "TokenInvalid"),
    ("a token that would be two headers", kubeconfig(user={"token": f"{TOKEN}\r\nX: y"}), "TokenInvalid"),
]


@pytest.mark.parametrize(("data", "reason"), [pytest.param(*case[1:], id=case[0]) for case in REFUSED])
def test_each_refusal_has_its_reason_and_tells_no_secret(data: str | bytes, reason: str) -> None:
    with pytest.raises(KubeconfigError) as caught:
        parse_kubeconfig(data)
    error = caught.value
    assert error.reason == reason
    assert error.message
    chain = f"{error} {error.__cause__} {'' if error.__suppress_context__ else error.__context__}"
    assert not any(secret in chain for secret in SECRETS)


async def test_our_own_file_is_missing_or_unusable(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError) as caught:
        await load_kubeconfig_file(tmp_path / "none")
    assert caught.value.reason == "KubeconfigNotFound"
    (tmp_path / "bad").write_text("current-context: x\nclusters: []\n")
    with pytest.raises(KubeconfigError) as caught:
        await load_kubeconfig_file(tmp_path / "bad")
    assert caught.value.reason == "KubeconfigUnusable"


def test_outside_a_cluster_there_is_no_account_of_a_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(KubeconfigError) as caught:
        load_in_cluster()
    assert caught.value.reason == "NotInCluster"
    assert "--kubeconfig" in caught.value.message
