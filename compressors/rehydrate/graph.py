"""Turn the graph of an exported program into a network of ordinary layers, under the names of the source network."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from compressors.errors import SignatureError
from compressors.rehydrate.batch import ALONE, free_batch
from compressors.rehydrate.call import Call, is_first_item, module_path, shape_of
from compressors.rehydrate.functions import ASSERTIONS, COPIES, index_of_slice, needs_device, public_function
from compressors.rehydrate.in_place import changes_in_place, is_unchanged_constant, may_become_ordinary
from compressors.rehydrate.naming import Names
from compressors.rehydrate.plain import plain_layer
from compressors.rehydrate.recurrent import RECURRENT, recurrent
from compressors.rehydrate.shapes import flattened_from, free_lengths, size_argument
from compressors.rehydrate.weighted import WEIGHTED, Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

RULES = WEIGHTED | dict.fromkeys(RECURRENT, recurrent)


class Rehydration:
    """One pass over an exported graph."""

    def __init__(self, source: fx.GraphModule, inputs: Sequence[str]) -> None:
        """Args: `source`: the exported program as a module; `inputs`: the names of its tensors, in order."""
        self._source, self._inputs = source, frozenset(inputs)
        self._root, self._graph = nn.Module(), fx.Graph()
        self._names = Names(source)
        self._made: dict[fx.Node, Any] = {}
        self._parameters: dict[int, nn.Parameter] = {}
        self._places: dict[str, str] = {}  # a weight's name in the source: its name here

    def run(self) -> fx.GraphModule:
        """The network, in evaluation mode, with a free batch; it shares the weights of the source.

        Raises:
            SignatureError: it was exported in training mode, or takes something that is no tensor.
        """
        self._placeholders([node for node in self._source.graph.nodes if node.op == "placeholder"])
        for node in self._source.graph.nodes:
            if node.op == "call_function":
                self._made[node] = self._call(node)
            elif node.op == "output":
                outputs = tuple(self._value(part) for part in torch.utils._pytree.tree_leaves(node.args[0]))  # noqa: SLF001
                self._graph.output(outputs[0] if len(outputs) == 1 else outputs)
            elif node.op not in {"get_attr", "placeholder"}:
                raise SignatureError(f"the exported graph holds a {node.op} ({node.target}), which is not supported")
        network = fx.GraphModule(self._root, self._graph, "Rehydrated").eval()
        if self._batch is not None:
            free_batch(network, next(node for node in network.graph.nodes if node.name == self._batch.name))
        network.graph.eliminate_dead_code(is_impure_node=_has_effect)
        network.graph.lint()
        network.recompile()
        return network

    def _placeholders(self, nodes: list[fx.Node]) -> None:
        tensors = [node for node in nodes if node.name in self._inputs or node.target in self._inputs]
        foreign = next((node for node in nodes if node.users and node not in tensors), None)
        if foreign is not None:
            raise SignatureError(f"the input {foreign.target} is no tensor: give the model tensors only")
        for node in tensors:
            made = self._graph.placeholder(str(node.target))
            made.meta = {ALONE: shape_of(node), "val": node.meta["val"]}
            self._made[node] = made
        first = self._made[tensors[0]]
        self._device = self._graph.call_function(getattr, (first, "device"))
        has_constant_batch = any(isinstance(length, int) for node in tensors for length in shape_of(node)[:1])
        self._batch = self._graph.call_method("size", (first, 0)) if has_constant_batch else None

    def _value(self, node: Any) -> Any:  # noqa: ANN401  an argument: a node, or plain data
        if not isinstance(node, fx.Node):
            return node
        if node.op == "get_attr" and node not in self._made:
            self._made[node] = self._graph.get_attr(self._constant(str(node.target)))
        return self._made[node]

    def _constant(self, name: str) -> str:
        """Where a weight or buffer lies that no layer holds, or that is used beside its layer."""
        if name not in self._places:
            target = self._names.constant(name)
            value = _attribute(self._source, name)
            owner, _, leaf = target.rpartition(".")
            holder = _container(self._root, owner)
            if isinstance(value, nn.Parameter):
                holder.register_parameter(leaf, self._parameter(value))
            else:
                holder.register_buffer(leaf, value)
            self._places[name] = target
        return self._places[name]

    def _parameter(self, value: torch.Tensor) -> nn.Parameter:
        """One parameter for one tensor, however many layers use it; a buffer that is used as a weight stays fixed."""
        if id(value) not in self._parameters:
            weight = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
            self._parameters[id(value)] = weight
        return self._parameters[id(value)]

    def _call(self, node: fx.Node) -> Any:  # noqa: ANN401  a node of the new graph, or nothing
        call = Call.of(node)
        if call is None:  # arithmetic on lengths, and items of tuples: the first may already be a layer's output
            return self._made[node] if node in self._made else self._as_it_is(node)
        _refuse_training_mode(call)
        if call.operator in ASSERTIONS:
            return None
        if call.operator in COPIES and is_unchanged_constant(node):
            return self._value(node.args[0])
        if changes_in_place(call):
            ordinary = may_become_ordinary(call)
            if ordinary is None:
                return self._as_it_is(node)
            call = ordinary
        layer = self._layer(call)
        return self._function(call) if layer is None else self._apply(call, layer)

    def _layer(self, call: Call) -> Layer | None:
        layer = RULES.get(call.operator, plain_layer)(call)
        if layer is None or layer.input.op == "get_attr":
            return None
        if layer.first_of_tuple and not all(is_first_item(user) or not user.users for user in call.node.users):
            return None
        return layer

    def _apply(self, call: Call, layer: Layer) -> fx.Node:
        name, is_new = self._names.layer(call.node, layer)
        if is_new:
            self._fill(name, layer)
            owner, _, leaf = name.rpartition(".")
            holder = _container(self._root, owner)
            _adopt(layer.module, holder._modules.get(leaf))  # noqa: SLF001  torch has no public name for "if there"
            holder.add_module(leaf, layer.module)
        made = self._graph.call_module(name, (self._value(layer.input),))
        made.meta = {"layer": name, ALONE: shape_of(call.node)}
        if call.operator in RECURRENT:
            made = self._graph.call_function(operator.getitem, (made, 0))
            made.meta = {"layer": name}
        if layer.first_of_tuple:
            self._made.update(dict.fromkeys(call.node.users, made))
        return made

    def _fill(self, name: str, layer: Layer) -> None:
        buffers = layer.module._buffers  # noqa: SLF001  torch has no public way to put a tensor in a buffer's place
        for leaf, node in layer.weights.items():
            value = _attribute(self._source, str(node.target))
            self._places.setdefault(str(node.target), f"{name}.{leaf}")
            if leaf in buffers:
                buffers[leaf] = value
            else:
                setattr(layer.module, leaf, self._parameter(value))  # recurrent layers keep a second list of theirs
        if "num_batches_tracked" in buffers:
            buffers["num_batches_tracked"] = torch.zeros((), dtype=torch.long)

    def _function(self, call: Call) -> fx.Node:
        if call.operator in RECURRENT and self._batch is not None:  # torch writes beyond a state of another batch
            layer = module_path(call.node)[0] or call.node.name
            raise SignatureError(
                f"{layer} was exported with a state for one sample, so that its batch can't be made free"
            )
        source = call.first
        index, axis = index_of_slice(call), flattened_from(call)
        if index is not None:
            arguments = (self._value(source), fx.map_arg(index, self._value))
            return self._placed(self._graph.call_function(operator.getitem, arguments), call.node)
        if axis is not None:
            return self._placed(self._graph.call_function(torch.flatten, (self._value(source), axis)), call.node)
        kind, target, keywords = public_function(call)
        positional: list[Any] = [fx.map_arg(argument, self._value) for argument in call.node.args]
        where = size_argument(call)
        if where is not None:
            positional[where] = free_lengths(call, list(positional[where]))
        keywords = {name: fx.map_arg(value, self._value) for name, value in keywords.items()}
        if needs_device(call):
            keywords["device"] = self._device
        return self._placed(self._graph.create_node(kind, target, tuple(positional), keywords), call.node)

    def _as_it_is(self, node: fx.Node) -> fx.Node:
        return self._placed(self._graph.node_copy(node, self._value), node)

    def _placed(self, made: fx.Node, node: fx.Node) -> fx.Node:
        made.meta = {"layer": module_path(node)[0], ALONE: shape_of(node)}
        return made


def _refuse_training_mode(call: Call) -> None:
    given = call.arguments
    drops = call.operator.removesuffix("_").endswith("dropout") and given.get("train")
    normalizes = call.operator == "batch_norm" and given["training"] and given["running_mean"] is not None
    if drops or normalizes:
        layer = module_path(call.node)[0] or call.node.name
        raise SignatureError(f"{layer} was exported in training mode: call model.eval() before torch.export.export")


def _has_effect(node: fx.Node) -> bool:
    call = Call.of(node)
    changes = call is not None and node.target._schema.is_mutable  # type: ignore[union-attr]  # noqa: SLF001
    return node.op in {"placeholder", "output"} or changes


def _attribute(module: nn.Module, name: str) -> torch.Tensor:
    owner, _, leaf = name.rpartition(".")
    value: torch.Tensor = getattr(module.get_submodule(owner), leaf)
    return value


def _container(root: nn.Module, path: str) -> nn.Module:
    """The module at a path; containers on the way are made."""
    current = root
    for atom in path.split(".") if path else []:
        if atom not in current._modules:  # noqa: SLF001
            current.add_module(atom, nn.Module())
        current = current.get_submodule(atom)
    return current


def _adopt(layer: nn.Module, container: nn.Module | None) -> None:
    """Hand what a container holds over to the layer that takes its place."""
    if container is None:
        return
    for name, child in container.named_children():
        layer.add_module(name, child)
    for name, parameter in container.named_parameters(recurse=False):
        if name not in layer._parameters:  # noqa: SLF001
            layer.register_parameter(name, parameter)
    for name, buffer in container.named_buffers(recurse=False):
        if name not in layer._buffers:  # noqa: SLF001
            layer.register_buffer(name, buffer)
