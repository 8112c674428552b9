"""Tokens and keys: made from the system's randomness, kept only as their hash."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import Final

TOKEN_PREFIX: Final = "shoal-"  # so that a token found in a log is recognised as one  # noqa: S105  a prefix, no secret
ID_LENGTH: Final = 12


def new_token(root_sha256: str) -> str:
    """A token: a secret, and by which root the device shall know the registry (its SHA-256, base64url)."""
    root = base64.urlsafe_b64encode(bytes.fromhex(root_sha256)).decode().rstrip("=")
    return f"{TOKEN_PREFIX}{secrets.token_urlsafe(24)}.{root}"


def new_key() -> str:
    """The key of a device: hexadecimal, as the agent's identity file expects it."""
    return secrets.token_hex(32)


def hash_of(secret: str) -> str:
    """What is kept of it. A plain hash is enough: the secret has 192 bits or more and can't be guessed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def id_of(token_sha256: str) -> str:
    """The public name of a token."""
    return token_sha256[:ID_LENGTH]


def is_secret_of(secret: str, expected_sha256: str) -> bool:
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(hash_of(secret), expected_sha256)
