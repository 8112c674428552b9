"""Reading a backup again: whether each of its files is still what was written."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from server.backup.document import BackupDocument, BackupError, FileEntry, object_path, read_document

if TYPE_CHECKING:
    from pathlib import Path

    from server.backup.progress import Told

STAGE = "files"


def check_backup(folder: Path, *, told: Told) -> BackupDocument:
    """Read a backup again, all of it.

    Raises:
        BackupError: it is none, or not what was written; names the first fault.
    """
    document = read_document(folder)
    expected = {folder / name: entry for name, entry in document.files.items()}
    for sha256, size_bytes in document.objects.items():
        expected[object_path(folder, sha256)] = FileEntry(size_bytes=size_bytes, sha256=sha256)
    faults = []
    for done, (path, entry) in enumerate(expected.items()):
        told(STAGE, done, len(expected))
        if fault := _fault(path, entry):
            faults.append(f"{path.relative_to(folder)} {fault}")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BackupError(f"The backup in {folder} is damaged: {faults[0]}{more}. Use another one.")
    return document


def require_whole(path: Path, entry: FileEntry) -> None:
    """Pass if a file is what was written.

    Raises:
        BackupError: it is not.
    """
    if fault := _fault(path, entry):
        raise BackupError(f"The backup in {path.parent} is damaged: {path.name} {fault}. Use another one.")


def _fault(path: Path, entry: FileEntry) -> str:
    """What is wrong with a file; empty: nothing."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size != entry.size_bytes:
                return f"has {path.stat().st_size} bytes, and had {entry.size_bytes}"
            actual_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        return f"can't be read ({exc.strerror})"
    return "" if actual_sha256 == entry.sha256 else "is not what was written"
