"""What the registry asks of a store of bytes. Objects are named by their sha256, so putting twice is harmless."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What is known of bytes once they are stored."""

    sha256: str
    size_bytes: int
    created: bool
    """False: the store had these bytes already."""


@dataclass(frozen=True, slots=True)
class ListedObject:
    """An object as the store lists it."""

    sha256: str
    size_bytes: int
    stored_at: float
    """Seconds since 1970, by the store's clock: when it was last put, or found there by a put a day later."""


class ObjectStore(Protocol):
    """Content-addressed bytes. Every method may be called from any thread.

    All methods raise StorageUnavailableError (try again) or StorageRefusedError (mend the settings first).
    """

    def put_bytes(self, content: bytes) -> StoredObject:
        """Store bytes under their sha256."""
        ...

    def put_file(self, path: Path) -> StoredObject:
        """Store a file under its sha256, without reading it whole into memory.

        Raises:
            DigestMismatchError: the file changed while it was read; nothing stays stored under the wrong name.
        """
        ...

    def get_bytes(self, sha256: str) -> bytes:
        """All bytes of a small object, verified.

        Raises:
            ObjectNotFoundError: there is none.
            DigestMismatchError: the store gave other bytes.
        """
        ...

    def get_range(self, sha256: str, start: int, length: int) -> bytes:
        """Bytes [start, start + length), fewer at the end of the object, none beyond it; not verified.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def get_to_file(self, sha256: str, path: Path) -> int:
        """Write a verified object to `path`, which appears only when it is whole and on disk; return its size.

        Raises:
            ObjectNotFoundError: there is none.
            DigestMismatchError: the store gave other bytes; `path` is untouched.
        """
        ...

    def exists(self, sha256: str) -> bool:
        """Whether the object is there."""
        ...

    def size_bytes(self, sha256: str) -> int:
        """Size of an object.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def describe(self, sha256: str) -> ListedObject:
        """What the store says of an object.

        Raises:
            ObjectNotFoundError: there is none.
        """
        ...

    def list_objects(self) -> Iterator[ListedObject]:
        """Every object, in the order of their names."""
        ...

    def presign_get(self, sha256: str, expires_s: int) -> str:
        """A URL that gives the object (and ranges of it) to whoever holds it, until it expires. Asks no server."""
        ...

    def delete(self, sha256: str) -> None:
        """Remove the object; no error if it is not there."""
        ...
