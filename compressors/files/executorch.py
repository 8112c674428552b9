"""What is really inside a `.pte` file; see `facts`.

An ExecuTorch program calls operators of its own and delegates. What XNNPACK was given is a flatbuffer inside of the
program, which is read with the schema and the compiler that ExecuTorch ships. Needs the extra `executorch`.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from compressors.errors import ConversionError
from compressors.extras import extra
from compressors.files.facts import FileFacts
from compressors.quiet import quiet

XNNPACK = "XnnpackBackend"
_CONVERSIONS = {"Convert", "Copy"}
_WEIGHTED = {"Conv2d", "DepthwiseConv2d", "ConvTranspose2d", "FullyConnected"}
_KINDS = {
    "fp32": "float32",
    "fp16": "float16",
    "qint8": "int8",
    "quint8": "uint8",
    "qcint8": "int8",
    "qdint8": "int8",
    "qpint8": "int8",
    "qcint4": "int4",
    "qbint4": "int4",
    "qint32": "int32",
    "qcint32": "int32",
}
_INFINITE = re.compile(r"(?<=: )(-?)inf\b")  # as the compiler writes it, and JSON does not know it


class Delegated(NamedTuple):
    """How a program is split between XNNPACK and ExecuTorch's own operators."""

    partitions: int
    left: tuple[str, ...]  # operators that run on the portable kernels


class Value(NamedTuple):
    """A tensor of an XNNPACK graph."""

    kind: str
    shape: tuple[int, ...]


def read_facts(content: bytes) -> FileFacts:
    """Parse an ExecuTorch program."""
    program = _program(content)
    own = _own_operators(program)
    operators, quantized, macs = len(own), 0, 0
    layers: dict[str, str] = {}
    for number, graph in enumerate(_xnnpack_graphs(program)):
        values = dict(map(_value, graph["xvalues"]))
        for node in graph["xnodes"]:
            name, fields = node["xnode_union_type"].removeprefix("XNN"), node["xnode_union"]
            used = [
                values[i] for key, i in fields.items() if key.endswith("_id") and key != "output_id" and i in values
            ]
            operators += 1
            quantized += name not in _CONVERSIONS and any("int" in value.kind for value in used)
            if name in _WEIGHTED:
                weight, output = values[fields["filter_id"]], values[fields["output_id"]]
                macs += _macs(name, weight, output, used[0])
                layers[f"{number}.{fields['output_id']}"] = f"{name} {used[0].kind} x {weight.kind}"
    return FileFacts(operators, quantized, macs, layers)


def read_delegated(content: bytes) -> Delegated:
    """What of a program is delegated."""
    program = _program(content)
    return Delegated(sum(1 for _ in _xnnpack_graphs(program)), tuple(_own_operators(program)))


def _program(content: bytes) -> Any:  # noqa: ANN401  dataclasses of the package, without types
    with extra("executorch"), quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary  # noqa: PLC0415  torchao: seconds

        return deserialize_pte_binary(content).program


def _own_operators(program: Any) -> list[str]:  # noqa: ANN401
    """The calls of ExecuTorch's own kernels, by name."""
    plan = program.execution_plan[0]
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    return [plan.operators[call.op_index].name for call in calls if type(call).__name__ == "KernelCall"]


def _xnnpack_graphs(program: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    return [
        _as_json(bytes(program.backend_delegate_data[delegate.processed.index].data))
        for delegate in program.execution_plan[0].delegates
        if delegate.id == XNNPACK
    ]


def _as_json(blob: bytes) -> dict[str, Any]:
    """The graph inside of what was handed to XNNPACK."""
    import executorch.backends.xnnpack.serialization as package  # noqa: PLC0415
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader  # noqa: PLC0415
    from executorch.exir._serialize._flatbuffer import _run_flatc  # noqa: PLC0415

    header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
    if not header.is_valid():
        raise ConversionError("the program's XNNPACK part can't be read: its header is not the one of this release")
    graph = blob[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size]
    schema = Path(next(iter(package.__path__))) / "runtime_schema.fbs"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "graph.bin"
        binary.write_bytes(graph)
        options = ["--json", "--defaults-json", "--strict-json", "--raw-binary"]
        _run_flatc([*options, "-o", folder, str(schema), "--", str(binary)])
        text = binary.with_suffix(".json").read_text()
        found: dict[str, Any] = json.loads(_INFINITE.sub(r"\1Infinity", text))
    return found


def _value(entry: dict[str, Any]) -> tuple[int, Value]:
    tensor = entry["xvalue_union"]
    tensor = tensor.get("tensor_value", tensor)
    kind = tensor["datatype"].removeprefix("xnn_datatype_")
    return int(tensor["id_out"]), Value(_KINDS.get(kind, kind), tuple(tensor["dims"]))


def _macs(name: str, weight: Value, output: Value, picture: Value) -> int:
    """Multiply-accumulates of a layer; filters are (out, height, width, in), depthwise (1, height, width, out)."""
    if name == "DepthwiseConv2d":
        return math.prod(output.shape) * math.prod(weight.shape[1:-1])
    if name == "ConvTranspose2d":
        return math.prod(picture.shape) * math.prod(weight.shape[:-1])
    return math.prod(output.shape) * math.prod(weight.shape[1:])
