"""Model files for LiteRT, written operator by operator: a network of two layers, and files with one trait each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int8": 9}
FULLY_CONNECTED, ADD, SUB, GATHER, QUANTIZE = 9, 0, 41, 36, 114


class FileWriter:
    """One subgraph of a `.tflite` file, operator by operator."""

    def __init__(self) -> None:
        self._model = schema.ModelT()
        self._model.version, self._model.description = 3, b"shoal test"
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators, self._graph.name = [], [], b"main"

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        *,
        data: NDArray[Any] | None = None,
        scale: float | None = None,
        zero_point: int = 0,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name.encode(), list(shape), TYPES[dtype]
        tensor.buffer, tensor.hasRank = 0, True
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data, dtype=dtype).tobytes(), dtype=np.uint8)
            self._model.buffers.append(buffer)
            tensor.buffer = len(self._model.buffers) - 1
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(self, code: int, inputs: Sequence[int], output: int, *, relu: bool = False, version: int = 1) -> int:
        kind = schema.OperatorCodeT()
        kind.builtinCode, kind.deprecatedBuiltinCode, kind.version = code, code, version
        self._model.operatorCodes.append(kind)
        step = schema.OperatorT()
        step.opcodeIndex, step.inputs, step.outputs = len(self._model.operatorCodes) - 1, list(inputs), [output]
        if code == FULLY_CONNECTED:
            step.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
            step.builtinOptions = schema.FullyConnectedOptionsT()
            step.builtinOptions.fusedActivationFunction = 1 if relu else 0
        elif code == GATHER:
            step.builtinOptionsType = schema.BuiltinOptions.GatherOptions
            step.builtinOptions = schema.GatherOptionsT()
        elif code in (ADD, SUB):
            added = code == ADD
            step.builtinOptionsType = schema.BuiltinOptions.AddOptions if added else schema.BuiltinOptions.SubOptions
            step.builtinOptions = schema.AddOptionsT() if added else schema.SubOptionsT()
        self._graph.operators.append(step)
        return output

    def write(self, path: Path, *, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        self._model.subgraphs = [self._graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


@dataclass(frozen=True)
class Network:
    """A network of two layers, the same numbers for the same seed; written as float32, int8 or uint8 file."""

    features: int = 8
    hidden: int = 16
    classes: int = 4
    seed: int = 1
    weights: list[tuple[Floats, Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        for fan_in, fan_out in ((self.features, self.hidden), (self.hidden, self.classes)):
            weight = (rng.normal(size=(fan_out, fan_in)) / np.sqrt(fan_in)).astype(np.float32)
            self.weights.append((weight, (rng.normal(size=fan_out) * 0.1).astype(np.float32)))

    @property
    def signature(self) -> ModelSignature:
        return ModelSignature(
            inputs=(TensorSpec(name="features", shape=(-1, self.features)),),
            outputs=(TensorSpec(name="scores", shape=(-1, self.classes)),),
        )

    def samples(self, rows: int, *, seed: int = 7) -> Floats:
        return np.random.default_rng(seed).uniform(-1, 1, size=(rows, self.features)).astype(np.float32)

    def layers(self, rows: Floats) -> list[Floats]:
        (w1, b1), (w2, b2) = self.weights
        hidden = np.maximum(rows @ w1.T + b1, 0)
        return [hidden, hidden @ w2.T + b2]

    def expected(self, rows: Floats) -> Floats:
        return self.layers(rows)[1]

    def write_float(self, path: Path, *, batch: int = 1) -> Path:
        writer = FileWriter()
        source = previous = writer.tensor("serving_default_features:0", [batch, self.features], "float32")
        for i, (weight, bias) in enumerate(self.weights):
            w = writer.tensor(f"w{i}", weight.shape, "float32", data=weight)
            b = writer.tensor(f"b{i}", bias.shape, "float32", data=bias)
            out = writer.tensor(f"y{i}", [batch, len(bias)], "float32")
            previous = writer.operator(FULLY_CONNECTED, [previous, w, b], out, relu=i == 0)
        return writer.write(path, inputs=[source], outputs=[previous])

    def write_int8(self, path: Path, *, unsigned_ends: bool = False) -> Path:
        writer = FileWriter()
        ranges = [np.array([-1, 1], dtype=np.float32), *self.layers(self.samples(512))]
        steps = [_affine(values) for values in ranges]
        previous = source = -1
        if unsigned_ends:
            scale, zero = steps[0]
            source = writer.tensor("args_0", [1, self.features], "uint8", scale=scale, zero_point=zero + 128)
        previous = writer.tensor("x", [1, self.features], "int8", scale=steps[0][0], zero_point=steps[0][1])
        if unsigned_ends:
            writer.operator(QUANTIZE, [source], previous)
        else:
            source = previous
        for i, (weight, bias) in enumerate(self.weights):
            w_scale = float(np.abs(weight).max()) / 127
            quantized = np.rint(weight / w_scale)
            w = writer.tensor(f"w{i}", weight.shape, "int8", data=quantized, scale=w_scale)
            b_scale = steps[i][0] * w_scale
            b = writer.tensor(f"b{i}", bias.shape, "int32", data=np.rint(bias / b_scale), scale=b_scale)
            scale, zero = steps[i + 1]
            out = writer.tensor(f"y{i}", [1, len(bias)], "int8", scale=scale, zero_point=zero)
            previous = writer.operator(FULLY_CONNECTED, [previous, w, b], out, relu=i == 0, version=4)
        if unsigned_ends:
            scale, zero = steps[-1]
            out = writer.tensor("output_0", [1, self.classes], "uint8", scale=scale, zero_point=zero + 128)
            previous = writer.operator(QUANTIZE, [previous], out)
        return writer.write(path, inputs=[source], outputs=[previous])


def _affine(values: Floats) -> tuple[float, int]:
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scale = (high - low) / 255
    return scale, round(-128 - low / scale)


PAIR = ModelSignature(
    inputs=(TensorSpec(name="left", shape=(-1, 3)), TensorSpec(name="right", shape=(-1, 3))),
    outputs=(TensorSpec(name="sum", shape=(-1, 3)), TensorSpec(name="difference", shape=(-1, 3))),
)


def write_pair(path: Path) -> Path:
    """Two inputs, two outputs: left + right, left - right."""
    writer = FileWriter()
    left = writer.tensor("left", [1, 3], "float32")
    right = writer.tensor("right", [1, 3], "float32")
    total = writer.operator(ADD, [left, right], writer.tensor("sum", [1, 3], "float32"))
    difference = writer.operator(SUB, [left, right], writer.tensor("difference", [1, 3], "float32"))
    return writer.write(path, inputs=[left, right], outputs=[total, difference])


EMBEDDING = ModelSignature(
    inputs=(TensorSpec(name="ids", datatype=Datatype.INT32, shape=(-1,)),),
    outputs=(TensorSpec(name="vectors", shape=(-1, 4)),),
)


def write_embedding(path: Path) -> Path:
    """Row `id` of a table of ten; the interpreter itself refuses any other id."""
    writer = FileWriter()
    table = writer.tensor("table", [10, 4], "float32", data=np.arange(40))
    ids = writer.tensor("ids", [1], "int32")
    vectors = writer.operator(GATHER, [table, ids], writer.tensor("vectors", [1, 4], "float32"))
    return writer.write(path, inputs=[ids], outputs=[vectors])


def write_hungry(path: Path, rows: int = 1 << 16, columns: int = 1 << 13) -> tuple[Path, ModelSignature]:
    """2 GiB of output out of a file of 256 KiB: a column and a row, added."""
    writer = FileWriter()
    row = writer.tensor("row", [1, columns], "float32")
    column = writer.tensor("column", [rows, 1], "float32", data=np.ones((rows, 1)))
    table = writer.operator(ADD, [row, column], writer.tensor("table", [rows, columns], "float32"))
    signature = ModelSignature(
        inputs=(TensorSpec(name="row", shape=(1, columns)),), outputs=(TensorSpec(name="table", shape=(rows, columns)),)
    )
    return writer.write(path, inputs=[row], outputs=[table]), signature
