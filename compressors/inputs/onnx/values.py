"""What flows between the operators of an ONNX graph: tensors, and numbers that are known while it is being read.

Exporters write shape arithmetic as operators (Shape, Gather, Concat, Reshape). Its numbers are kept apart from the
tensors, as numpy arrays of Python numbers, so that torch sees lengths and not computations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from compressors.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from compressors.inputs.onnx.gate import Tensor

    Known: TypeAlias = NDArray[np.object_]
    Value: TypeAlias = torch.Tensor | Known | None  # None: an input that is not given
    Attributes: TypeAlias = dict[str, Any]
    Operator: TypeAlias = Callable[[Attributes, Sequence[Value]], Value | tuple[Value, ...]]

TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
}  # by TensorProto.DataType


def array_of(constant: Tensor) -> NDArray[Any]:
    """The numbers of a constant, in its lengths."""
    kind = np.dtype(str(TYPES[constant.data_type]).removeprefix("torch."))
    if constant.raw is None:
        return np.array(constant.values, kind).reshape(constant.dims)
    return np.frombuffer(constant.raw, kind).reshape(constant.dims).copy()


def known(numbers: object) -> Known:
    """Numbers as a known value; torch's symbolic lengths among them stay what they are."""
    if isinstance(numbers, list | tuple):
        array = np.empty(len(numbers), object)
        array[:] = numbers
        return array
    scalar = np.empty((), object)
    scalar[()] = numbers
    return scalar


def tensor(value: Value) -> torch.Tensor:
    """A value as a tensor.

    Raises:
        ConversionError: it is not given, or depends on the length of the batch.
    """
    if isinstance(value, torch.Tensor):
        return value
    if value is None:
        raise ConversionError("an input is not given")
    if any(isinstance(one, torch.SymInt | torch.SymFloat) for one in value.ravel()):
        raise ConversionError("it computes with the length of the batch")
    return torch.tensor(value.tolist())


def operand(value: Value) -> Any:  # noqa: ANN401  a tensor or a number
    """A value for arithmetic: a single known number stays a number."""
    if isinstance(value, np.ndarray) and value.size == 1:
        return value.item()
    return tensor(value)


def numbers(value: Value, what: str) -> list[Any]:
    """Known numbers as a list.

    Raises:
        ConversionError: they are computed from the model's input; the sentence says which they are.
    """
    if isinstance(value, np.ndarray):
        return list(value.ravel())
    raise ConversionError(f"{what} depends on the model's input")


def number(value: Value, what: str) -> Any:  # noqa: ANN401  int or float
    """One known number; see `numbers`."""
    found = numbers(value, what)
    if len(found) != 1:
        raise ConversionError(f"{what} is not one number")
    return found[0]


def optional(values: Sequence[Value], index: int) -> Value:
    """An input that need not be given."""
    return values[index] if index < len(values) else None
