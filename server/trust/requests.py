"""Certificate requests (PKCS#10) as devices send them: what is taken from them is the public key, and nothing else.

Name, lifetime and uses are the registry's to say, so extensions and whatever else a request asks for are not read.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.trust.errors import BadRequestError

MAX_REQUEST_BYTES: Final = 4096  # one of ours has about 400
_HOW: Final = "`edge-agent enroll` makes a request that fits"


def public_key_of(pem: str, *, device_id: str | None) -> ec.EllipticCurvePublicKey:
    """The public key that a request proves to hold.

    Args:
        pem: the request.
        device_id: who asks; a request may name this device or none.

    Raises:
        BadRequestError: too large, unreadable, not signed by its own key, of another kind of key than EC P-256, or
            naming somebody else.
    """
    if len(pem) > MAX_REQUEST_BYTES:
        raise BadRequestError(f"The certificate request has {len(pem)} bytes, at most {MAX_REQUEST_BYTES} are taken.")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key, subject, signed = request.public_key(), list(request.subject), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as exc:
        raise BadRequestError(f"The certificate request can't be read: {_HOW}.") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadRequestError(f"The key of the certificate request is not EC P-256: {_HOW}.")
    if not signed:
        raise BadRequestError(f"The certificate request is not signed by its own key: {_HOW}.")
    if not subject:
        return key
    if len(subject) > 1 or subject[0].oid != NameOID.COMMON_NAME or subject[0].value != device_id:
        asked = f"device {device_id}" if device_id is not None else "no device by name"
        raise BadRequestError(f"The certificate request names somebody else, but {asked} asks: {_HOW}.")
    return key
