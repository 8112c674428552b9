"""Static quantization of a LiteRT file: weights and activations are integers, with ranges from calibration rows.

The library's own calibration keeps a moving average of each sample's extremes: with one output value the range
collapses, and R2 fell from 0.78 to 0.01. So ranges come from `compressors.calibration`.
Source: Jacob et al. 2018, arXiv:1712.05877; the LiteRT 8-bit specification.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from compressors.calibration import shift
from compressors.calibration.feature_scales import is_unevenly_scaled
from compressors.calibration.observe import observe
from compressors.calibration.ranges import Rule
from compressors.files.litert import end_types
from compressors.quantization.feature_scaling import scaling_operators
from compressors.quantization.quantizer import Ends, Granularity, StaticScheme, quantize_static
from compressors.step import Form, Parameters, Step, content_of
from compressors.steps.calibrated import candidates
from compressors.steps.mixed_precision import SensitiveBy, most_sensitive
from compressors.steps.quantized import outcome_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from compressors.calibration.histogram import Histogram
    from compressors.quantization.feature_scaling import FloatOperator
    from compressors.step import Context, Model, Outcome

COMPARED_VALUES = 1 << 30  # activations of the selection rows that calibration is compared with


class StaticParameters(Parameters):
    """What activations and weights have in common for 8 and 16 bits.

    `granularity`: how many weights share a scale. `calibration`: how ranges are chosen; `best` tries each way and
    keeps the one that measures best on the selection rows. `percentile`: of the values that the way of that name keeps.
    `float_layers`: so many of the most sensitive layers stay in float (mixed precision); `sensitive_by` says which.
    """

    granularity: Literal[Granularity.CHANNEL, Granularity.TENSOR] = Granularity.CHANNEL
    calibration: Literal["best"] | Rule = "best"
    percentile: Annotated[float, Field(ge=90, lt=100)] = 99.99
    float_layers: Annotated[int, Field(ge=0, le=64)] = 0
    sensitive_by: SensitiveBy = SensitiveBy.NOISE


class StaticInt8Parameters(StaticParameters):
    """`io`: what inputs and outputs are; the agent converts at the edge. `weight_bits`: 8, or 4 for small files."""

    io: Literal["int8", "uint8", "float32"] = "int8"
    weight_bits: Literal[4, 8] = 8


class StaticInt16Parameters(StaticParameters):
    """`io`: what inputs and outputs are; the agent converts at the edge."""

    io: Literal["int16", "float32"] = "int16"


def quantize_to_int8(model: Model, context: Context, parameters: StaticInt8Parameters) -> Outcome:
    """int8 weights and activations; see `Step`.

    Raises:
        DataError: there are no calibration rows.
    """
    scheme = StaticScheme(parameters.weight_bits, 8, parameters.granularity, Ends(parameters.io))
    return _quantized(model, context, parameters, scheme)


def quantize_to_int16(model: Model, context: Context, parameters: StaticInt16Parameters) -> Outcome:
    """int8 weights, int16 activations; see `Step`.

    Raises:
        DataError: there are no calibration rows.
    """
    scheme = StaticScheme(8, 16, parameters.granularity, Ends(parameters.io))
    return _quantized(model, context, parameters, scheme)


def _quantized(model: Model, context: Context, parameters: StaticParameters, scheme: StaticScheme) -> Outcome:
    file = content_of(model)
    scaling = _scaling(file, context)
    count = parameters.float_layers
    sensitive = most_sensitive(model, context, file, count, parameters.sensitive_by) if count else {}
    kept = [*scaling, *sensitive.values()]
    rules = list(Rule) if parameters.calibration == "best" else [Rule(parameters.calibration)]
    seen = observe(file, context.calibration, counting=rules != [Rule.MIN_MAX], threads=context.threads)
    measured = candidates(
        model,
        context,
        seen,
        rules,
        percentile=parameters.percentile,
        quantize=lambda ranges: quantize_static(file, scheme, ranges, kept=kept, float_inputs=bool(scaling)),
    )
    outcome = outcome_of(
        model,
        file,
        measured[0].file,
        weights=f"int{scheme.weight_bits}",
        activations=f"int{scheme.activation_bits}",
    )
    warning = _warning(file, context, seen)
    notes = [
        outcome.summary,
        f"inputs and outputs of the file: {', '.join(end_types(measured[0].file))}",
        f"calibrated by {measured[0].rule}; output SNR and {context.metric.name} on selection rows: "
        + ", ".join(map(str, measured)),
        *_notes(scaling, sensitive, warning),
    ]
    return replace(outcome, summary="; ".join(notes), warning=warning or "")


def _scaling(file: bytes, context: Context) -> list[FloatOperator]:
    """Operators that stay in float because features lie on different scales, see `feature_scaling`."""
    uneven = any(map(is_unevenly_scaled, context.calibration.inputs.values()))
    return scaling_operators(file) if uneven else []


def _warning(file: bytes, context: Context, seen: Mapping[str, Histogram]) -> str | None:
    looked_at = observe(file, context.selection, counting=True, threads=context.threads, max_values=COMPARED_VALUES)
    return shift.warning(seen, looked_at, rows=context.calibration.rows)


def _notes(scaling: list[FloatOperator], sensitive: Iterable[str], warning: str | None) -> Iterator[str]:
    if warning is not None:
        yield warning
    if scaling:
        yield f"{len(scaling)} operators that scale the features stay in float, because one scale can't hold them"
    if names := ", ".join(sensitive):
        yield f"the most sensitive layers stay in float: {names}"


INT8 = Step("static-int8", StaticInt8Parameters, quantize_to_int8, takes=Form.LITERT, gives=Form.LITERT)
INT16 = Step("static-int16", StaticInt16Parameters, quantize_to_int16, takes=Form.LITERT, gives=Form.LITERT)
