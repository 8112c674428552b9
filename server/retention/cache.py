"""The cache of builds on this machine's disk: which files go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class CachedFile:
    """A file of the cache."""

    path: Path
    size_bytes: int
    used_at: float
    """Its last read or write, as far as the file system tells (`relatime` counts the first read of a day)."""


def unused_files(folder: Path, *, older_than: float, limit_bytes: int) -> list[CachedFile]:
    """Files not used since `older_than`, then the least recently used until the rest has no more than `limit_bytes`."""
    files = sorted(_files(folder), key=lambda file: (file.used_at, file.path))
    total_bytes = sum(file.size_bytes for file in files)
    gone = []
    for file in files:
        if file.used_at >= older_than and total_bytes <= limit_bytes:
            break
        gone.append(file)
        total_bytes -= file.size_bytes
    return gone


def _files(folder: Path) -> list[CachedFile]:
    if not folder.is_dir():
        return []
    found = []
    for path in folder.rglob("*"):
        try:
            stat = path.lstat()
        except FileNotFoundError:
            continue  # a build has just renamed it
        if path.is_file() and not path.is_symlink():
            found.append(CachedFile(path, stat.st_size, max(stat.st_atime, stat.st_mtime)))
    return found
