"""ONNX operators that move elements or compute shapes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from compressors.errors import ConversionError
from compressors.inputs.onnx.values import array_of, known, number, numbers, optional, tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressors.inputs.onnx.gate import Tensor
    from compressors.inputs.onnx.values import Attributes, Operator, Value

MAX_MADE_ELEMENTS = 1 << 24
_FAR = 1 << 31  # what exporters write for "to the end" is larger


def _shape(attributes: Attributes, values: Sequence[Value]) -> Value:
    value = values[0]
    lengths = list(value.shape) if isinstance(value, np.ndarray) else list(tensor(value).shape)
    return known(lengths[attributes.get("start", 0) : attributes.get("end")])


def _reshape(attributes: Attributes, values: Sequence[Value]) -> Value:
    lengths = numbers(values[1], "the shape")
    if isinstance(values[0], np.ndarray):
        return values[0].reshape([int(one) for one in lengths])
    x = tensor(values[0])
    if not attributes.get("allowzero", 0):
        lengths = [x.shape[at] if isinstance(one, int) and one == 0 else one for at, one in enumerate(lengths)]
    return x.reshape(lengths)


def _flatten(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, axis = tensor(values[0]), attributes.get("axis", 1)
    if axis == 1:
        return torch.flatten(x, 1)
    axis += x.dim() if axis < 0 else 0
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _axes(attributes: Attributes, values: Sequence[Value]) -> list[int] | None:
    given = optional(values, 1)
    if given is not None:
        return [int(axis) for axis in numbers(given, "the axes")]
    return list(attributes["axes"]) if attributes.get("axes") else None


def _squeeze(attributes: Attributes, values: Sequence[Value]) -> Value:
    axes = _axes(attributes, values)
    if isinstance(values[0], np.ndarray):
        return np.asarray(np.squeeze(values[0], None if axes is None else tuple(axes)), object)
    x = tensor(values[0])
    if axes is None:
        raise ConversionError("it names no axes")
    return torch.squeeze(x, axes)


def _unsqueeze(attributes: Attributes, values: Sequence[Value]) -> Value:
    axes = _axes(attributes, values) or []
    if isinstance(values[0], np.ndarray):
        return np.expand_dims(values[0], tuple(axes))
    x = tensor(values[0])
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = torch.unsqueeze(x, axis)
    return x


def _transpose(attributes: Attributes, values: Sequence[Value]) -> Value:
    x = tensor(values[0])
    return x.permute(attributes.get("perm") or tuple(reversed(range(x.dim()))))


def _concat(attributes: Attributes, values: Sequence[Value]) -> Value:
    if all(isinstance(value, np.ndarray) for value in values):
        return np.concatenate([np.asarray(value, object) for value in values], attributes["axis"])
    return torch.cat([tensor(value) for value in values], attributes["axis"])


def _split(attributes: Attributes, values: Sequence[Value]) -> tuple[Value, ...]:
    x, axis, given = tensor(values[0]), attributes.get("axis", 0), optional(values, 1)
    if given is not None:
        return tuple(torch.split(x, [int(one) for one in numbers(given, "the lengths")], axis))
    count = attributes.get("num_outputs") or attributes["outputs"]
    return tuple(torch.split(x, -(-x.shape[axis] // count), axis))


def _slice(_attributes: Attributes, values: Sequence[Value]) -> Value:
    starts, ends = numbers(values[1], "the start"), numbers(values[2], "the end")
    given_axes, given_steps = optional(values, 3), optional(values, 4)
    axes = range(len(starts)) if given_axes is None else numbers(given_axes, "the axes")
    steps = [1] * len(starts) if given_steps is None else numbers(given_steps, "the step")
    found: Any = values[0] if isinstance(values[0], np.ndarray) else tensor(values[0])
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if isinstance(found, torch.Tensor) and step < 1:
            raise ConversionError("it goes backwards")
        index = [slice(None)] * found.ndim
        index[int(axis)] = slice(start, None if isinstance(end, int) and end > _FAR else end, int(step))
        found = found[tuple(index)]
    return found  # type: ignore[no-any-return]


def _gather(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, indices, axis = values[0], values[1], attributes.get("axis", 0)
    if isinstance(x, np.ndarray):
        return np.asarray(np.take(x, [int(one) for one in numbers(indices, "the index")], axis), object).reshape(
            np.shape(indices) if isinstance(indices, np.ndarray) else (-1,)
        )
    source = tensor(x)
    if isinstance(indices, np.ndarray):
        if indices.ndim == 0:
            return source.select(axis, int(indices.item()))
        return torch.index_select(source, axis, tensor(indices) % source.shape[axis])
    where = tensor(indices)
    if axis == 0 and source.dim() == 2:  # noqa: PLR2004  a table: this is how torch looks rows up
        return functional.embedding(where.long(), source)
    flat = torch.index_select(source, axis, where.reshape(-1).long())
    axis %= source.dim()
    return flat.reshape(*source.shape[:axis], *where.shape, *source.shape[axis + 1 :])


def _expand(_attributes: Attributes, values: Sequence[Value]) -> Value:
    x, lengths = tensor(values[0]), numbers(values[1], "the shape")
    own = [1] * (len(lengths) - x.dim()) + list(x.shape)
    lengths = [1] * (len(own) - len(lengths)) + lengths
    shape = [mine if isinstance(asked, int) and asked == 1 else asked for mine, asked in zip(own, lengths, strict=True)]
    _refuse_more_than_memory_holds(shape)
    return x.expand(shape)


def _tile(_attributes: Attributes, values: Sequence[Value]) -> Value:
    x, repeats = tensor(values[0]), numbers(values[1], "the repeats")
    _refuse_more_than_memory_holds([*x.shape, *repeats])
    return x.repeat(repeats)


def _constant(attributes: Attributes, _values: Sequence[Value]) -> Value:
    for field in ("value_float", "value_int"):
        if field in attributes:
            return known(attributes[field])
    for field in ("value_floats", "value_ints"):
        if field in attributes:
            return known(list(attributes[field]))
    raise ConversionError("the constant is of a kind that is not supported")


def _refuse_more_than_memory_holds(lengths: Sequence[Any]) -> None:
    """A few bytes of a file must not become more than memory holds, or than anybody waits for."""
    elements = math.prod(one for one in lengths if isinstance(one, int))
    if elements > MAX_MADE_ELEMENTS:
        raise ConversionError(f"it makes {elements} elements of few, at most {MAX_MADE_ELEMENTS} are allowed")


def _constant_of_shape(attributes: Attributes, values: Sequence[Value]) -> Value:
    lengths = numbers(values[0], "the shape")
    _refuse_more_than_memory_holds(lengths)
    fill: Tensor | None = attributes.get("value")
    return torch.full(lengths, 0.0 if fill is None else array_of(fill).item())


def _pad(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, pads = tensor(values[0]), [int(one) for one in numbers(values[1], "the padding")]
    fill, axes = optional(values, 2), optional(values, 3)
    sides = list(range(x.dim())) if axes is None else [int(one) % x.dim() for one in numbers(axes, "the axes")]
    amounts = [0] * (2 * x.dim())  # torch begins with the last dimension
    for at, axis in enumerate(sides):
        amounts[2 * (x.dim() - 1 - axis)] = pads[at]
        amounts[2 * (x.dim() - 1 - axis) + 1] = pads[at + len(sides)]
    mode = attributes.get("mode", "constant")
    if mode == "constant":
        return functional.pad(x, amounts, value=0.0 if fill is None else float(number(fill, "the value")))
    if mode not in {"reflect", "edge"}:
        raise ConversionError(f"it pads by {mode}")
    while len(amounts) > 2 and amounts[-2:] == [0, 0]:  # noqa: PLR2004  torch pads so only the last dimensions
        amounts = amounts[:-2]
    return functional.pad(x, amounts, mode={"reflect": "reflect", "edge": "replicate"}[mode])


def _resize(attributes: Attributes, values: Sequence[Value]) -> Value:
    """Between pictures, in the ways that torch has, too."""
    x, factors, sizes = tensor(values[0]), attributes.get("scales"), optional(values, 3)
    mode, corners = attributes.get("mode", "nearest"), attributes.get("coordinate_transformation_mode", "half_pixel")
    if x.dim() != 4 or attributes.get("axes"):  # noqa: PLR2004  pictures
        raise ConversionError("it resizes something else than pictures")
    if sizes is not None and numbers(sizes, "the size"):
        lengths = [int(one) for one in numbers(sizes, "the size")[2:]]
    elif factors:
        lengths = [math.floor(int(have) * by) for have, by in zip(x.shape[2:], factors[2:], strict=True)]
    else:
        raise ConversionError("the scale depends on the model's input")
    if mode == "nearest" and all(new % old == 0 for new, old in zip(lengths, x.shape[2:], strict=True)):
        return functional.interpolate(x, lengths, mode="nearest")
    if mode == "linear" and corners in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        return functional.interpolate(x, lengths, mode="bilinear", align_corners=corners == "align_corners")
    raise ConversionError(f"it resizes by {mode} ({corners})")


OPERATORS: dict[str, Operator] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Pad": _pad,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
