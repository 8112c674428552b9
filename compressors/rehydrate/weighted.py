"""Layers with weights: which `aten` call is which `torch.nn` layer. What a rule does not know for sure it leaves alone.

A rule reads one call and gives the layer, built without weights on the meta device (no random numbers are drawn), with
the nodes that hold its weights and the node that it is applied to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import fx, nn

from compressors.rehydrate.call import Call, shape_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

META = "meta"
_MATRIX = 2
_NOT_PADDED = -1  # `padding_idx` of an embedding without one
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


@dataclass(frozen=True)
class Layer:
    """A layer to be: the module, the node it is applied to, and what fills its parameters and buffers."""

    module: nn.Module
    input: fx.Node
    weights: dict[str, fx.Node] = field(default_factory=dict)
    first_of_tuple: bool = False  # the operator gives a tuple, the layer its first part


def _weights(call: Call, **names: str) -> dict[str, fx.Node]:
    """Nodes of weights by the layer's name for them; the absent ones are left out."""
    found = {ours: call.constant(theirs) for ours, theirs in names.items()}
    return {name: node for name, node in found.items() if node is not None}


def _spread(value: Any, dimensions: int) -> Any:  # noqa: ANN401  a length, or one for each dimension
    if isinstance(value, str) or not isinstance(value, list | tuple):
        return value
    return tuple(value) * dimensions if len(value) == 1 else tuple(value)


def _all_integers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) for value in values)


def convolution(call: Call) -> Layer | None:
    """`conv1d`, `conv2d`, `conv3d`, their transposed forms, and `convolution`, which is all of them."""
    weight, applied = call.constant("weight"), call.input("input")
    if weight is None or applied is None or not call.is_absent_or_constant("bias"):
        return None
    shape, given = shape_of(weight), call.arguments
    dimensions = len(shape) - 2
    transposed = given.get("transposed", call.operator.startswith("conv_transpose"))
    kinds = _TRANSPOSED if transposed else _CONVOLUTIONS
    if dimensions not in kinds:
        return None
    kernel: Any = tuple(shape[2:])
    options = {
        "stride": _spread(given["stride"], dimensions),
        "padding": _spread(given["padding"], dimensions),
        "dilation": _spread(given["dilation"], dimensions),
        "groups": given["groups"],
        "bias": given["bias"] is not None,
        "device": META,
    }
    if transposed:
        options["output_padding"] = _spread(given["output_padding"], dimensions)
        channels = (shape[0], shape[1] * given["groups"])
    else:
        channels = (shape[1] * given["groups"], shape[0])
    module = kinds[dimensions](*channels, kernel_size=kernel, **options)
    return Layer(module, applied, _weights(call, weight="weight", bias="bias"))


def linear(call: Call) -> Layer | None:
    """`linear` with a matrix as its weight."""
    weight, applied = call.constant("weight"), call.input("input")
    if weight is None or applied is None or not call.is_absent_or_constant("bias") or len(shape_of(weight)) != _MATRIX:
        return None
    outputs, inputs = shape_of(weight)
    module = nn.Linear(inputs, outputs, bias=call.arguments["bias"] is not None, device=META)
    return Layer(module, applied, _weights(call, weight="weight", bias="bias"))


def matrix_product(call: Call) -> Layer | None:
    """`addmm`, `mm` and `matmul` by a transposed weight: what decompositions make of `linear`."""
    given = call.arguments
    adds = call.operator == "addmm"
    applied, product = call.input("mat1" if adds else "self"), call.input("other" if "other" in given else "mat2")
    weight = None if product is None else _transposed_weight(product)
    if weight is None or applied is None or applied.op == "get_attr":
        return None
    outputs, inputs = shape_of(weight)
    weights = {"weight": weight}
    if adds:
        bias = call.constant("self")
        if bias is None or shape_of(bias) != (outputs,) or given["alpha"] != 1 or given["beta"] != 1:
            return None
        weights["bias"] = bias
    return Layer(nn.Linear(inputs, outputs, bias=adds, device=META), applied, weights)


