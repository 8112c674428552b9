"""The device's key, and the request that proves to hold it. The only module of the agent that knows `cryptography`."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def new_key() -> bytes:
    """A private key (EC P-256), as PEM. It stays on the device."""
    key = ec.generate_private_key(ec.SECP256R1())
    kind = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())


def request_for(key_pem: bytes, device_id: str | None) -> str:
    """A certificate request for a key; without a name the registry gives one.

    Raises:
        ValueError: the PEM holds no key of ours.
    """
    key = serialization.load_pem_private_key(key_pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an EC key")  # noqa: TRY004  the file's fault, not the caller's
    names = [] if device_id is None else [x509.NameAttribute(NameOID.COMMON_NAME, device_id)]
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(names)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()
