"""What stands in the paths and headers of requests, checked before anything is sent."""

from __future__ import annotations

import re
from typing import Final

from edge_agent.protocol.refusal import shown
from server.client.errors import RegistryClientError
from server.client.transport import segment

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def version_path(model: str, version: str) -> str:
    """Of a model version."""
    return f"/v1/models/{segment(model, 'the model')}/versions/{segment(version, 'the version')}"


def digest_segment(sha256: str) -> str:
    """A sha256 as part of a path.

    Raises:
        RegistryClientError: it is none.
    """
    if not _SHA256.fullmatch(sha256):
        raise RegistryClientError("invalid", f"{shown(sha256)} is not a sha256 in lower-case hexadecimal.")
    return sha256


def proof(device_id: str, key: str) -> dict[str, str]:
    """The header by which a device shows who it is."""
    return {"Authorization": f"Device {device_id}:{key}"}
