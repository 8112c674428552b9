"""ONNX operators that have weights or windows: products, convolutions, pooling, normalization, recurrence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from compressors.errors import ConversionError
from compressors.inputs.onnx.values import optional, tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compressors.inputs.onnx.values import Attributes, Operator, Value

_CONVOLUTIONS: dict[int, Callable[..., torch.Tensor]] = {
    3: functional.conv1d,
    4: functional.conv2d,
    5: functional.conv3d,
}
_TRANSPOSED: dict[int, Callable[..., torch.Tensor]] = {3: functional.conv_transpose1d, 4: functional.conv_transpose2d}
_MAX_POOLS: dict[int, Callable[..., torch.Tensor]] = {3: functional.max_pool1d, 4: functional.max_pool2d}
_MEAN_POOLS: dict[int, Callable[..., torch.Tensor]] = {3: functional.avg_pool1d, 4: functional.avg_pool2d}
_MEANS: dict[int, Callable[..., torch.Tensor]] = {
    3: functional.adaptive_avg_pool1d,
    4: functional.adaptive_avg_pool2d,
}
_SPATIAL_FROM = 2  # after batch and channels


def _of_rank(table: dict[int, Callable[..., torch.Tensor]], x: torch.Tensor) -> Callable[..., torch.Tensor]:
    if x.dim() not in table:
        raise ConversionError(f"it works on {x.dim() - _SPATIAL_FROM} spatial dimensions")
    return table[x.dim()]


def _bias(values: Sequence[Value], index: int) -> torch.Tensor | None:
    value = optional(values, index)
    return None if value is None else tensor(value)


def _matmul(_attributes: Attributes, values: Sequence[Value]) -> Value:
    return torch.matmul(tensor(values[0]), tensor(values[1]))


def linear(attributes: Attributes, values: Sequence[Value]) -> Value:
    """A product with a constant matrix, given as torch keeps it: (out, in)."""
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    x, weight, bias = tensor(values[0]), tensor(values[1]), _bias(values, 2)
    x = x.t() if attributes.get("transA", 0) else x
    if (alpha, beta) == (1.0, 1.0) and (bias is None or bias.dim() == 1):
        return functional.linear(x, weight, bias)
    product: torch.Tensor = alpha * functional.linear(x, weight)
    return product if bias is None else product + beta * bias


def _gemm(attributes: Attributes, values: Sequence[Value]) -> Value:
    matrix = tensor(values[1])
    return linear(attributes, [values[0], matrix if attributes.get("transB", 0) else matrix.t(), *values[2:]])


def _paddings(attributes: Attributes, x: torch.Tensor, window: Sequence[int]) -> tuple[list[int], list[int]]:
    """How much to add before and after each spatial dimension."""
    rank = len(window)
    mode = attributes.get("auto_pad", "NOTSET")
    if mode == "NOTSET":
        pads = list(attributes.get("pads") or [0] * (2 * rank))
        return pads[:rank], pads[rank:]
    if mode == "VALID":
        return [0] * rank, [0] * rank
    strides, dilations = attributes.get("strides") or [1] * rank, attributes.get("dilations") or [1] * rank
    before, after = [], []
    for at, length in enumerate(x.shape[_SPATIAL_FROM:]):
        reach = (window[at] - 1) * dilations[at] + 1
        missing = max(0, (-(-int(length) // strides[at]) - 1) * strides[at] + reach - int(length))
        small, large = missing // 2, missing - missing // 2
        before.append(small if mode == "SAME_UPPER" else large)
        after.append(large if mode == "SAME_UPPER" else small)
    return before, after


def _padded(
    x: torch.Tensor, before: list[int], after: list[int], fill: float, *, at_most: Sequence[int] | None = None
) -> tuple[torch.Tensor, list[int]]:
    """The picture, and what an operator of torch may pad itself: it pads alike on both sides, in pools at most half."""
    fits = at_most is None or all(pad <= most for pad, most in zip(before, at_most, strict=True))
    if before == after and fits:
        return x, before
    amounts = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
    return functional.pad(x, amounts, value=fill), [0] * len(before)


def _conv(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, weight = tensor(values[0]), tensor(values[1])
    rank = weight.dim() - _SPATIAL_FROM
    x, padding = _padded(x, *_paddings(attributes, x, weight.shape[_SPATIAL_FROM:]), 0.0)
    return _of_rank(_CONVOLUTIONS, x)(
        x,
        weight,
        _bias(values, 2),
        tuple(attributes.get("strides") or [1] * rank),
        tuple(padding),
        tuple(attributes.get("dilations") or [1] * rank),
        attributes.get("group", 1),
    )


def _conv_transpose(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, weight = tensor(values[0]), tensor(values[1])
    rank = weight.dim() - _SPATIAL_FROM
    pads = list(attributes.get("pads") or [0] * (2 * rank))
    if attributes.get("auto_pad", "NOTSET") != "NOTSET" or attributes.get("output_shape") or pads[:rank] != pads[rank:]:
        raise ConversionError("it pads its two sides differently, or by the shape of its output")
    return _of_rank(_TRANSPOSED, x)(
        x,
        weight,
        _bias(values, 2),
        tuple(attributes.get("strides") or [1] * rank),
        tuple(pads[:rank]),
        tuple(attributes.get("output_padding") or [0] * rank),
        attributes.get("group", 1),
        tuple(attributes.get("dilations") or [1] * rank),
    )


def _max_pool(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, window = tensor(values[0]), tuple(attributes["kernel_shape"])
    half = [length // 2 for length in window]
    x, padding = _padded(x, *_paddings(attributes, x, window), float("-inf"), at_most=half)
    return _of_rank(_MAX_POOLS, x)(
        x,
        window,
        tuple(attributes.get("strides") or [1] * len(window)),
        tuple(padding),
        tuple(attributes.get("dilations") or [1] * len(window)),
        bool(attributes.get("ceil_mode", 0)),
    )


def _mean_pool(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, window = tensor(values[0]), tuple(attributes["kernel_shape"])
    before, after = _paddings(attributes, x, window)
    counts_padding = bool(attributes.get("count_include_pad", 0))
    if (before != after and not counts_padding) or any(one != 1 for one in attributes.get("dilations") or ()):
        raise ConversionError("it pads its two sides differently, or has gaps in its window")
    half = [length // 2 for length in window]
    x, padding = _padded(x, before, after, 0.0, at_most=half if counts_padding else None)
    return _of_rank(_MEAN_POOLS, x)(
        x,
        window,
        tuple(attributes.get("strides") or [1] * len(window)),
        tuple(padding),
        bool(attributes.get("ceil_mode", 0)),
        counts_padding,
    )


def _global_mean(_attributes: Attributes, values: Sequence[Value]) -> Value:
    x = tensor(values[0])
    return _of_rank(_MEANS, x)(x, 1)


def _global_max(_attributes: Attributes, values: Sequence[Value]) -> Value:
    x = tensor(values[0])
    return torch.amax(x, list(range(_SPATIAL_FROM, x.dim())), keepdim=True)


def _batch_norm(attributes: Attributes, values: Sequence[Value]) -> Value:
    if attributes.get("training_mode", 0):
        raise ConversionError("it is in training mode: export the model for inference")
    x, scale, bias, mean, variance = (tensor(value) for value in values[:5])
    return functional.batch_norm(x, mean, variance, scale, bias, training=False, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, axis = tensor(values[0]), attributes.get("axis", -1)
    shape = list(x.shape[axis:])
    return functional.layer_norm(x, shape, tensor(values[1]), _bias(values, 2), attributes.get("epsilon", 1e-5))


def _instance_norm(attributes: Attributes, values: Sequence[Value]) -> Value:
    x, scale, bias = (tensor(value) for value in values[:3])
    return functional.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def _lstm(attributes: Attributes, values: Sequence[Value]) -> tuple[Value, ...]:
    """Unrolled over the steps, as converters want it. Gates are in the order of ONNX: input, output, forget, cell."""
    plain = attributes.get("direction", "forward") == "forward" and not attributes.get("layout", 0)
    if not plain or attributes.get("activations") or optional(values, 4) is not None or optional(values, 7) is not None:
        raise ConversionError("only a forward LSTM with the usual activations is supported")
    x, weight, recurrent = tensor(values[0]), tensor(values[1])[0], tensor(values[2])[0]
    size, bias = recurrent.shape[-1], _bias(values, 3)
    both = None if bias is None else bias[0, : 4 * size] + bias[0, 4 * size :]
    hidden, cell = (_initial(optional(values, at), x, size) for at in (5, 6))
    answers = []
    for step in range(x.shape[0]):
        gates = functional.linear(x[step], weight, both) + functional.linear(hidden, recurrent)
        enter, leave, forget, new = torch.chunk(gates, 4, 1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(cell)
        answers.append(hidden)
    return torch.stack(answers)[:, None], hidden[None], cell[None]


def _initial(value: Value, x: torch.Tensor, size: int) -> torch.Tensor:
    return torch.zeros(x.shape[1], size) if value is None else tensor(value)[0]


OPERATORS: dict[str, Operator] = {
    "AveragePool": _mean_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_mean,
    "GlobalMaxPool": _global_max,
    "InstanceNormalization": _instance_norm,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
