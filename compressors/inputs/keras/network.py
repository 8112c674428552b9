"""A Keras model as a network: Keras runs on torch here, so that torch can export it like any other module."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from compressors.errors import ConversionError, ExtraMissingError, SignatureError
from compressors.inputs.keras.archive import checked_copy
from compressors.inputs.keras.layers import Tidying
from compressors.inputs.program import FloatModel, Names, from_exported, is_shown_name
from compressors.running import first_line, refuse_without_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKEND = "torch"
BUILD_WITH_FREE_BATCH = "build it with a free batch: keras.Input(shape, name='%s')"
_EXAMPLE_ROWS = 2  # torch takes a length of one for a constant


class _Called(torch.nn.Module):
    """A Keras model as torch calls modules: tensors by position, in evaluation mode."""

    def __init__(self, keras: Any, model: Any) -> None:  # noqa: ANN401  keras ships no types
        super().__init__()
        self.model = model
        self._tree = keras.tree
        self._structure = getattr(model, "input", None)  # a Sequential has none: it takes one tensor

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        packed = tensors[0] if self._structure is None else self._tree.pack_sequence_as(self._structure, list(tensors))
        return tuple(self._tree.flatten(self.model(packed, training=False)))


def load(path: Path) -> FloatModel:
    """Load a `.keras` or `.h5` behind its gate.

    Raises:
        ArchiveError: it may not be loaded, or is damaged.
        ConversionError: it names code of its own, a layer that is not supported, or weights that do not fit.
        SignatureError: its inputs or outputs are not tensors that an app can be shown.
        WeightError: a weight is NaN or infinite.
        ExtraMissingError: Keras is not installed here.
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = checked_copy(path, Path(folder))
        keras = _keras()
        try:
            model = keras.saving.load_model(copy, compile=False, safe_mode=True)
        except Exception as exc:  # Keras raises whatever its layers happen to hit
            refuse_without_memory(exc)
            raise ConversionError(
                f"Keras {keras.__version__} can't load this model ({first_line(exc)}): save it again with this version"
            ) from exc
    paths = {variable.value.data_ptr(): str(variable.path) for variable in model.variables}
    return from_exported(
        _exported(keras, model),
        _names(model),
        how=BUILD_WITH_FREE_BATCH,
        tidy=lambda module: Tidying(module, paths).run(),
    )


def _keras() -> Any:  # noqa: ANN401
    os.environ["KERAS_BACKEND"] = BACKEND  # read once, when Keras is imported
    try:
        import keras  # noqa: PLC0415  an extra
    except ImportError as exc:
        raise ExtraMissingError("Keras models need the extra `keras` where jobs run: pip install shoal[keras]") from exc
    if keras.backend.backend() != BACKEND:
        raise ConversionError(
            f"Keras runs on {keras.backend.backend()} in this process: set KERAS_BACKEND=torch before it is imported"
        )
    return keras


def _exported(keras: Any, model: Any) -> Any:  # noqa: ANN401
    if not model.inputs:
        raise SignatureError("the Keras model has no input shapes: give it an Input layer, and save it again")
    examples = tuple(_example(tensor) for tensor in model.inputs)
    is_free = all(tensor.shape[0] is None for tensor in model.inputs)
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} for _ in examples),) if is_free else None
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            return torch.export.export(_Called(keras, model).eval(), examples, dynamic_shapes=shapes, strict=False)
    except Exception as exc:  # torch raises whatever its tracing happens to hit
        refuse_without_memory(exc)
        raise ConversionError(
            f"torch can't follow this Keras model ({first_line(exc)}): export it to ONNX instead"
        ) from exc


def _example(tensor: Any) -> torch.Tensor:  # noqa: ANN401
    batch, *lengths = tensor.shape
    if any(length is None for length in lengths):
        raise SignatureError(
            f"the input {tensor.name} has a free dimension besides the batch ({list(tensor.shape)}): give its Input "
            "layer a constant shape"
        )
    if batch not in {None, 1}:
        raise SignatureError(f"the input {tensor.name} has the constant batch {batch}: build the model with a free one")
    rows = _EXAMPLE_ROWS if batch is None else 1
    kind = getattr(torch, tensor.dtype, None)
    if kind is None:
        raise SignatureError(f"the input {tensor.name} has the type {tensor.dtype}: use float32 or int64")
    return torch.zeros(rows, *lengths, dtype=kind)


def _names(model: Any) -> Names:  # noqa: ANN401
    return Names(
        _shown("input", [str(tensor.name) for tensor in model.inputs], len(model.inputs)),
        _shown("output", [str(name) for name in getattr(model, "output_names", ())], len(model.outputs)),
    )


def _shown(kind: str, names: Sequence[str], count: int) -> list[str]:
    if len(names) == count == len(set(names)) and all(map(is_shown_name, names)):
        return list(names)
    return [f"{kind}_{number}" for number in range(count)]
