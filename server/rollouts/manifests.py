"""The model file's sha256 of each manifest: read from S3 once, because a manifest can't change."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edge_agent.protocol.manifest import VariantManifest
from server.errors import RegistryError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from server.storage import ObjectStore

log = logging.getLogger(__name__)

RETRY_S = 5.0


class ManifestFiles:
    """Knows manifests by their sha256; `fetch` reads those that are missing."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: dict[str, str] = {}
        self._retry_at: dict[str, float] = {}

    def model_file_sha256(self, manifest_sha256: str) -> str | None:
        """The sha256 of its model file; None while it has not been read."""
        return self._known.get(manifest_sha256)

    def fetch(self, manifests: Iterable[str], *, now: float) -> bool:
        """Read manifests from S3; whether one became known. One that can't be read is tried again after a while."""
        news = False
        for sha256 in manifests:
            if sha256 in self._known or self._retry_at.get(sha256, 0.0) > now:
                continue
            try:
                manifest = VariantManifest.model_validate_json(self._store.get_bytes(sha256))
            except (RegistryError, ValidationError) as exc:
                if sha256 not in self._retry_at:
                    log.warning("manifest %s can't be read, so nobody with it can be verified: %s", sha256, exc)
                self._retry_at[sha256] = now + RETRY_S
                continue
            self._known[sha256] = manifest.model_file.sha256
            self._retry_at.pop(sha256, None)
            news = True
        return news
