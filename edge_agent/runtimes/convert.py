"""Between an app's tensors and a file's: quantization, element types, and batches that the file does not take at once.

The signature that apps see never changes with the variant, so every difference between the two is settled here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.manifest import TensorBinding
from edge_agent.protocol.signature import FREE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edge_agent.protocol.signature import ModelSignature, TensorSpec
    from edge_agent.runtimes.base import Array, FileTensor, LoadedModel


class BindingError(EdgeAgentError):
    """The file's tensors do not fit the signature."""

    code = "load_failed"


class InputError(EdgeAgentError):
    """The caller's tensors do not fit the signature; the sentence says how."""

    code = "bad_input"


def bind(specs: Sequence[TensorSpec], tensors: Sequence[FileTensor]) -> tuple[TensorBinding, ...]:
    """Tie each tensor of the signature to the file's tensor at the same position.

    Raises:
        BindingError: their number or their sample shapes differ.
    """
    if len(specs) != len(tensors):
        raise BindingError(f"the signature has {len(specs)} tensors, the file has {len(tensors)}")
    bindings = []
    for index, (spec, tensor) in enumerate(zip(specs, tensors, strict=True)):
        if tensor.shape[1:] != spec.sample_shape:
            raise BindingError(
                f"{spec.name} has the sample shape {spec.sample_shape}, the file's has {tensor.shape[1:]}"
            )
        bindings.append(
            TensorBinding(
                name=spec.name,
                index=index,
                datatype=tensor.datatype,
                shape=tensor.shape,
                scale=tensor.scale,
                zero_point=tensor.zero_point,
            )
        )
    return tuple(bindings)


def to_file(values: Array, binding: TensorBinding) -> Array:
    """An app's values as the file wants them.

    A quantized tensor takes `round(x / scale) + zero_point`, saturated at the ends of its type; NaN becomes the zero
    point, that is 0.0, because an integer has no other word for it.
    """
    dtype = np.dtype(binding.datatype.numpy_name)
    if binding.scale is None or not np.issubdtype(dtype, np.integer) or np.issubdtype(values.dtype, np.integer):
        return np.ascontiguousarray(values, dtype=dtype)
    bounds = np.iinfo(dtype)
    scaled = np.rint(np.nan_to_num(values.astype(np.float32) / np.float32(binding.scale), nan=0.0))
    file_values: Array = np.clip(scaled + binding.zero_point, bounds.min, bounds.max).astype(dtype)
    return file_values


def from_file(values: Array, binding: TensorBinding, spec: TensorSpec) -> Array:
    """A file's values as the app knows them."""
    wanted = np.dtype(spec.datatype.numpy_name)
    if binding.scale is not None and np.issubdtype(values.dtype, np.integer) and np.issubdtype(wanted, np.floating):
        real = (values.astype(np.float32) - np.float32(binding.zero_point)) * np.float32(binding.scale)
        return real.astype(wanted, copy=False)
    return values.astype(wanted, copy=False)


class BoundModel:
    """A loaded file that takes and gives an app's tensors.

    Not thread-safe: one caller at a time.
    """

    def __init__(
        self,
        model: LoadedModel,
        signature: ModelSignature,
        inputs: Sequence[TensorBinding],
        outputs: Sequence[TensorBinding],
    ) -> None:
        self.signature = signature
        self._model = model
        specs = {spec.name: spec for spec in signature.inputs}
        self._inputs = [(specs[b.name], b) for b in sorted(inputs, key=lambda b: b.index)]
        specs = {spec.name: spec for spec in signature.outputs}
        self._outputs = [(specs[b.name], b) for b in sorted(outputs, key=lambda b: b.index)]
        self._file_batch = inputs[0].shape[0] if inputs[0].shape else 1
        self._batched = all(spec.free_batch for spec in signature.inputs)
        self._check_file(model)

    def _check_file(self, model: LoadedModel) -> None:
        for kind, bound, tensors in (("input", self._inputs, model.inputs), ("output", self._outputs, model.outputs)):
            if len(bound) != len(tensors):
                raise BindingError(f"the manifest binds {len(bound)} {kind}s, the file has {len(tensors)}")
            for (spec, binding), tensor in zip(bound, tensors, strict=True):
                if (binding.shape, binding.datatype) != (tensor.shape, tensor.datatype):
                    raise BindingError(
                        f"{kind} {spec.name} is {binding.datatype} {list(binding.shape)} in the manifest, "
                        f"but {tensor.datatype} {list(tensor.shape)} in the file"
                    )

    def check(self, arrays: Mapping[str, Array]) -> int:
        """Whether an app's tensors fit; the number of samples.

        Raises:
            InputError: a name, a shape or an element type does not fit, or the batches differ.
        """
        names = {spec.name for spec, _ in self._inputs}
        if arrays.keys() != names:
            raise InputError(f"the inputs are {sorted(names)}, got {sorted(arrays)}")
        rows: int | None = None
        for spec, _ in self._inputs:
            array = arrays[spec.name]
            if array.dtype != np.dtype(spec.datatype.numpy_name):
                raise InputError(f"input {spec.name} is {spec.datatype}, got {array.dtype}")
            if not _fits(array.shape, spec):
                raise InputError(f"input {spec.name} has the shape {list(spec.shape)}, got {list(array.shape)}")
            if spec.free_batch:
                if rows is not None and array.shape[0] != rows:
                    raise InputError(f"input {spec.name} has {array.shape[0]} samples, another one has {rows}")
                rows = array.shape[0]
        return 1 if rows is None else rows

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Infer; see `check` for what is asked of the arrays."""
        rows = self.check(arrays)
        if not self._batched or rows == self._file_batch:
            results = self._model.invoke([to_file(arrays[spec.name], binding) for spec, binding in self._inputs])
        else:
            results = self._run_in_pieces(arrays, rows)
        return {
            spec.name: from_file(result, binding, spec)
            for (spec, binding), result in zip(self._outputs, results, strict=True)
        }

    def _run_in_pieces(self, arrays: Mapping[str, Array], rows: int) -> list[Array]:
        """Feed the file as many samples as it takes at once; the last piece is filled up with its own last sample."""
        step = self._file_batch
        whole = [to_file(arrays[spec.name], binding) for spec, binding in self._inputs]
        pieces: list[list[Array]] = []
        for start in range(0, rows, step):
            part = [array[start : start + step] for array in whole]
            missing = step - part[0].shape[0]
            if missing:
                part = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in part]
            pieces.append([np.array(result[: step - missing]) for result in self._model.invoke(part)])
        return [np.concatenate(column) for column in zip(*pieces, strict=True)]


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    if len(shape) != len(spec.shape) or 0 in shape:
        return False
    return all(want in (FREE, got) for want, got in zip(spec.shape, shape, strict=True))
