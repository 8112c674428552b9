"""What a device brings to its enrolment, and what it holds afterwards, for tests that are no agent."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


def new_key() -> ec.EllipticCurvePrivateKey:
    """A device's key."""
    return ec.generate_private_key(ec.SECP256R1())


def request_of(key: ec.EllipticCurvePrivateKey | None = None, *names: str) -> str:
    """A certificate request of a key, by default of a new one, that names its holder so, by default not at all."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key or new_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def body(token: str, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  any JSON
    """The body of an enrolment."""
    return {"token": token, "request": request_of(), **fields}


def keep(path: Path, key: ec.EllipticCurvePrivateKey, certificate_pem: str) -> Path:
    """Key and certificate in one file."""
    kind = serialization.PrivateFormat.PKCS8
    key_pem = key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())
    path.touch(mode=0o600)
    path.write_bytes(key_pem + certificate_pem.encode())
    return path


def context(root: Path, own: Path | None = None) -> ssl.SSLContext:
    """TLS with who has a certificate of this root, showing our own."""
    made = ssl.create_default_context(cafile=root)
    if own is not None:
        made.load_cert_chain(own)
    return made
