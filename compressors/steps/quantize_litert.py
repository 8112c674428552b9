"""8-bit linear quantization of a LiteRT file: dynamic (weights only are stored as int8) and static (activations too).

Static quantization is calibrated with the true minimum and maximum over all calibration samples. The library's default
keeps a moving average of each sample's extremes: with one output value the range collapses, and R2 fell from 0.78 to
0.01.
Source: Jacob et al. 2018, arXiv:1712.05877; the LiteRT 8-bit specification.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from litert_quantizer import Quantizer, qtyping, recipe
from litert_quantizer.calibrator import Calibrator
from litert_quantizer.recipe_manager import RecipeManager
from litert_quantizer.utils import qsv_utils

from compressors.errors import CompressorError, NoEffectError
from compressors.steps.base import Form, ModelFile, Outcome, Parameters, Step, content_of
from compressors.steps.calibration_rows import calibration_rows
from compressors.steps.feature_scaling import is_unevenly_scaled, scaling_operators
from compressors.steps.quiet import quiet
from compressors.tflite_file import read_facts

if TYPE_CHECKING:
    from compressors.data import Split
    from compressors.steps.base import Context, Model

# the library puts a QUANTIZE operator between such an end and the int8 inside
_UNSIGNED = qtyping.OpQuantizationConfig(
    activation_tensor_config=qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=False, dtype=qtyping.TensorDataType.UINT
    ),
    weight_tensor_config=qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
    ),
    compute_precision=qtyping.ComputePrecision.INTEGER,
    explicit_dequantize=False,
)
_KNOWN_OPERATORS = {operation.value for operation in qtyping.TFLOperationName}


class DynamicInt8Parameters(Parameters):
    """None so far."""


class StaticInt8Parameters(Parameters):
    """`io`: `float32` keeps float inputs and outputs, else they are integers (the agent converts at the edge)."""

    io: Literal["int8", "uint8", "float32"] = "int8"


def quantize_dynamic(model: Model, _context: Context, _parameters: DynamicInt8Parameters) -> Outcome:
    """int8 weights, float activations that are quantized on the fly; see `Step`."""
    file = content_of(model)
    quantizer = Quantizer(file, recipe.dynamic_wi8_afp32())
    return _outcome(model, file, _quantize(quantizer, None))


def quantize_static(model: Model, context: Context, parameters: StaticInt8Parameters) -> Outcome:
    """int8 weights and activations; see `Step`.

    Features on different scales stay in float until they are alike, see `feature_scaling`.
    """
    file = content_of(model)
    quantizer = Quantizer(file, recipe.static_wi8_ai8())
    if parameters.io == "float32":
        _leave_in_float(quantizer, qtyping.TFLOperationName.INPUT)
        _leave_in_float(quantizer, qtyping.TFLOperationName.OUTPUT)
    if parameters.io == "uint8":
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            quantizer.update_quantization_recipe(regex=".*", operation_name=end, op_config=_UNSIGNED)
    kept = scaling_operators(file) if any(map(is_unevenly_scaled, context.calibration.inputs.values())) else []
    if kept:
        _leave_in_float(quantizer, qtyping.TFLOperationName.INPUT)
    for operator in kept:
        if operator.kind in _KNOWN_OPERATORS:
            _leave_in_float(quantizer, qtyping.TFLOperationName(operator.kind), f"^{re.escape(operator.output)};?$")
    manager = RecipeManager()
    manager.load_quantization_recipe(quantizer.get_quantization_recipe())
    interpreter = Interpreter(model_content=file)
    key = next(iter(interpreter.get_signature_list()))
    samples = _samples(context.calibration, _file_inputs(interpreter, key))
    with quiet():
        calibrator = Calibrator(file, num_threads=context.threads, qsv_update_func=qsv_utils.min_max_update)
        calibrator.calibrate({key: samples}, manager)
    outcome = _outcome(model, file, _quantize(quantizer, calibrator.get_model_qsvs()))
    if not kept:
        return outcome
    note = f"; {len(kept)} operators that scale the features stay in float, because one scale can't hold them"
    return replace(outcome, summary=outcome.summary + note)


def _leave_in_float(quantizer: Quantizer, operation: qtyping.TFLOperationName, regex: str = ".*") -> None:
    quantizer.update_quantization_recipe(regex=regex, operation_name=operation, algorithm_key="no_quantize")


def _file_inputs(interpreter: Interpreter, key: str) -> list[tuple[str, np.dtype[Any]]]:
    """Name and type of each input in the order of the file, which is that of the model's arguments.

    A signature lists them by name, where `args_10` comes before `args_2`.
    """
    by_index = {
        details["index"]: name for name, details in interpreter.get_signature_runner(key).get_input_details().items()
    }
    return [(by_index[one["index"]], np.dtype(one["dtype"])) for one in interpreter.get_input_details()]


def _samples(split: Split, inputs: list[tuple[str, np.dtype[Any]]]) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Calibration samples, spread evenly; a list, because the calibrator goes over them twice."""
    arrays = list(split.inputs.values())
    # int64 arguments become int32 in the file
    return [
        {name: array[row : row + 1].astype(kind) for (name, kind), array in zip(inputs, arrays, strict=True)}
        for row in calibration_rows(split)
    ]


def _quantize(quantizer: Quantizer, calibration: dict[str, Any] | None) -> bytes:
    try:
        with quiet():
            result = quantizer.quantize(calibration, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError) as exc:
        raise CompressorError(f"the quantizer refuses this network: {' '.join(str(exc).split())[:300]}") from exc
    return bytes(result.quantized_model)


def _outcome(model: Model, before: bytes, after: bytes) -> Outcome:
    facts = read_facts(after)
    integer = {name: kind for name, kind in facts.layers.items() if "int8" in kind}
    if not integer or facts.quantized_operators == 0:
        raise NoEffectError("no operator of this network was quantized: it has no layer that the quantizer supports")
    summary = (
        f"{len(integer)} of {len(facts.layers)} weighted operators hold int8 weights, "
        f"{len(before)} -> {len(after)} bytes"
    )
    return Outcome(replace(model, file=ModelFile(Form.LITERT, after)), summary, facts.layers)


DYNAMIC = Step("dynamic-int8", DynamicInt8Parameters, quantize_dynamic, takes=Form.LITERT, gives=Form.LITERT)
STATIC = Step("static-int8", StaticInt8Parameters, quantize_static, takes=Form.LITERT, gives=Form.LITERT)
