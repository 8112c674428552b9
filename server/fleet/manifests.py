"""Manifests as the store has them: read once, because what has a sha256 for its name can't change."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from edge_agent.protocol.manifest import VariantManifest
from server.errors import (
    DigestMismatchError,
    ObjectNotFoundError,
    RegistryError,
    StorageRefusedError,
    StorageUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edge_agent.protocol.manifest import ObjectDescriptor
    from server.storage import ObjectStore

log = logging.getLogger(__name__)

KEPT_MANIFESTS: Final = 256


@dataclass(frozen=True, slots=True)
class KnownManifest:
    """A manifest verbatim, and the object that it names."""

    text: bytes
    object: ObjectDescriptor


class ManifestCache:
    """The manifests that were asked for last; may be called from any thread."""

    def __init__(self, store: ObjectStore, *, limit: int = KEPT_MANIFESTS) -> None:
        self._store = store
        self._limit = limit
        self._known: OrderedDict[str, KnownManifest] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, sha256: str) -> bool:
        """Whether `read` would ask the store for nothing."""
        with self._lock:
            return sha256 in self._known

    def read(self, sha256: str) -> KnownManifest:
        """A manifest by its sha256.

        Raises:
            ObjectNotFoundError, DigestMismatchError: there is none that can be read.
            StorageUnavailableError, StorageRefusedError: the store can't be asked.
        """
        with self._lock:
            if (known := self._known.get(sha256)) is not None:
                self._known.move_to_end(sha256)
                return known
        text = self._store.get_bytes(sha256)  # not under the lock: nobody else shall wait for the store
        try:
            known = KnownManifest(text, VariantManifest.model_validate_json(text).object)
        except ValidationError as exc:
            raise ObjectNotFoundError(f"Object {sha256} is no manifest that this registry can read.") from exc
        with self._lock:
            self._known[sha256] = known
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return known


def object_among(wanted: Iterable[str], sha256: str, read: Callable[[str], KnownManifest]) -> ObjectDescriptor | None:
    """How an object travels that one of the wanted manifests names; None: none does.

    The table of variants can't answer this: a variant that was built again has another manifest there.

    Raises:
        StorageUnavailableError, StorageRefusedError: a manifest could not be read, and no other names the object.
    """
    away: RegistryError | None = None
    for manifest_sha256 in sorted(wanted):
        try:
            described = read(manifest_sha256).object
        except (ObjectNotFoundError, DigestMismatchError) as exc:
            log.warning("manifest %s is wanted and can't be read: %s", manifest_sha256, exc)
            continue
        except (StorageUnavailableError, StorageRefusedError) as exc:
            away = exc
            continue
        if described.sha256 == sha256:
            return described
    if away is not None:
        raise away
    return None
