"""The gate for Keras uploads: the configuration and the weights are checked, and only these two are handed on."""

from __future__ import annotations

import shutil
import struct
import zipfile
from typing import TYPE_CHECKING

from compressors.errors import ArchiveError
from compressors.inputs.keras import hdf5
from compressors.inputs.keras.configuration import HOW_TO_SAVE, check_configuration
from compressors.inputs.recognition import Format, format_of

if TYPE_CHECKING:
    from pathlib import Path

_CONFIGURATION, _WEIGHTS = "config.json", "model.weights.h5"
_ENTRIES = {_CONFIGURATION, _WEIGHTS, "metadata.json"}
_NAME_CHARS = 120
_DAMAGED = (zipfile.BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError, struct.error)


def checked_copy(source: Path, folder: Path) -> Path:
    """Check an upload; the copy of it that Keras may load, with the ending by which Keras knows the format.

    Raises:
        ArchiveError: it may not be loaded, or is damaged.
        ConversionError: it names code of its own, or a layer that is not supported.
    """
    if format_of(source) is Format.HDF5:
        hdf5.check_file(source)
        configuration = hdf5.read_attribute(source, "model_config")
        if configuration is None:
            raise ArchiveError(f"{source.name} holds weights, but no model: {HOW_TO_SAVE}, not with save_weights")
        check_configuration(configuration)
        return _copied(source, folder / "model.h5")
    try:
        with zipfile.ZipFile(source) as archive:
            _check_entries(archive)
            check_configuration(archive.read(_CONFIGURATION))
            archive.extract(_WEIGHTS, folder)
    except _DAMAGED as exc:
        raise ArchiveError(f"{source.name} is damaged ({exc}): copy it again, or {HOW_TO_SAVE}") from exc
    hdf5.check_file(folder / _WEIGHTS)
    return _copied(source, folder / "model.keras")


def _copied(source: Path, destination: Path) -> Path:
    shutil.copyfile(source, destination)
    return destination


def _check_entries(archive: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    for info in infos:
        if info.filename not in _ENTRIES:
            raise ArchiveError(
                f"the archive holds {info.filename[:_NAME_CHARS]!r}, which is no part of a Keras model without files "
                f"of its own: {HOW_TO_SAVE}"
            )
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ArchiveError(f"the entry {info.filename!r} is compressed; Keras stores entries as they are")
    missing = sorted({_CONFIGURATION, _WEIGHTS} - set(names))
    if missing or len(names) != len(set(names)):
        what = f"has no {missing[0]}" if missing else "holds an entry twice"
        raise ArchiveError(f"the archive {what}: {HOW_TO_SAVE}")
