"""Between an app's tensors and a file's: quantization, element types, and batches that the file does not take at once.

The signature that apps see never changes with the variant, so every difference between the two is settled here.
Decisions: a quantized tensor takes `round(x / scale) + zero_point`, saturated at the ends of its type. NaN has no
integer; it becomes the zero point, that is 0.0. Whoever serves apps refuses NaN and infinity before (`require_finite`),
so that the answer to bad input does not depend on the variant that happens to run.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_agent.errors import EdgeAgentError
from edge_agent.protocol.manifest import TensorBinding
from edge_agent.protocol.signature import FREE, Datatype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from edge_agent.protocol.signature import ModelSignature, TensorSpec
    from edge_agent.runtimes.base import Array, FileTensor, LoadedModel

    Conversion = Callable[[Array], Array]


_INT64_MAX = np.iinfo(np.int64).max


class BindingError(EdgeAgentError):
    """The file's tensors do not fit the signature."""

    code = "load_failed"


class InputError(EdgeAgentError):
    """The caller's tensors do not fit the signature; the sentence says how."""

    code = "bad_input"


def bind(
    specs: Sequence[TensorSpec], tensors: Sequence[FileTensor], *, order: Sequence[int] | None = None
) -> tuple[TensorBinding, ...]:
    """Tie each tensor of the signature to a tensor of the file.

    Args:
        specs: the signature's inputs, or its outputs.
        tensors: the file's, as the runtime lists them.
        order: for each spec the position of its tensor; by default the same position.

    Raises:
        BindingError: their number or their sample shapes differ.
    """
    if len(specs) != len(tensors):
        raise BindingError(f"the signature has {len(specs)} tensors, the file has {len(tensors)}")
    positions = range(len(specs)) if order is None else order
    if sorted(positions) != list(range(len(specs))):
        raise BindingError(f"the order {list(positions)} does not name each of the file's {len(tensors)} tensors once")
    bindings = []
    for spec, index in zip(specs, positions, strict=True):
        tensor = tensors[index]
        if len(tensor.shape) != len(spec.shape) or tensor.shape[1:] != spec.sample_shape:
            raise BindingError(
                f"{spec.name} has the shape {list(spec.shape)}, but tensor {index} of the file has {list(tensor.shape)}"
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
    """An app's values as the file wants them; what an integer type can't hold saturates, NaN becomes 0.0."""
    dtype = np.dtype(binding.datatype.numpy_name)
    if values.dtype == dtype and binding.scale is None:
        return np.ascontiguousarray(values)
    if not np.issubdtype(dtype, np.integer):
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=dtype)
    if binding.scale is None and not np.issubdtype(values.dtype, np.floating):
        bounds = np.iinfo(dtype)
        whole: Array = np.clip(np.asarray(values, dtype=np.int64), bounds.min, min(bounds.max, _INT64_MAX)).astype(
            dtype
        )
        return whole
    return _quantize(values, dtype, 1.0 if binding.scale is None else binding.scale, binding.zero_point)


def _quantize(values: Array, dtype: np.dtype[Any], scale: float, zero_point: int) -> Array:
    bounds = np.iinfo(dtype)
    # float32 counts exactly up to 2^24, so wider integers than 16 bits need float64
    work: type[np.floating[Any]] = np.float32 if dtype.itemsize <= 2 else np.float64  # noqa: PLR2004  a 16-bit integer
    with np.errstate(over="ignore"):
        scaled = np.rint(np.asarray(values, dtype=work) / work(scale))
    scaled = np.nan_to_num(scaled, copy=False) + zero_point
    low, high = float(bounds.min), float(bounds.max)
    if int(high) > bounds.max:  # the float next below 2^63 is the largest that converts back
        high = float(np.nextafter(high, 0.0))
    quantized: Array = np.clip(scaled, low, high).astype(dtype)
    return quantized


def from_file(values: Array, binding: TensorBinding, spec: TensorSpec) -> Array:
    """A file's values as the app knows them."""
    wanted = np.dtype(spec.datatype.numpy_name)
    if binding.scale is None or not np.issubdtype(values.dtype, np.integer):
        return values.astype(wanted, copy=False)
    real = (values.astype(np.float32) - np.float32(binding.zero_point)) * np.float32(binding.scale)
    return (np.rint(real) if np.issubdtype(wanted, np.integer) else real).astype(wanted, copy=False)


