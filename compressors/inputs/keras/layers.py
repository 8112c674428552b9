"""The graph that torch traces of a Keras model, made into layers: Keras's weights become weights of torch, by name.

Keras keeps its weights in its own order and turns them at every call, and torch traces the turning. Here everything
that depends on weights alone is computed once. What is left is an operator with a weight of its own, as layers are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import fx

if TYPE_CHECKING:
    from collections.abc import Mapping

_ATEN = torch.ops.aten
_SAME_VALUES = {_ATEN.to.dtype, _ATEN.to.dtype_layout, _ATEN.contiguous.default, _ATEN.lift_fresh_copy.default}
_CONVOLUTIONS = {_ATEN.conv1d.default, _ATEN.conv2d.default}
# other names of the same; a change in place of what nobody else uses is an ordinary operator
_ORDINARY = {
    _ATEN.subtract.Tensor: _ATEN.sub.Tensor,
    _ATEN.mul_.Tensor: _ATEN.mul.Tensor,
    _ATEN.add_.Tensor: _ATEN.add.Tensor,
}
_FOLDED = "folded_"
_BIAS = 2  # the place of a layer's bias among its arguments
_MATRIX = 2
_CHANNELS_LAST = {3: [0, 2, 1], 4: [0, 2, 3, 1]}  # the way back from torch's order, by the number of dimensions
_LEAVES = {
    "kernel": "weight",
    "embeddings": "weight",
    "depthwise_kernel": "depthwise/weight",
    "pointwise_kernel": "pointwise/weight",
}


class Tidying:
    """One pass over the graph of a module."""

    def __init__(self, module: fx.GraphModule, paths: Mapping[int, str]) -> None:
        """Args: `module`: changed in place; `paths`: of Keras's variables, by the address of their values."""
        self._module, self._graph, self._paths = module, module.graph, paths
        self._names: dict[fx.Node, str] = {}  # the variable that a constant was computed from

    def run(self) -> fx.GraphModule:
        """The module, with its weights folded."""
        for node in list(self._graph.nodes):
            if node.target is _ATEN._assert_tensor_metadata.default:  # noqa: SLF001  it says what the trace has seen
                self._graph.erase_node(node)
        for node in list(self._graph.nodes):
            if node.op == "get_attr":
                self._names[node] = self._paths.get(_value(self._module, node).data_ptr(), "")
            elif node.op == "call_function":
                self._step(node)
        self._graph.eliminate_dead_code(is_impure_node=lambda node: node.op in {"placeholder", "output"})
        for node in self._graph.nodes:
            if node.op == "get_attr" and node.target.startswith(_FOLDED):
                node.target = self._named(_value(self._module, node), self._names[node])
        self._graph.lint()
        self._module.recompile()
        return self._module

    def _step(self, node: fx.Node) -> None:
        sources = node.all_input_nodes
        if node.target in _ORDINARY and len(sources[0].users) == 1:
            node.target = _ORDINARY[node.target]
        if sources and all(source.op == "get_attr" for source in sources) and _is_tensor(node):
            self._fold(node, next((self._names[one] for one in sources if self._names[one]), ""))
        elif node.target in _SAME_VALUES and _kind(node) == _kind(sources[0]):
            self._put(node, sources[0])
        elif node.target is _ATEN.matmul.default:
            self._as_linear(node)
        elif node.target is _ATEN.add.Tensor:
            self._join_bias(node)

    def _fold(self, node: fx.Node, path: str) -> None:
        """Compute a node that depends on weights alone."""
        value = cast("Any", node.target)(*_values(self._module, node.args), **_values(self._module, node.kwargs))
        self._put(node, self._constant(node, value, path))

    def _put(self, node: fx.Node, other: fx.Node) -> None:
        """Let another node stand where this one does."""
        node.replace_all_uses_with(other)
        self._graph.erase_node(node)

    def _constant(self, before: fx.Node, value: torch.Tensor, path: str) -> fx.Node:
        """A constant of the graph, under a name for the moment."""
        name = f"{_FOLDED}{len(self._names)}"
        self._module.register_buffer(name, value.detach().contiguous())
        with self._graph.inserting_before(before):
            constant = self._graph.get_attr(name)
        constant.meta["val"] = value.detach()
        self._names[constant] = path
        return constant

    def _named(self, value: torch.Tensor, path: str) -> str:
        """Keep a constant under the name of the variable that it was, or was computed from."""
        *layer, variable = re.sub(r"[^A-Za-z0-9_/]", "_", path or "constant").split("/")
        *folders, wanted = [*layer, *_LEAVES.get(variable, variable).split("/")]
        place: torch.nn.Module = self._module
        for folder in folders:
            if folder not in place._modules:  # noqa: SLF001
                place.add_module(folder, torch.nn.Module())
            place = place.get_submodule(folder)
        leaf, count = wanted, 0
        while hasattr(place, leaf):
            count += 1
            leaf = f"{wanted}_{count}"
        if path and value.is_floating_point():
            place.register_parameter(leaf, torch.nn.Parameter(value.clone()))
        else:
            place.register_buffer(leaf, value)
        return ".".join([*folders, leaf])

    def _as_linear(self, node: fx.Node) -> None:
        """A product with a constant matrix: torch keeps it the other way round."""
        x, matrix = node.args
        if not isinstance(matrix, fx.Node) or matrix.op != "get_attr" or not isinstance(x, fx.Node):
            return
        value = _value(self._module, matrix)
        if value.dim() != _MATRIX or len(matrix.users) != 1:
            return
        turned = self._constant(node, value.t(), self._names[matrix])
        with self._graph.inserting_before(node):
            layer = self._graph.call_function(_ATEN.linear.default, (x, turned))
        layer.meta.update(node.meta)
        self._put(node, layer)

    def _join_bias(self, node: fx.Node) -> None:
        """A vector that is added to what a layer gives is its bias."""
        given, bias = node.args[:2]
        if not isinstance(given, fx.Node) or not isinstance(bias, fx.Node) or bias.op != "get_attr" or node.kwargs:
            return
        layer = _layer_before(given)
        if layer is None or len(given.users) != 1 or len(layer.users) != 1:
            return
        value, weight = _value(self._module, bias), _value(self._module, layer.args[1])
        width = weight.shape[0]
        if value.numel() != width or value.shape[-1] != width or value.dtype != weight.dtype:
            return
        vector = self._constant(layer, value.reshape(width), self._names[bias])
        layer.args = (*layer.args[:_BIAS], vector, *layer.args[_BIAS + 1 :])
        self._put(node, given)


