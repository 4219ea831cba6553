"""A plane's own certificates: one authority for servers and clients, one for the aggregation layer's front proxy.

The two authorities must differ: a client certificate of the first would otherwise be trusted as the front proxy, which
may speak for any user.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = datetime.timedelta(days=365)
FRONT_PROXY_CLIENT = "front-proxy-client"
SERVER_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM files of one certificate and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class PlaneCertificates:
    """Everything the components of one plane identify themselves with. All paths are PEM files."""

    authority: Path
    server: KeyPair
    admin: KeyPair
    controller_manager: KeyPair
    scheduler: KeyPair
    nodes: KeyPair
    node: KeyPair
    etcd_client: KeyPair
    kubelet_client: KeyPair
    front_proxy_authority: Path
    front_proxy_client: KeyPair
    service_account: KeyPair


class Authority:
    """A certificate authority whose files are `NAME.crt` and `NAME.key` in `folder`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = (
            _builder(subject, self._key)
            .issuer_name(subject)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(sign_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        _write(KeyPair(folder / f"{name}.crt", folder / f"{name}.key"), self._certificate, self._key)

    def server(self, target: KeyPair, *, addresses: Sequence[str]) -> None:
        """A serving certificate for the loopback names and `addresses`; also good as a client (etcd's peers)."""
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in SERVER_NAMES]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        self._issue(target, common_name="server", groups=(), usages=usages, names=names)

    def client(self, target: KeyPair, *, user: str, groups: Sequence[str] = ()) -> None:
        """A client certificate; Kubernetes takes the user from CN and the groups from O."""
        self._issue(
            target, common_name=user, groups=groups, usages=[ExtendedKeyUsageOID.CLIENT_AUTH], names=[]
        )

    def _issue(
        self,
        target: KeyPair,
        *,
        common_name: str,
        groups: Sequence[str],
        usages: list[x509.ObjectIdentifier],
        names: list[x509.GeneralName],
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        issuer = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = (
            _builder(subject, key)
            .issuer_name(self._certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            # Python 3.13's strict verification wants it.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
            )
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        _write(target, builder.sign(self._key, hashes.SHA256()), key)


def files(folder: Path) -> PlaneCertificates:
    """Where `make` put everything."""

    def pair(name: str) -> KeyPair:
        return KeyPair(folder / f"{name}.crt", folder / f"{name}.key")

    return PlaneCertificates(
        authority=folder / "ca.crt",
        server=pair("server"),
        admin=pair("admin"),
        controller_manager=pair("controller-manager"),
        scheduler=pair("scheduler"),
        nodes=pair("nodes"),
        node=pair("node"),
        etcd_client=pair("etcd-client"),
        kubelet_client=pair("kubelet-client"),
        front_proxy_authority=folder / "front-proxy-ca.crt",
        front_proxy_client=pair("front-proxy-client"),
        service_account=KeyPair(folder / "service-account.pub", folder / "service-account.key"),
    )


def make(folder: Path, *, service_address: str, node: str) -> PlaneCertificates:
    """Makes all files of one plane in `folder`.

    `service_address` is that of the Service `kubernetes`, `node` the name of its real node, should it have one.
    """
    folder.mkdir(parents=True, mode=0o700)
    made = files(folder)
    masters = ["system:masters"]
    authority = Authority(folder, "ca")
    authority.server(made.server, addresses=["127.0.0.1", service_address])
    authority.client(made.admin, user="lab:admin", groups=masters)
    authority.client(made.controller_manager, user="system:kube-controller-manager")
    authority.client(made.scheduler, user="system:kube-scheduler")
    authority.client(made.nodes, user="lab:nodes", groups=masters)
    authority.client(made.node, user=f"system:node:{node}", groups=["system:nodes"])
    authority.client(made.etcd_client, user="kube-apiserver-etcd-client")
    authority.client(made.kubelet_client, user="kube-apiserver-kubelet-client", groups=masters)
    Authority(folder, "front-proxy-ca").client(made.front_proxy_client, user=FRONT_PROXY_CLIENT)
    _service_account_keys(made.service_account)
    return made


def _service_account_keys(target: KeyPair) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    target.certificate.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    _write_key(target.key, key)


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _write(target: KeyPair, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    target.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_key(target.key, key)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
