"""What a simulated device shows to the broker: a certificate of the registry's authority, and its key, in one file."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec

from server.trust.authority import KeyPair, pem_of, public_key_sha256, serial_of

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from server.trust.authority import Authority

DAYS = 30


@dataclass(frozen=True)
class Credential:
    """Paths, because a process gets thousands of them."""

    root: Path
    own: Path

    def context(self) -> ssl.SSLContext:
        """TLS with the registry's broker; made for each connection, so that it weighs nothing between them."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.root)
        context.load_cert_chain(self.own)
        return context


def issue(authority: Authority, root: Path, folder: Path, device_id: str, *, now: float) -> tuple[Credential, Any]:
    """A device's key and certificate on disk, and the row that the registry keeps of them."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_device(key.public_key(), device_id, now=now, days=DAYS)
    path = folder / f"{device_id}.pem"
    path.touch(mode=0o600)
    path.write_bytes(KeyPair(certificate, key).key_pem + pem_of(certificate) + authority.chain)
    row = {
        "serial": serial_of(certificate),
        "device_id": device_id,
        "public_key_sha256": public_key_sha256(key.public_key()),
        "issued_at": now,
        "expires_at": now + DAYS * 86400,
    }
    return Credential(root, path), row
