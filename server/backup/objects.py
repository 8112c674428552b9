"""Objects from the store into a backup, and back. What lies at its sha256 already is not copied again."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from server.backup.document import BackupError, object_path
from server.errors import DigestMismatchError, ObjectNotFoundError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from server.backup.progress import Told
    from server.storage import ObjectStore

# A store that is started again must not cost a backup that has run for hours.
PATIENCE_S: Final = 60.0
PAUSE_S: Final = 1.0
STAGE: Final = "objects"
_T = TypeVar("_T")


def fetch_objects(
    store: ObjectStore, names: Iterable[str], folder: Path, *, told: Told
) -> tuple[dict[str, int], frozenset[str]]:
    """Copy objects into a backup, each verified.

    Returns:
        Their sizes in bytes by sha256; and those that the store does not have, or has damaged.

    Raises:
        StorageUnavailableError, StorageRefusedError: the store does not give them.
    """
    wanted = sorted(names)
    sizes: dict[str, int] = {}
    missing: set[str] = set()
    for done, sha256 in enumerate(wanted):
        told(STAGE, done, len(wanted))
        path = object_path(folder, sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            try:
                patiently(partial(store.get_to_file, sha256, path))
            except (ObjectNotFoundError, DigestMismatchError):
                missing.add(sha256)
                continue
        sizes[sha256] = path.stat().st_size
    told(STAGE, len(wanted), len(wanted))
    return sizes, frozenset(missing)


def drop_others(folder: Path, names: Iterable[str]) -> None:
    """Remove the objects of an earlier snapshot that the last one does not name."""
    kept = {object_path(folder, sha256) for sha256 in names}
    for path in (folder / "objects").glob("*/*"):
        if path not in kept:
            path.unlink()


def put_objects(store: ObjectStore, names: Iterable[str], folder: Path, *, told: Told) -> None:
    """Copy the objects of a backup into the store, each verified.

    Raises:
        BackupError: one is damaged or not there.
        StorageUnavailableError, StorageRefusedError: the store does not take them.
    """
    wanted = sorted(names)
    for done, sha256 in enumerate(wanted):
        told(STAGE, done, len(wanted))
        path = object_path(folder, sha256)
        try:
            stored = patiently(partial(store.put_file, path))
        except FileNotFoundError as exc:
            raise BackupError(f"The backup lacks the object {sha256}: restore another one.") from exc
        if stored.sha256 != sha256:
            store.delete(stored.sha256)
            raise BackupError(f"The object {sha256} of the backup is damaged: restore another one.")
    told(STAGE, len(wanted), len(wanted))


def patiently(act: Callable[[], _T]) -> _T:
    """What an act gives that may be done again, once the store answers.

    Raises:
        StorageUnavailableError: it has not answered for a minute.
    """
    end_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return act()
        except StorageUnavailableError:
            if time.monotonic() > end_s:
                raise
            time.sleep(PAUSE_S)