def _layer_before(node: fx.Node) -> fx.Node | None:
    """The layer without a bias that gives this, in Keras's order."""
    if node.target is _ATEN.permute.default and isinstance(node.args[0], fx.Node):
        order, layer = list(cast("list[int]", node.args[1])), node.args[0]
        if order != _CHANNELS_LAST.get(len(order)) or layer.target not in _CONVOLUTIONS:
            return None
    elif node.target is _ATEN.linear.default:
        layer = node
    else:
        return None
    weight = layer.args[1]
    is_plain = isinstance(weight, fx.Node) and weight.op == "get_attr"
    return layer if is_plain and (len(layer.args) <= _BIAS or layer.args[_BIAS] is None) else None


def _value(module: fx.GraphModule, node: Any) -> torch.Tensor:  # noqa: ANN401  a node
    *folders, leaf = str(node.target).split(".")
    found: torch.Tensor = getattr(module.get_submodule(".".join(folders)), leaf)
    return found


def _values(module: fx.GraphModule, arguments: Any) -> Any:  # noqa: ANN401  nested
    return fx.node.map_arg(arguments, lambda node: _value(module, node).detach())


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _kind(node: fx.Node) -> torch.dtype | None:
    value = node.meta.get("val")
    return value.dtype if isinstance(value, torch.Tensor) else None
