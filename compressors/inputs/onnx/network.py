"""An ONNX graph as a network: a module that runs it operator by operator in torch, which torch can then export."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import torch

from compressors.errors import ConversionError, SignatureError
from compressors.inputs.onnx import elementwise, layers, shaping
from compressors.inputs.onnx.gate import NAME_CHARS, Graph, Node, Tensor, read_graph
from compressors.inputs.onnx.preparation import LINEAR, prepare
from compressors.inputs.onnx.values import TYPES, array_of, known
from compressors.inputs.program import FloatModel, Names, from_exported, is_shown_name
from compressors.running import first_line, refuse_without_memory

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.inputs.onnx.gate import Value as End
    from compressors.inputs.onnx.values import Operator, Value

OPERATORS: dict[str, Operator] = {**elementwise.OPERATORS, **shaping.OPERATORS, **layers.OPERATORS}
EXPORT_WITH_FREE_BATCH = "torch.onnx.export(..., dynamic_axes={'%s': {0: 'batch'}})"
MAX_KNOWN_ELEMENTS = 256  # whole numbers of at most one dimension: axes, shapes, indices
_EXAMPLE_ROWS = 2  # torch takes a length of one for a constant
_WHOLE = {torch.int64, torch.int32}


class OnnxModule(torch.nn.Module):
    """Runs a graph; its weights stand under the names of its layers."""

    def __init__(self, graph: Graph) -> None:
        """Take over the constants."""
        super().__init__()
        prepared = prepare(graph)
        self._graph, self._nodes = graph, prepared.nodes
        self._known: dict[str, Value] = {}
        self._places: dict[str, str] = {}  # a constant's name: its path in this module
        for name, stored in prepared.stored.items():
            value = _value(stored.constant)
            if isinstance(value, torch.Tensor):
                value = value.t().contiguous() if stored.turned else value
                self._places[name] = self._keep(value, stored.path, trained=stored.trained)
            else:
                self._known[name] = value

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """All outputs of the graph."""
        values: dict[str, Value] = dict(self._known)
        values |= {name: self._at(path) for name, path in self._places.items()}
        values |= {end.name: tensor for end, tensor in zip(self._graph.inputs, tensors, strict=True)}
        for node in self._nodes:
            results = self._run(node, [values[name] if name else None for name in node.inputs])
            values |= dict(zip(node.outputs, results, strict=False))
        found = [values[end.name] for end in self._graph.outputs]
        return tuple(one if isinstance(one, torch.Tensor) else torch.tensor(one) for one in found)

    def _run(self, node: Node, inputs: list[Value]) -> tuple[Value, ...]:
        try:
            function = layers.linear if node.operator == LINEAR else OPERATORS[node.operator]
            results = function({**node.attributes, "outputs": len(node.outputs)}, inputs)
        except Exception as exc:  # an operator of torch raises whatever it likes
            refuse_without_memory(exc)
            raise ConversionError(
                f"the layer {node.label!r} ({node.operator}) can't be read: {first_line(exc)}; replace it, or export "
                "the model as a torch.export archive"
            ) from exc
        given = results if isinstance(results, tuple) else (results,)
        if len([name for name in node.outputs if name]) > len(given):
            raise ConversionError(f"the layer {node.label!r} ({node.operator}) gives {len(given)} outputs, no more")
        return given

    def _keep(self, value: torch.Tensor, path: str, *, trained: bool) -> str:
        """Keep a constant at a dotted path, or beside it where another one is; the path that it got."""
        *folders, leaf = path.split(".")
        place: torch.nn.Module = self
        for number, folder in enumerate(folders):
            if folder not in place._modules:  # noqa: SLF001  a number is no attribute
                name = f"{folder}_" if hasattr(place, folder) else folder
                folders[number] = name
                if name not in place._modules:  # noqa: SLF001
                    place.add_module(name, torch.nn.Module())
            place = place.get_submodule(folders[number])
        while hasattr(place, leaf):
            leaf = f"{leaf}_"
        if trained and value.is_floating_point():
            place.register_parameter(leaf, torch.nn.Parameter(value))
        else:
            place.register_buffer(leaf, value)
        return ".".join([*folders, leaf])

    def _at(self, path: str) -> torch.Tensor:
        folder, _, leaf = path.rpartition(".")
        found: torch.Tensor = getattr(self.get_submodule(folder), leaf)
        return found


def load(path: Path) -> FloatModel:
    """Load an `.onnx` behind its gate.

    Raises:
        ArchiveError: it may not be loaded, or is damaged.
        ConversionError: it holds an operator that is not supported; the sentence names it and its layer.
        SignatureError: its inputs or outputs are not tensors that an app can be shown.
        WeightError: a weight is NaN or infinite.
    """
    graph = read_graph(path, OPERATORS)
    examples = tuple(_example(end) for end in graph.inputs)
    is_free = all(end.dims[0] is None for end in graph.inputs)
    batch = torch.export.Dim("batch")
    shapes = (tuple({0: batch} for _ in examples),) if is_free else None
    module = OnnxModule(graph).eval()
    logging.getLogger("torch.export").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            exported = torch.export.export(module, examples, dynamic_shapes=shapes, strict=False)
    except ConversionError:
        raise
    except Exception as exc:  # torch raises whatever its tracing happens to hit
        refuse_without_memory(exc)
        raise ConversionError(
            f"torch can't follow this ONNX model ({first_line(exc)}): export it with a constant batch of 1, or as a "
            "torch.export archive"
        ) from exc
    names = Names(_shown("input", graph.inputs), _shown("output", graph.outputs))
    return from_exported(exported, names, how=EXPORT_WITH_FREE_BATCH)


def _example(end: End) -> torch.Tensor:
    if not end.dims:
        raise SignatureError(f"the input {end.name[:NAME_CHARS]} has no batch dimension: give it one")
    batch, *lengths = end.dims
    if any(length is None or length < 1 for length in lengths):
        raise SignatureError(
            f"the input {end.name[:NAME_CHARS]} has a free dimension besides the batch: export it with constant lengths"
        )
    if batch not in {None, 1}:
        raise SignatureError(
            f"the input {end.name[:NAME_CHARS]} has the constant batch {batch}: export it with a free one, "
            f"{EXPORT_WITH_FREE_BATCH % end.name[:NAME_CHARS]}"
        )
    if end.data_type not in TYPES:
        raise SignatureError(f"the input {end.name[:NAME_CHARS]} is of a type that apps can't be shown: use float32")
    shape = [_EXAMPLE_ROWS if batch is None else 1, *(length for length in lengths if length is not None)]
    return torch.zeros(shape, dtype=TYPES[end.data_type])


def _value(constant: Tensor) -> Value:
    """Scalars and short lists of whole numbers are known while the graph is read; everything else is a tensor."""
    found = torch.from_numpy(array_of(constant))
    is_list = found.dtype in _WHOLE and found.dim() <= 1 and found.numel() <= MAX_KNOWN_ELEMENTS
    is_number = found.dim() == 0 and found.dtype is not torch.bool
    return known(found.tolist()) if is_list or is_number else found


def _shown(kind: str, ends: tuple[End, ...]) -> list[str]:
    names = [end.name for end in ends]
    return names if all(map(is_shown_name, names)) else [f"{kind}_{number}" for number in range(len(ends))]
