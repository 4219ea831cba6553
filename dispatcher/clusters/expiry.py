"""When credentials end: the ``exp`` of a token, the notAfter of a client certificate. Read, not verified."""

import base64
import json
import ssl
from datetime import UTC, datetime

from dispatcher.clusters.kubeconfig import Credentials

_UTC_TIME, _GENERALIZED_TIME, _SEQUENCE, _VERSION = 0x17, 0x18, 0x30, 0xA0


def credentials_expiry(credentials: Credentials) -> datetime | None:
    """The earliest end of what the credentials hold; None where nothing of it ends or can be read."""
    ends = [
        token_expiry(credentials.token) if credentials.token else None,
        certificate_expiry(credentials.client_certificate) if credentials.client_certificate else None,
    ]
    return min((end for end in ends if end is not None), default=None)


def token_expiry(token: str) -> datetime | None:
    """The ``exp`` of a JSON Web Token; None for any other token, or one without end."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return datetime.fromtimestamp(claims["exp"], UTC)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError, OSError, RecursionError):
        return None


def certificate_expiry(pem: str) -> datetime | None:
    """The notAfter of the first certificate of a PEM text; None for what cannot be read (RFC 5280, 4.1)."""
    try:
        begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
        one = pem[pem.index(begin) : pem.index(end) + len(end)]
        certificate, _ = _element(ssl.PEM_cert_to_DER_cert(one), _SEQUENCE)
        rest, _ = _element(certificate, _SEQUENCE)  # tbsCertificate
        if rest[0] == _VERSION:
            _, rest = _element(rest)
        for _field in ("serialNumber", "signature", "issuer"):
            _, rest = _element(rest)
        validity, _ = _element(rest, _SEQUENCE)
        _, not_after = _element(validity)
        text, _ = _element(not_after)
        form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}[not_after[0]]
        return datetime.strptime(text.decode("ascii"), form).replace(tzinfo=UTC)
    except (ValueError, IndexError, KeyError):
        return None


def _element(der: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """The content of the first element, and what follows it. Raises ValueError, IndexError."""
    if tag is not None and der[0] != tag:
        raise ValueError("another element was expected")
    length, start = der[1], 2
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(der[2:start], "big")
    if len(der) < start + length:
        raise ValueError("the element is cut off")
    return der[start : start + length], der[start + length :]
