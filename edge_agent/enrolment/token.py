"""What a token says beside its secret: by which root certificate the registry is known."""

from __future__ import annotations

import base64
import binascii
import hashlib
import ssl

from edge_agent.errors import EdgeAgentError

_SHA256_BYTES = 32


class BadTokenError(EdgeAgentError):
    """The token was not made by a registry, or was cut when it was copied."""

    code = "bad_token"


class OtherRootError(EdgeAgentError):
    """Who answers at the address is not the registry that made the token."""

    code = "other_root"


def root_of(token: str) -> bytes:
    """The SHA-256 of the root certificate that a token names.

    Raises:
        BadTokenError: it names none.
    """
    _, dot, text = token.rpartition(".")
    try:
        digest = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if dot and text.isascii() else b""
    except (ValueError, binascii.Error):
        digest = b""
    if len(digest) != _SHA256_BYTES:
        raise BadTokenError("this is no token of a registry, or it was cut: edge-registry token create makes one")
    return digest


def checked_root(pem: bytes, expected_sha256: bytes, *, url: str) -> str:
    """The one certificate in an answer, if it is the one that the token names.

    Raises:
        OtherRootError: it is another, or none.
    """
    try:
        der = ssl.PEM_cert_to_DER_cert(pem.decode("ascii").strip())
    except (ValueError, UnicodeDecodeError):
        der = b""
    if hashlib.sha256(der).digest() != expected_sha256:
        raise OtherRootError(
            f"what answers at {url} is not the registry that made this token: is the address right? If it is, somebody "
            "is in between. Nothing was sent"
        )
    return ssl.DER_cert_to_PEM_cert(der)
