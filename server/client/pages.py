"""The files of a report out of the archive that they come in, onto this machine's disk."""

from __future__ import annotations

import io
import os
import zipfile
from typing import TYPE_CHECKING

from server.client.errors import RegistryClientError
from server.schemas.report import MAX_PAGES_BYTES, PAGE, PAGE_NAME

if TYPE_CHECKING:
    from pathlib import Path


def require_writable(folder: Path) -> None:
    """Look whether a folder can be written, or made; nothing is made yet.

    Raises:
        RegistryClientError: it can't.
    """
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(folder, f"{there} is {'not writable' if there.is_dir() else 'no folder'}")


def unpack_pages(content: bytes, folder: Path) -> Path:
    """Write the files into the folder; the page to open.

    Raises:
        RegistryClientError: the archive is not that of a report, or the folder can't be written.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            known = archive.infolist()
            fit = all(PAGE_NAME.fullmatch(one.filename) for one in known)
            if not fit or sum(one.file_size for one in known) > MAX_PAGES_BYTES:
                raise RegistryClientError("not_a_report", "What the registry sent holds files that no report has.")
            files = {one.filename: archive.read(one) for one in known}
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError) as exc:
        raise RegistryClientError("not_a_report", f"What the registry sent is no report: {exc}.") from exc
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, file in files.items():
            (folder / name).write_bytes(file)
    except OSError as exc:
        raise _unwritable(folder, exc.strerror or str(exc)) from exc
    return folder / PAGE


def _unwritable(folder: Path, why: str) -> RegistryClientError:
    return RegistryClientError("no_folder", f"The folder {folder} can't be written: {why}; choose another one.")
