"""Weight-only quantization of a LiteRT file: weights are stored as integers and expanded when the file is loaded.

The file is small, and computes as the float one does: neither faster nor, in memory, smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compressors.quantization.quantizer import Granularity, WeightScheme, quantize_weights
from compressors.step import Form, Parameters, Step, content_of
from compressors.steps.quantized import outcome_of

if TYPE_CHECKING:
    from compressors.step import Context, Model, Outcome


class WeightOnlyParameters(Parameters):
    """`bits` of a weight, depthwise ones always get 8; `granularity`: how many weights share a scale."""

    bits: Literal[4, 8] = 8
    granularity: Literal[Granularity.CHANNEL, Granularity.TENSOR] = Granularity.CHANNEL


def quantize(model: Model, _context: Context, parameters: WeightOnlyParameters) -> Outcome:
    """Store the weights as integers; see `Step`."""
    file = content_of(model)
    after = quantize_weights(file, WeightScheme(parameters.bits, parameters.granularity, dequantized=True))
    return outcome_of(model, file, after, weights=f"int{parameters.bits}")


STEP = Step("weight-only", WeightOnlyParameters, quantize, takes=Form.LITERT, gives=Form.LITERT)
