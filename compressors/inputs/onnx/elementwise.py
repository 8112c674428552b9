"""ONNX operators that work element by element, and sums over axes."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from compressors.errors import ConversionError
from compressors.inputs.onnx.values import TYPES, known, number, numbers, operand, optional, tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from compressors.inputs.onnx.values import Attributes, Known, Operator, Value

_SIX = 6.0


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return lambda _attributes, values: function(tensor(values[0]))


def _binary(function: Callable[[Any, Any], Any], of_numbers: Callable[[Any, Any], Any] | None = None) -> Operator:
    """An operator with two inputs; numbers that are both known stay known."""

    def apply(_attributes: Attributes, values: Sequence[Value]) -> Value:
        left, right = values[0], values[1]
        if of_numbers is not None and isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
            result: Known = np.asarray(np.frompyfunc(of_numbers, 2, 1)(left, right), object)
            return result
        first, second = operand(left), operand(right)
        if not isinstance(first, torch.Tensor) and not isinstance(second, torch.Tensor):
            first = tensor(left)
        found: torch.Tensor = function(first, second)
        return found

    return apply


def _quotient(left: Any, right: Any) -> Any:  # noqa: ANN401  tensors or numbers
    if all(_is_whole(one) for one in (left, right)):
        return torch.div(left, right, rounding_mode="trunc")
    return left / right


def _is_whole(value: Any) -> bool:  # noqa: ANN401
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point()
    return not isinstance(value, float)


def _number_quotient(left: Any, right: Any) -> Any:  # noqa: ANN401
    return left / right if isinstance(left, float) or isinstance(right, float) else left // right


def _pairwise(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Operator:
    def apply(_attributes: Attributes, values: Sequence[Value]) -> Value:
        found = tensor(values[0])
        for value in values[1:]:
            found = function(found, tensor(value))
        return found

    return apply


def _clip(_attributes: Attributes, values: Sequence[Value]) -> Value:
    low, high = (
        None if (end := optional(values, index)) is None else float(number(end, "the bound")) for index in (1, 2)
    )
    x = tensor(values[0])
    if (low, high) == (0.0, _SIX):
        return functional.relu6(x)
    if low is None and high is None:
        return x
    return torch.clamp(x, low, high)


def _gelu(attributes: Attributes, values: Sequence[Value]) -> Value:
    return functional.gelu(tensor(values[0]), approximate=attributes.get("approximate", "none"))


def _leaky_relu(attributes: Attributes, values: Sequence[Value]) -> Value:
    return functional.leaky_relu(tensor(values[0]), attributes.get("alpha", 0.01))


def _prelu(_attributes: Attributes, values: Sequence[Value]) -> Value:
    x, slope = tensor(values[0]), tensor(values[1])
    return torch.where(x < 0, x * slope, x)


def _elu(attributes: Attributes, values: Sequence[Value]) -> Value:
    return functional.elu(tensor(values[0]), attributes.get("alpha", 1.0))


def _hard_sigmoid(attributes: Attributes, values: Sequence[Value]) -> Value:
    return torch.clamp(tensor(values[0]) * attributes.get("alpha", 0.2) + attributes.get("beta", 0.5), 0.0, 1.0)


def _softmax(attributes: Attributes, values: Sequence[Value]) -> Value:
    return torch.softmax(tensor(values[0]), attributes.get("axis", -1))


def _log_softmax(attributes: Attributes, values: Sequence[Value]) -> Value:
    return torch.log_softmax(tensor(values[0]), attributes.get("axis", -1))


def _sqrt(_attributes: Attributes, values: Sequence[Value]) -> Value:
    if isinstance(values[0], np.ndarray):
        return known([math.sqrt(one) for one in values[0].ravel()]).reshape(values[0].shape)
    return torch.sqrt(tensor(values[0]))


def _cast(attributes: Attributes, values: Sequence[Value]) -> Value:
    kind = TYPES.get(attributes.get("to", 0))
    if kind is None:
        raise ConversionError(f"it casts to the type {attributes.get('to')} of ONNX")
    value = values[0]
    if isinstance(value, np.ndarray):
        if kind.is_floating_point:
            return known([float(one) for one in value.ravel()]).reshape(value.shape)
        return value if kind is not torch.bool else tensor(value).to(kind)
    return tensor(value).to(kind)


def _where(_attributes: Attributes, values: Sequence[Value]) -> Value:
    found: torch.Tensor = torch.where(tensor(values[0]), operand(values[1]), operand(values[2]))
    return found


def _reduce(function: Callable[..., torch.Tensor]) -> Operator:
    """A sum over axes: they are the second input, or before operator set 18 an attribute; none: all of them."""

    def apply(attributes: Attributes, values: Sequence[Value]) -> Value:
        x, given = tensor(values[0]), optional(values, 1)
        axes = list(attributes.get("axes", ())) if given is None else numbers(given, "the axes")
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return x
        return function(x, [int(axis) for axis in axes] or list(range(x.dim())), bool(attributes.get("keepdims", 1)))

    return apply


def _norm(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:  # noqa: FBT001
    return torch.sqrt(torch.sum(x * x, axes, keep))


def _arg_max(attributes: Attributes, values: Sequence[Value]) -> Value:
    return torch.argmax(tensor(values[0]), attributes.get("axis", 0), bool(attributes.get("keepdims", 1)))


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(operator.add, operator.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _binary(_quotient, _number_quotient),
    "Dropout": lambda _attributes, values: values[0],
    "Elu": _elu,
    "Equal": _binary(operator.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Greater": _binary(operator.gt),
    "GreaterOrEqual": _binary(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": lambda _attributes, values: values[0],
    "LeakyRelu": _leaky_relu,
    "Less": _binary(operator.lt),
    "LessOrEqual": _binary(operator.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _log_softmax,
    "Max": _pairwise(torch.maximum),
    "Min": _pairwise(torch.minimum),
    "Mish": _unary(functional.mish),
    "Mod": _binary(operator.mod, operator.mod),
    "Mul": _binary(operator.mul, operator.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(operator.pow),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduce(_norm),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _unary(functional.relu),
    "Selu": _unary(functional.selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Sqrt": _sqrt,
    "Sub": _binary(operator.sub, operator.sub),
    "Sum": _pairwise(torch.add),
    "Swish": _unary(functional.silu),
    "Tanh": _unary(torch.tanh),
    "Where": _where,
}