def require_finite(arrays: Mapping[str, Array]) -> None:
    """Refuse NaN and infinity: an int8 variant could only guess what they mean.

    Raises:
        InputError: names the input and its first sample that is bad.
    """
    for name, array in arrays.items():
        if array.dtype.kind != "f" or np.isfinite(array).all():
            continue
        flat = np.flatnonzero(~np.isfinite(array))
        sample = int(flat[0]) // max(1, array[0].size) if array.ndim else 0
        raise InputError(f"input {name} holds NaN or infinity, first in sample {sample}: send finite numbers")


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
        """Check that file and bindings fit.

        Raises:
            BindingError: they do not.
        """
        self.signature = signature
        self._model = model
        self._inputs = _pair("input", signature.inputs, inputs, model.inputs)
        self._outputs = _pair("output", signature.outputs, outputs, model.outputs)
        self._to_file = [(spec.name, _conversion_in(spec, binding)) for spec, binding in self._inputs]
        self._from_file = [(spec.name, _conversion_out(spec, binding)) for spec, binding in self._outputs]
        self._dtypes = {spec.name: np.dtype(spec.datatype.numpy_name) for spec in signature.inputs}
        self._app_batch = _common(spec.shape for spec in signature.inputs)
        self._file_batch = _common(binding.shape for binding in inputs)
        self._check_batches()

    def _check_batches(self) -> None:
        if self._app_batch is not None and self._app_batch == self._file_batch:
            return
        if all(spec.shape == binding.shape for spec, binding in self._inputs):
            self._app_batch = None  # nothing to cut: inputs with batches of their own, as the file wants them
            return
        whole = [tuple(binding.shape) for _, binding in self._outputs]
        if self._app_batch is None or self._file_batch is None or any(s[:1] != (self._file_batch,) for s in whole):
            raise BindingError(
                "the file's batch differs from the signature's, and its tensors do not share one batch "
                f"dimension: inputs {[list(b.shape) for _, b in self._inputs]}, outputs {[list(s) for s in whole]}"
            )

    def samples(self, arrays: Mapping[str, Array]) -> int:
        """How many samples these inputs hold; they must have passed `check`."""
        return 1 if self._app_batch is None else len(next(iter(arrays.values())))

    @property
    def samples_per_invocation(self) -> int:
        """How many samples the interpreter takes at once."""
        return 1 if self._app_batch is None or self._file_batch is None else self._file_batch

    def invocations(self, rows: int) -> int:
        """How often the interpreter is invoked for this many samples."""
        return -(-rows // self.samples_per_invocation)

    def check(self, arrays: Mapping[str, Array]) -> int:
        """Whether an app's tensors fit; the number of samples.

        Raises:
            InputError: a name, a shape or an element type does not fit, or the batches differ.
        """
        if arrays.keys() != self._dtypes.keys():
            raise InputError(f"the inputs are {sorted(self._dtypes)}, got {sorted(arrays)}")
        rows: int | None = None
        for spec in self.signature.inputs:
            array = arrays[spec.name]
            if array.dtype != self._dtypes[spec.name]:
                raise InputError(f"input {spec.name} is {spec.datatype}, got {array.dtype}")
            if not fits(array.shape, spec):
                raise InputError(f"input {spec.name} has the shape {list(spec.shape)}, got {list(array.shape)}")
            if spec.shape[:1] == (FREE,):
                if rows is not None and array.shape[0] != rows:
                    raise InputError(f"input {spec.name} has {array.shape[0]} samples, another one has {rows}")
                rows = array.shape[0]
        return self.samples(arrays)

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Infer; see `check` for what is asked of the arrays."""
        return self.run_checked(arrays, self.check(arrays))

    def run_checked(self, arrays: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Infer on arrays that `check` has passed, with the number of samples that it gave."""
        return self.join(list(self.pieces(arrays, rows)))

    def pieces(self, arrays: Mapping[str, Array], rows: int) -> Iterator[list[Array]]:
        """The same piece by piece: each step invokes the interpreter once, with as many samples as the file takes.

        The last piece is filled up with its own last sample, and cut again. Pieces of several requests may alternate.

        Args:
            arrays: of `rows` samples; `check` has passed them.
            rows: the number that `check` gave.

        Returns:
            `invocations(rows)` times the file's outputs, for `join`.
        """
        inputs = [convert(arrays[name]) for name, convert in self._to_file]
        step = self.samples_per_invocation
        if rows == step:
            yield self._model.invoke(inputs)
            return
        for start in range(0, rows, step):
            part = [array[start : start + step] for array in inputs]
            missing = step - part[0].shape[0]
            if missing:
                part = [np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) for array in part]
            yield [result[: step - missing] for result in self._model.invoke(part)]

    def join(self, pieces: Sequence[list[Array]]) -> dict[str, Array]:
        """The app's outputs of a request, from all its pieces in order."""
        whole = pieces[0] if len(pieces) == 1 else [np.concatenate(column) for column in zip(*pieces, strict=True)]
        return {name: convert(result) for (name, convert), result in zip(self._from_file, whole, strict=True)}


def fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    """Whether an array of this shape may be given for a tensor of the signature."""
    if len(shape) != len(spec.shape) or 0 in shape:
        return False
    return all(want in (FREE, got) for want, got in zip(spec.shape, shape, strict=True))


def _pair(
    kind: str, specs: Sequence[TensorSpec], bindings: Sequence[TensorBinding], tensors: Sequence[FileTensor]
) -> list[tuple[TensorSpec, TensorBinding]]:
    """Spec and binding of each of the file's tensors, in the file's order."""
    by_name = {spec.name: spec for spec in specs}
    if sorted(binding.index for binding in bindings) != list(range(len(tensors))):
        raise BindingError(
            f"the manifest binds the {kind}s {[b.index for b in bindings]}, the file has {len(tensors)} of them"
        )
    pairs = []
    for binding in sorted(bindings, key=lambda b: b.index):
        spec, tensor = by_name.get(binding.name), tensors[binding.index]
        if spec is None:
            raise BindingError(f"the manifest binds the {kind} {binding.name}, which the signature does not have")
        if (binding.shape, binding.datatype) != (tensor.shape, tensor.datatype):
            raise BindingError(
                f"{kind} {spec.name} is {binding.datatype} {list(binding.shape)} in the manifest, "
                f"but {tensor.datatype} {list(tensor.shape)} in the file"
            )
        pairs.append((spec, binding))
    return pairs


def _conversion_in(spec: TensorSpec, binding: TensorBinding) -> Conversion:
    if binding.scale is None and spec.datatype == binding.datatype:
        return np.ascontiguousarray
    narrow = binding.datatype in (Datatype.INT8, Datatype.UINT8, Datatype.INT16, Datatype.UINT16)
    if binding.scale is not None and narrow and spec.datatype is Datatype.FP32 and spec.shape:
        return _quantizer(binding, binding.scale)
    return partial(to_file, binding=binding)


def _conversion_out(spec: TensorSpec, binding: TensorBinding) -> Conversion:
    if binding.scale is None and spec.datatype == binding.datatype:
        return _unchanged
    if binding.scale is not None and spec.datatype is Datatype.FP32 and binding.datatype.numpy_name[0] in "iu":
        return _dequantizer(binding, binding.scale)
    return partial(from_file, binding=binding, spec=spec)


def _quantizer(binding: TensorBinding, scale: float) -> Conversion:
    """`to_file` for float32 arrays and narrow integers, with everything looked up before: 7 us instead of 20."""
    dtype = np.dtype(binding.datatype.numpy_name)
    bounds = np.iinfo(dtype)
    step, zero = np.float32(scale), np.float32(binding.zero_point)
    low, high = np.float32(bounds.min), np.float32(bounds.max)

    def quantize(values: Array) -> Array:
        with np.errstate(over="ignore"):
            scaled = np.divide(values, step, order="C")
        np.rint(scaled, out=scaled)
        scaled += zero
        np.maximum(scaled, low, out=scaled)
        np.minimum(scaled, high, out=scaled)
        if np.isnan(scaled).any():
            np.nan_to_num(scaled, copy=False, nan=float(zero))
        return scaled.astype(dtype)

    return quantize


def _dequantizer(binding: TensorBinding, scale: float) -> Conversion:
    """`from_file` for float32 answers."""
    step, zero = np.float32(scale), np.float32(binding.zero_point)

    def dequantize(values: Array) -> Array:
        real = values.astype(np.float32)
        real -= zero
        real *= step
        return real

    return dequantize


def _unchanged(values: Array) -> Array:
    return values


def _common(shapes: Iterable[tuple[int, ...]]) -> int | None:
    """The first dimension that all shapes share, if they do."""
    firsts = {shape[0] if shape else None for shape in shapes}
    return firsts.pop() if len(firsts) == 1 else None
