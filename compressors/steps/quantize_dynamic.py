"""Dynamic quantization of a LiteRT file: weights are stored as integers, activations become integers while it runs.

It needs no calibration. The file shrinks to a quarter or an eighth; whether it is faster depends on the runtime:
XNNPACK has kernels for fully connected layers and convolutions, but not for depthwise ones.
Source: Krishnamoorthi 2018, arXiv:1806.08342.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from compressors.quantization.quantizer import Granularity, WeightScheme, quantize_weights
from compressors.step import Form, Parameters, Step, content_of
from compressors.steps.quantized import outcome_of

if TYPE_CHECKING:
    from compressors.step import Context, Model, Outcome


class DynamicInt8Parameters(Parameters):
    """`granularity`: how many weights share a scale."""

    granularity: Literal[Granularity.CHANNEL, Granularity.TENSOR] = Granularity.CHANNEL


class DynamicInt4Parameters(Parameters):
    """`granularity`: how many weights share a scale.

    Blocks are for fully connected layers and embeddings, and for devices with XNNPACK: without it the runtime's own
    kernel reads them wrongly (SNR 30 dB became 7). Depthwise convolutions get 8 bits.
    """

    granularity: Granularity = Granularity.CHANNEL


def quantize_to_int8(model: Model, _context: Context, parameters: DynamicInt8Parameters) -> Outcome:
    """int8 weights; see `Step`."""
    return _quantized(model, 8, parameters.granularity)


def quantize_to_int4(model: Model, _context: Context, parameters: DynamicInt4Parameters) -> Outcome:
    """4-bit weights; see `Step`."""
    return _quantized(model, 4, parameters.granularity)


def _quantized(model: Model, bits: int, granularity: Granularity) -> Outcome:
    file = content_of(model)
    after = quantize_weights(file, WeightScheme(bits, granularity, dequantized=False))
    return outcome_of(model, file, after, weights=f"int{bits}")


INT8 = Step("dynamic-int8", DynamicInt8Parameters, quantize_to_int8, takes=Form.LITERT, gives=Form.LITERT)
INT4 = Step("dynamic-int4", DynamicInt4Parameters, quantize_to_int4, takes=Form.LITERT, gives=Form.LITERT)
