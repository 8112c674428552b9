"""Which format an upload is in: its content tells, never its name."""

from __future__ import annotations

import struct
import zipfile
from enum import StrEnum
from typing import TYPE_CHECKING

from compressors.errors import ArchiveError

if TYPE_CHECKING:
    from pathlib import Path

ACCEPTED = "a torch.export archive (.pt2), .onnx, .keras, .h5, a float .tflite, or a SavedModel folder as .zip or .tar"
_PICKLE = b"\x80"
_ZIP = b"PK\x03\x04"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_GZIP = b"\x1f\x8b"
_TAR_MAGIC, _TAR_MAGIC_AT = b"ustar", 257
_LITERT, _LITERT_AT = b"TFL3", 4
_ONNX = b"\x08"  # the field ir_version, which every exporter writes first
_NEWEST_IR = 64
_HEAD_BYTES = 512


class Format(StrEnum):
    """What an upload may be."""

    TORCH_EXPORT = "torch.export"
    ONNX = "onnx"
    KERAS = "keras"  # the zip archive of Keras 3
    HDF5 = "hdf5"  # Keras models of before
    SAVED_MODEL = "saved-model"
    LITERT = "litert"


def format_of(path: Path) -> Format:
    """The format of an upload; its gate looks closer.

    Raises:
        ArchiveError: it is in none of the formats.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head[:1] == _PICKLE:
        raise ArchiveError(f"{path.name} is a pickle, and unpickling an upload could run any code: push {ACCEPTED}")
    if head.startswith(_ZIP):
        return _format_of_zip(path)
    if head.startswith(_HDF5):
        return Format.HDF5
    if head[_LITERT_AT:].startswith(_LITERT):
        return Format.LITERT
    if head.startswith(_GZIP) or head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        return Format.SAVED_MODEL
    if head.startswith(_ONNX) and len(head) > 1 and head[1] <= _NEWEST_IR:
        return Format.ONNX
    raise ArchiveError(f"{path.name} is in no format that is known here: push {ACCEPTED}")


def _format_of_zip(path: Path) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, ValueError, struct.error) as exc:
        raise ArchiveError(f"{path.name} is a zip archive that is truncated or damaged: copy it again") from exc
    if any(name.rpartition("/")[2] == "saved_model.pb" for name in names):
        return Format.SAVED_MODEL
    if "config.json" in names:
        return Format.KERAS
    return Format.TORCH_EXPORT