def _transposed_weight(node: fx.Node) -> fx.Node | None:
    """The matrix that a node transposes, where it is a weight."""
    call = Call.of(node)
    if call is None:
        return None
    weight = call.constant("self")
    if weight is None or len(shape_of(weight)) != _MATRIX:
        return None
    swaps = (
        call.operator == "t"
        or (call.operator == "permute" and [axis % _MATRIX for axis in call.arguments["dims"]] == [1, 0])
        or (call.operator == "transpose" and {call.arguments[name] % _MATRIX for name in ("dim0", "dim1")} == {0, 1})
    )
    return weight if swaps else None


def batch_norm(call: Call) -> Layer | None:
    """`batch_norm` of a network in evaluation mode, with statistics of its own."""
    applied, mean, variance = call.input("input"), call.constant("running_mean"), call.constant("running_var")
    if applied is None or mean is None or variance is None or not call.is_absent_or_constant("weight", "bias"):
        return None
    affine = call.arguments["weight"] is not None
    if affine != (call.arguments["bias"] is not None) or call.arguments.get("training", False):
        return None
    dimensions = len(shape_of(applied))
    if dimensions not in _BATCH_NORMS:
        return None
    momentum = call.arguments["momentum"] or None  # an average over all batches is exported as 0.0
    module = _BATCH_NORMS[dimensions](
        shape_of(mean)[0], eps=call.arguments["eps"], momentum=momentum, affine=affine, device=META
    )
    weights = _weights(call, weight="weight", bias="bias", running_mean="running_mean", running_var="running_var")
    return Layer(module, applied, weights, first_of_tuple=call.operator != "batch_norm")


def layer_norm(call: Call) -> Layer | None:
    """`layer_norm` and `native_layer_norm`."""
    applied, given = call.input("input"), call.arguments
    shape = given["normalized_shape"]
    if applied is None or not call.is_absent_or_constant("weight", "bias") or not _all_integers(shape):
        return None
    if given["weight"] is None and given["bias"] is not None:
        return None
    module = nn.LayerNorm(
        list(shape),
        eps=given["eps"],
        elementwise_affine=given["weight"] is not None,
        bias=given["bias"] is not None,
        device=META,
    )
    return Layer(module, applied, _weights(call, weight="weight", bias="bias"), call.operator != "layer_norm")


def group_norm(call: Call) -> Layer | None:
    """`group_norm` and `native_group_norm`."""
    applied, given = call.input("input"), call.arguments
    if applied is None or not call.is_absent_or_constant("weight", "bias"):
        return None
    affine = given["weight"] is not None
    channels = shape_of(applied)[1:2]
    if affine != (given["bias"] is not None) or not channels or not isinstance(channels[0], int):
        return None
    groups = given["group"] if "group" in given else given["num_groups"]
    module = nn.GroupNorm(groups, channels[0], eps=given["eps"], affine=affine, device=META)
    return Layer(module, applied, _weights(call, weight="weight", bias="bias"), call.operator != "group_norm")


def embedding(call: Call) -> Layer | None:
    """`embedding`; sparse gradients become dense ones, which every optimizer takes."""
    weight, applied, given = call.constant("weight"), call.input("indices"), call.arguments
    if weight is None or applied is None or len(shape_of(weight)) != _MATRIX:
        return None
    rows, width = shape_of(weight)
    module = nn.Embedding(
        rows,
        width,
        padding_idx=None if given["padding_idx"] == _NOT_PADDED else given["padding_idx"],
        scale_grad_by_freq=given["scale_grad_by_freq"],
        device=META,
    )
    return Layer(module, applied, {"weight": weight})


def prelu(call: Call) -> Layer | None:
    """`prelu`."""
    weight, applied = call.constant("weight"), call.input("self")
    if weight is None or applied is None or len(shape_of(weight)) != 1:
        return None
    return Layer(nn.PReLU(shape_of(weight)[0], device=META), applied, {"weight": weight})


WEIGHTED: dict[str, Callable[[Call], Layer | None]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), convolution),
    "linear": linear,
    **dict.fromkeys(("addmm", "mm", "matmul"), matrix_product),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), batch_norm),
    **dict.fromkeys(("layer_norm", "native_layer_norm"), layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), group_norm),
    "embedding": embedding,
    "prelu": prelu,
}
