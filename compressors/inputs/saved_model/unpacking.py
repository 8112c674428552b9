"""Take a SavedModel out of its archive: only the files that it is made of, into one folder, within bounds.

Entries are written under names that are made here, never under those of the archive, so that no path leads outside.
What is unpacked is counted while it is written: what an archive says of its sizes proves nothing.
"""

from __future__ import annotations

import re
import stat
import struct
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING

from compressors.errors import ArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_ENTRIES = 1000
MAX_BYTES = 4 << 30
MAX_RATIO = 50  # trained weights hardly shrink at all
_ALLOWED_SLACK_BYTES = 16 << 20
_PIECE_BYTES = 1 << 20
_NAME_CHARS = 120
HOW_TO_PACK = "pack the folder with `zip -r model.zip FOLDER` or `tar -cf model.tar FOLDER`"
_KEPT = re.compile(r"saved_model\.pb|variables/variables\.(index|data-\d{5}-of-\d{5})")
_LEFT_OUT = re.compile(r"fingerprint\.pb|keras_metadata\.pb|\.DS_Store|\._.*|.*/\._.*")
_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
)
_ZIP, _GZIP = b"PK\x03\x04", b"\x1f\x8b"


def unpack(source: Path, folder: Path) -> None:
    """Unpack a SavedModel into a folder.

    Raises:
        ArchiveError: the archive is damaged, too large, or holds something else.
    """
    budget = min(MAX_BYTES, source.stat().st_size * MAX_RATIO + _ALLOWED_SLACK_BYTES)
    try:
        with source.open("rb") as file:
            head = file.read(len(_ZIP))
        files = _files_of_zip(source) if head == _ZIP else _files_of_tar(source, is_packed=head.startswith(_GZIP))
        kept = _write(files, folder, budget)
    except _DAMAGED as exc:
        raise ArchiveError(f"{source.name} is damaged ({exc}): copy it again, or {HOW_TO_PACK}") from exc
    if "saved_model.pb" not in kept:
        raise ArchiveError(f"{source.name} is an archive, but holds no saved_model.pb: {HOW_TO_PACK}")


def _files_of_zip(source: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(source) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                raise ArchiveError(f"the archive holds the link {info.filename[:_NAME_CHARS]!r}: {HOW_TO_PACK}")
            if not info.is_dir():
                with archive.open(info) as content:
                    yield info.filename, content


def _files_of_tar(source: Path, *, is_packed: bool) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(source, "r:gz" if is_packed else "r:") as archive:
        for member in archive:
            if member.isdir():
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise ArchiveError(
                    f"the archive holds {member.name[:_NAME_CHARS]!r}, which is no ordinary file: {HOW_TO_PACK}"
                )
            if member.size > MAX_BYTES:  # skipping it would unpack it
                raise ArchiveError(f"{member.name[:_NAME_CHARS]!r} says that it has {member.size} bytes: {HOW_TO_PACK}")
            yield member.name, content


def _write(files: Iterator[tuple[str, IO[bytes]]], folder: Path, budget: int) -> set[str]:
    root: str | None = None
    kept: set[str] = set()
    (folder / "variables").mkdir(parents=True)
    for number, (path, content) in enumerate(files):
        if number >= MAX_ENTRIES:
            raise ArchiveError(f"the archive holds more than {MAX_ENTRIES} files, which no SavedModel does")
        place, name = _split(path)
        if root is None or place == root:
            root = place
        if place != root or name in kept:
            raise ArchiveError(f"the archive holds {path[:_NAME_CHARS]!r}, a second model or file: pack one folder")
        if _LEFT_OUT.fullmatch(name):
            continue
        if not _KEPT.fullmatch(name):
            raise ArchiveError(
                f"the archive holds {path[:_NAME_CHARS]!r}; a SavedModel that reads files of its own is not supported: "
                "do that work before the model, and export it again"
            )
        budget = _copy(content, folder / name, budget)
        kept.add(name)
    return kept


def _split(path: str) -> tuple[str, str]:
    """The folder that holds the model, and the file's name in it.

    Raises:
        ArchiveError: the path leads elsewhere.
    """
    parts = [part for part in path.split("/") if part != "."]
    if path.startswith("/") or "\\" in path or ".." in parts or "" in parts:
        raise ArchiveError(f"the archive holds the path {path[:_NAME_CHARS]!r}, which leads elsewhere: {HOW_TO_PACK}")
    inner = 2 if len(parts) > 1 and parts[-2] in {"variables", "assets", "assets.extra"} else 1
    return "/".join(parts[:-inner]), "/".join(parts[-inner:])


def _copy(content: IO[bytes], destination: Path, budget: int) -> int:
    with destination.open("wb") as out:
        while piece := content.read(_PIECE_BYTES):
            budget -= len(piece)
            if budget < 0:
                raise ArchiveError(
                    "the archive unpacks to far more than was sent, which weights never do: pack the folder again"
                )
            out.write(piece)
    return budget
