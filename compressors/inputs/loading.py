"""Any upload as a float network: its content decides which gate and which reader it goes through."""

from __future__ import annotations

import hashlib
from importlib.metadata import packages_distributions, version
from typing import TYPE_CHECKING

from compressors.inputs import program
from compressors.inputs.recognition import Format, format_of

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.contract import Inputs
    from compressors.inputs.program import FloatModel


# What turns an upload into a network, besides torch: another version may turn it into another one.
_READERS = {Format.KERAS: "keras", Format.HDF5: "keras", Format.SAVED_MODEL: "tensorflow"}


def load(path: Path) -> FloatModel:
    """Load an upload behind the gate of its format; libraries are imported for the format that needs them.

    Raises:
        ArchiveError: it may not be loaded, or is damaged.
        ConversionError: it holds something that has no counterpart here; the sentence names it.
        SignatureError: its inputs or outputs are not tensors that an app can be shown.
        WeightError: a weight is NaN or infinite.
        ExtraMissingError: the library that reads this format is not installed.
    """
    match format_of(path):
        case Format.TORCH_EXPORT:
            return program.load(path)
        case Format.ONNX:
            from compressors.inputs.onnx import network as onnx  # noqa: PLC0415

            return onnx.load(path)
        case Format.KERAS | Format.HDF5:
            from compressors.inputs.keras import network as keras  # noqa: PLC0415

            return keras.load(path)
        case Format.SAVED_MODEL:
            from compressors.inputs.saved_model import network as saved_model  # noqa: PLC0415

            return saved_model.load(path)
        case Format.LITERT:
            from compressors.inputs.litert import network as litert  # noqa: PLC0415

            return litert.load(path)


def sha256_of(inputs: Inputs) -> str:
    """What the files of a job depend on: the network, what reads it, and the data that calibrate and train it."""
    digest = hashlib.sha256()
    for path in filter(None, (inputs.model_path, inputs.data_path, inputs.train_path)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(inputs.task.encode())
    reader = _READERS.get(format_of(inputs.model_path))
    for distribution in sorted(packages_distributions().get(reader, ())) if reader else ():
        digest.update(f"{distribution}=={version(distribution)}".encode())
    return digest.hexdigest()
