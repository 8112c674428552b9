"""Calls that stay functions: `aten` operators as the public functions of torch that take the same arguments.

Whatever is not listed here stays the `aten` operator that it is.
"""

from __future__ import annotations

import operator
import sys
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from compressors.rehydrate.call import shape_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.rehydrate.call import Call

# functions of torch that are generated from the same schemas as the operators of these names
_TORCH = """
abs add addcdiv addcmul addmm all amax amin any arange argmax argmin argsort atan batch_norm bitwise_and bitwise_not
bitwise_or bmm cat ceil chunk clamp clamp_max clamp_min clone conv1d conv2d conv3d conv_transpose1d conv_transpose2d
conv_transpose3d cos cumsum div embedding eq erf exp expm1 flatten floor floor_divide fmod full full_like gather ge
group_norm gt index_select isnan layer_norm le log log1p logical_and logical_not logical_or lt masked_fill matmul max
maximum mean min minimum mm movedim mul ne neg ones ones_like outer permute pow prelu prod reciprocal relu remainder
repeat_interleave reshape round rsqrt rsub select sigmoid sign sin softmax sort split split_with_sizes sqrt square
squeeze stack sub sum swapaxes t tan tanh tile topk transpose tril triu trunc unbind unsqueeze var where zeros
zeros_like
"""
_METHODS = frozenset(["contiguous", "expand", "expand_as", "repeat", "type_as", "unflatten", "view_as"])
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in _TORCH.split()},
    "linear": functional.linear,
    "view": torch.reshape,  # the same, and it also takes a batch that lies otherwise in memory than one sample did
    "_unsafe_view": torch.reshape,
    "scaled_dot_product_attention": functional.scaled_dot_product_attention,
}
_OPERATORS = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv}
_BINARY = 2
_FACTORIES = frozenset({"arange", "full", "ones", "zeros", "full_like", "ones_like", "zeros_like"})
_MADE_ALIKE = "_like"

# of a constant that nobody changes, they are the constant itself
COPIES = frozenset({"lift_fresh_copy", "lift_fresh", "detach", "detach_", "alias"})
ASSERTIONS = frozenset(
    {
        "_assert_tensor_metadata",
        "_assert_scalar",
        "_assert_async",
        "sym_constrain_range",
        "sym_constrain_range_for_size",
    }
)


def public_function(call: Call) -> tuple[str, Any, dict[str, Any]]:
    """How a graph makes this call: the kind of node, its target, and its keyword arguments; positional ones stay."""
    name, node = call.operator, call.node
    keywords = dict(node.kwargs)
    if name in _FACTORIES:
        keywords = {key: value for key, value in keywords.items() if key not in {"device", "pin_memory", "layout"}}
    if name == "sym_size":
        return "call_method", "size", keywords
    if name in _OPERATORS and len(node.args) == _BINARY and not keywords:
        return "call_function", _OPERATORS[name], keywords
    if name in _METHODS:
        return "call_method", name, keywords
    if name == "to" and not keywords and isinstance(node.args[1], torch.dtype):
        return "call_method", name, keywords
    return "call_function", _FUNCTIONS.get(name, node.target), keywords


def has_public_form(operator_name: str) -> bool:
    """Whether an operator of this name is known to torch as a function or method."""
    return operator_name in _OPERATORS or operator_name in _FUNCTIONS or operator_name in _METHODS


def needs_device(call: Call) -> bool:
    """Whether it makes a tensor from nothing, which must lie where the network's inputs lie."""
    return call.operator in _FACTORIES and not call.operator.endswith(_MADE_ALIKE)


def index_of_slice(call: Call) -> tuple[slice, ...] | None:
    """`slice` as the index of a subscript: x[:, start:end]; None where its axis is not known."""
    given, rank = call.arguments, len(shape_of(call.first))
    if call.operator != "slice" or not rank:
        return None
    end = given["end"]
    cut = slice(given["start"], None if isinstance(end, int) and end >= sys.maxsize else end, given["step"])
    axis: int = given["dim"] % rank
    return (slice(None),) * axis + (cut,)
