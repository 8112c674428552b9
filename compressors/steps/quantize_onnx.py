"""8-bit linear quantization of an ONNX file: dynamic (weights only are stored as int8) and static (activations too).

Static files are QDQ, the form that ONNX Runtime fuses best, calibrated with the true minimum and maximum of all
calibration samples. Inputs and outputs stay float32. Products of uint8 activations and int8 weights are what x86 cores
have instructions for: EfficientNet-Lite0 took 0.6 of the time of int8 activations there, with the same answers.
Source: Jacob et al. 2018, arXiv:1712.05877; onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from compressors.calibration import shift
from compressors.calibration.feature_scales import is_unevenly_scaled
from compressors.calibration.rows import calibrating
from compressors.errors import CompressorError, NoEffectError
from compressors.extras import extra
from compressors.files.onnx import OnnxGraph, read_facts
from compressors.quiet import quiet
from compressors.step import Form, ModelFile, Outcome, Parameters, Step, content_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.data.evaluation_rows import Split
    from compressors.step import Context, Model

_KINDS = {"int8": "QInt8", "uint8": "QUInt8"}
_SCALING = {"Sub", "Add", "Mul", "Div", "Max", "Min", "Relu", "Clip", "Cast", "Reshape"}


class DynamicInt8OnnxParameters(Parameters):
    """`reduce_range`: 7-bit weights, for x86 cores without VNNI, whose 8-bit products saturate."""

    reduce_range: bool = False


class StaticInt8OnnxParameters(DynamicInt8OnnxParameters):
    """`reduce_range` as for dynamic quantization. `activations`: uint8 is the faster on x86.

    `granularity`: one scale for each output channel of the weights, or for each tensor.
    """

    activations: Literal["int8", "uint8"] = "int8"
    granularity: Literal["channel", "tensor"] = "channel"


def quantize_dynamic(model: Model, _context: Context, parameters: DynamicInt8OnnxParameters) -> Outcome:
    """int8 weights, activations that are quantized on the fly; see `Step`."""
    with extra("onnx"):
        from onnxruntime.quantization import quantize_dynamic as quantize  # noqa: PLC0415  an extra of its own

    def run(source: Path, target: Path) -> None:
        quantize(source, target, per_channel=True, reduce_range=parameters.reduce_range)

    return _quantized(model, run)


def quantize_static(model: Model, context: Context, parameters: StaticInt8OnnxParameters) -> Outcome:
    """int8 weights and activations; see `Step`.

    Features on different scales stay in float until they are alike, see `feature_scaling`.

    Raises:
        DataError: there are no calibration rows.
    """
    with extra("onnx"):
        from onnxruntime import quantization  # noqa: PLC0415  an extra of its own
    samples = _Samples(context.calibration)
    uneven = any(map(is_unevenly_scaled, context.calibration.inputs.values()))

    def run(source: Path, target: Path) -> None:
        prepared = source.with_name("prepared.onnx")  # shapes inferred, constants folded
        quantization.quant_pre_process(source, prepared, skip_symbolic_shape=True)
        kept = scaling_nodes(prepared.read_bytes()) if uneven else []
        quantization.quantize_static(
            prepared,
            target,
            samples,
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=parameters.granularity == "channel",
            reduce_range=parameters.reduce_range,
            activation_type=quantization.QuantType[_KINDS[parameters.activations]],
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            nodes_to_exclude=kept,
        )

    outcome = _quantized(model, run)
    warning = shift.input_warning(context.calibration, context.selection)
    if warning is None:
        return outcome
    return replace(outcome, summary=f"{outcome.summary}; {warning}", warning=warning)


def scaling_nodes(content: bytes) -> list[str]:
    """Names of the nodes that work on the inputs and constants alone, element by element, up to the first other one."""
    graph = OnnxGraph(content)
    scaled = set(graph.inputs)
    found = []
    for node in graph.nodes:
        used = {name for name in node.input if name}
        if node.op_type in _SCALING and used & scaled and used <= scaled | graph.constants.keys():
            scaled.update(node.output)
            found.append(str(node.name))
    return found


class _Samples:
    """Calibration samples one at a time, spread evenly, as the library asks for them.

    Raises:
        DataError: the split has no rows.
    """

    def __init__(self, split: Split) -> None:
        self._rows = iter(calibrating(split))
        self._inputs = split.inputs

    def get_next(self) -> dict[str, Any] | None:
        row = next(self._rows, None)
        return None if row is None else {name: array[row : row + 1] for name, array in self._inputs.items()}


def _quantized(model: Model, run: Callable[[Path, Path], None]) -> Outcome:
    before = content_of(model)
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "quantized.onnx"
        source.write_bytes(before)
        try:
            run(source, target)
        except Exception as exc:  # the library raises whatever its passes happen to hit
            raise CompressorError(f"the quantizer refuses this network: {' '.join(str(exc).split())[:300]}") from exc
        after = target.read_bytes()
    facts = read_facts(after)
    if facts.integer_layers == 0 or facts.quantized_operators == 0:
        raise NoEffectError("no operator of this network was quantized: it has no layer that the quantizer supports")
    summary = (
        f"{facts.integer_layers} of {len(facts.layers)} weighted operators hold int8 weights, "
        f"{len(before)} -> {len(after)} bytes"
    )
    return Outcome(replace(model, file=ModelFile(Form.ONNX, after)), summary, facts.layers)


DYNAMIC = Step("dynamic-int8-onnx", DynamicInt8OnnxParameters, quantize_dynamic, takes=Form.ONNX, gives=Form.ONNX)
STATIC = Step("static-int8-onnx", StaticInt8OnnxParameters, quantize_static, takes=Form.ONNX, gives=Form.ONNX)
