"""The serving certificate: self-issued, kept in a Secret that all replicas share, renewed at two thirds of its life.

The APIService's ``caBundle`` names every certificate that a replica may still serve with, so the order is: Secret
with the new and the old in its bundle, ``caBundle``, and at the next look, when every API server has read that, the new
certificate in handshakes.
"""

import base64
import datetime
import logging
import os
import tempfile
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import UnsupportedAlgorithm

from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path
from dispatcher.clusters.reply import Outcome

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger(__name__)

API_SERVICE: Final = "v1alpha1.view.jobdispatcher.io"
LIFETIME: Final = datetime.timedelta(days=90)


def issue(host: str, now: datetime.datetime, lifetime: datetime.timedelta = LIFETIME) -> tuple[str, str]:
    """A self-signed certificate for one DNS name and its key, both PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "job-dispatcher-view")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=10))
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem, private.decode()


def is_due(certificate: str, host: str, now: datetime.datetime) -> bool:
    """Whether a certificate is unreadable, for another name, or past two thirds of its life."""
    from cryptography import x509

    read = _read(certificate)
    if read is None:
        return True
    try:
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return True
    life = read.not_valid_after_utc - read.not_valid_before_utc
    return (
        host not in names.get_values_for_type(x509.DNSName) or now > read.not_valid_before_utc + life * 2 / 3
    )


def belongs(certificate: str, key: str) -> bool:
    """Whether this is the certificate's key; false for what cannot be read."""
    from cryptography.hazmat.primitives import serialization

    read = _read(certificate)
    try:
        private = serialization.load_pem_private_key(key.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return read is not None and read.public_key().public_bytes(*form) == private.public_key().public_bytes(
        *form
    )


def _read(certificate: str) -> "x509.Certificate | None":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(certificate.encode())
    except ValueError:
        return None


class ServingCertificate:
    """Keeps the Secret, the APIService and the certificate in use together; safe with any number of replicas."""

    def __init__(self, api: ApiServer, *, namespace: str, service: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = f"{service}-serving"
        self._host = f"{service}.{namespace}.svc"
        self._in_use = ""
        self._seen = ""

    async def keep(self, now: datetime.datetime) -> tuple[str, str] | None:
        """One look; a certificate and key (PEM) to serve with from now on, or None for no change."""
        secret = await self._secret(now)
        if secret is None:
            return None
        if not await self._publish(secret["ca.crt"]):
            return None
        new, seen = secret["tls.crt"], self._seen
        self._seen = new
        if new == self._in_use:
            return None
        if self._in_use and new != seen:
            return None  # API servers may not have read the new bundle yet
        self._in_use = new
        return secret["tls.crt"], secret["tls.key"]

    async def _secret(self, now: datetime.datetime) -> dict[str, str] | None:
        collection = resource_path("v1", "secrets", namespace=self._namespace)
        reply = await self._api.get(f"{collection}/{self._name}")
        if reply.outcome is Outcome.NOT_FOUND:
            body = self._made(now, old="")
            reply = await self._api.request("POST", collection, body=body)
            if reply.outcome is Outcome.ALREADY_EXISTS:
                reply = await self._api.get(f"{collection}/{self._name}")
        if not reply.ok or reply.body is None:
            logger.warning("no serving certificate", extra={"answer": str(reply)})
            return None
        data = _decoded(reply.body)
        old = data.get("tls.crt", "")
        sound = belongs(old, data.get("tls.key", "")) and old in data.get("ca.crt", "")
        if not sound or is_due(old, self._host, now):
            # What is no certificate would make the whole bundle useless.
            body = self._made(now, old=old if sound else "")
            # With the resourceVersion: of two replicas one wins, the other takes what it made at its next look.
            body["metadata"]["resourceVersion"] = reply.body["metadata"]["resourceVersion"]
            reply = await self._api.request("PUT", f"{collection}/{self._name}", body=body)
            if not reply.ok or reply.body is None:
                logger.info("serving certificate not renewed", extra={"answer": str(reply)})
                return None
            data = _decoded(reply.body)
        return data

    def _made(self, now: datetime.datetime, *, old: str) -> dict[str, Any]:
        certificate, key = issue(self._host, now)
        content = {"tls.crt": certificate, "tls.key": key, "ca.crt": certificate + old}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "data": {name: base64.b64encode(text.encode()).decode() for name, text in content.items()},
        }

    async def _publish(self, bundle: str) -> bool:
        """Whether the APIService has this bundle now."""
        path = resource_path("apiregistration.k8s.io/v1", "apiservices", name=API_SERVICE)
        reply = await self._api.get(path)
        wanted = base64.b64encode(bundle.encode()).decode()
        if reply.ok and ((reply.body or {}).get("spec") or {}).get("caBundle") != wanted:
            patch = {"spec": {"caBundle": wanted}}
            reply = await self._api.request("PATCH", path, body=patch, content_type=MERGE_PATCH)
        if not reply.ok:
            logger.warning("the APIService cannot be kept", extra={"answer": str(reply)})
        return reply.ok


def as_files(certificate: str, key: str, folder: str) -> tuple[str, str]:
    """Files with both, readable by their owner only, for what reads nothing but files."""
    made = []
    for text in (certificate, key):
        descriptor, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        made.append(name)
    return made[0], made[1]


def _decoded(secret: dict[str, Any]) -> dict[str, str]:
    return {
        name: base64.b64decode(text).decode("utf-8", "replace")
        for name, text in (secret.get("data") or {}).items()
    }
