"""The adapter to litert-quantizer: a float LiteRT file, a scheme and ranges go in, a quantized file comes out.

Source: Jacob et al. 2018, arXiv:1712.05877; the LiteRT 8-bit specification.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from litert_quantizer import Quantizer, qtyping
from litert_quantizer.recipe_manager import RecipeManager

from compressors.errors import CompressorError
from compressors.files.litert import weighted_operators
from compressors.quantization.weight_ranges import safe_bounds
from compressors.quiet import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compressors.calibration.ranges import Range
    from compressors.quantization.feature_scaling import FloatOperator

_ALL = qtyping.TFLOperationName.ALL_SUPPORTED
_KNOWN_OPERATORS = {operation.value for operation in qtyping.TFLOperationName}
# what takes weights of less than 8 bits; other operators get 8
_SHORT_STATIC_OPERATORS = (qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.CONV_2D)
_SHORT_OPERATORS = (*_SHORT_STATIC_OPERATORS, qtyping.TFLOperationName.EMBEDDING_LOOKUP)
_ENDS = (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT)


class Granularity(StrEnum):
    """How many values share a scale."""

    CHANNEL = "channel"
    TENSOR = "tensor"
    BLOCK_32 = "block-32"
    BLOCK_64 = "block-64"
    BLOCK_128 = "block-128"
    BLOCK_256 = "block-256"

    @property
    def block(self) -> int | None:
        """The length of a block; None where there are none."""
        return int(self.removeprefix("block-")) if self.startswith("block-") else None


_GRANULARITIES = {
    Granularity.CHANNEL: qtyping.QuantGranularity.CHANNELWISE,
    Granularity.TENSOR: qtyping.QuantGranularity.TENSORWISE,
    Granularity.BLOCK_32: qtyping.QuantGranularity.BLOCKWISE_32,
    Granularity.BLOCK_64: qtyping.QuantGranularity.BLOCKWISE_64,
    Granularity.BLOCK_128: qtyping.QuantGranularity.BLOCKWISE_128,
    Granularity.BLOCK_256: qtyping.QuantGranularity.BLOCKWISE_256,
}
_ROW_OPERATORS = {"FULLY_CONNECTED", "EMBEDDING_LOOKUP"}


class Ends(StrEnum):
    """What the inputs and outputs of a file are; the agent converts at the edge."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"


@dataclass(frozen=True)
class WeightScheme:
    """Integer weights beside float activations."""

    bits: int
    granularity: Granularity
    dequantized: bool  # computed in float, from weights that are expanded when the file is loaded


@dataclass(frozen=True)
class StaticScheme:
    """Integer weights and activations."""

    weight_bits: int
    activation_bits: int
    granularity: Granularity
    ends: Ends


def quantize_weights(file: bytes, scheme: WeightScheme) -> bytes:
    """Store weights as integers.

    Blocks are for fully connected layers and embeddings whose rows are a multiple of them; what else there is gets one
    scale per channel. So do convolutions whose activations become integers while they run: the runtime's kernel for
    them wants a scale per channel, and reads rubbish where there is one alone (SNR 50 dB became -0.3).

    Raises:
        CompressorError: the library refuses the file.
    """
    manager = RecipeManager()
    add = manager.add_weight_only_config if scheme.dequantized else manager.add_dynamic_config
    block = scheme.granularity.block
    special = block is not None or (scheme.granularity is Granularity.TENSOR and not scheme.dequantized)
    general = Granularity.CHANNEL if special else scheme.granularity
    add(".*", _ALL, num_bits=8, granularity=_GRANULARITIES[general])
    for name in _SHORT_OPERATORS if scheme.bits < 8 else ():  # noqa: PLR2004
        add(".*", name, num_bits=scheme.bits, granularity=_GRANULARITIES[general])
    for operator in weighted_operators(file) if special else []:
        if operator.kind in _ROW_OPERATORS and operator.filter.shape[-1] % (block or 1) == 0:
            name = qtyping.TFLOperationName(operator.kind)
            add(_only(operator.output), name, num_bits=scheme.bits, granularity=_GRANULARITIES[scheme.granularity])
    return _quantize(file, manager, None)


def quantize_static(
    file: bytes,
    scheme: StaticScheme,
    ranges: Mapping[str, Range],
    *,
    kept: Sequence[FloatOperator] = (),
    float_inputs: bool = False,
) -> bytes:
    """Make weights and activations integers.

    Args:
        file: a float file.
        scheme: what becomes what.
        ranges: of every activation, by its name.
        kept: operators that stay in float.
        float_inputs: whether the inputs do, too.

    Raises:
        CompressorError: the library refuses the file.
    """
    manager = RecipeManager()
    for name, bits in ((_ALL, 8), *((name, scheme.weight_bits) for name in _SHORT_STATIC_OPERATORS)):
        manager.add_static_config(
            ".*",
            name,
            activation_num_bits=scheme.activation_bits,
            weight_num_bits=bits,
            weight_granularity=_GRANULARITIES[scheme.granularity],
        )
    for end in _ENDS:
        if scheme.ends is Ends.FLOAT32 or (float_inputs and end is qtyping.TFLOperationName.INPUT):
            manager.add_quantization_config(".*", end, algorithm_key="no_quantize")
        elif scheme.ends is Ends.UINT8:
            manager.add_quantization_config(".*", end, op_config=_unsigned(_GRANULARITIES[scheme.granularity]))
    for operator in kept:
        if operator.kind in _KNOWN_OPERATORS:
            manager.add_quantization_config(
                _only(operator.output), qtyping.TFLOperationName(operator.kind), algorithm_key="no_quantize"
            )
    statistics = {name: _statistics(low, high) for name, (low, high) in ranges.items()}
    per_channel = scheme.granularity is Granularity.CHANNEL
    for name, bound in safe_bounds(file, ranges, scheme.activation_bits, per_channel=per_channel).items():
        statistics[name] = {"min": -bound, "max": bound}
    return _quantize(file, manager, statistics)


def _unsigned(granularity: qtyping.QuantGranularity) -> qtyping.OpQuantizationConfig:
    """uint8 at an end: the library puts a QUANTIZE operator between it and the int8 inside."""
    return qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=8, symmetric=False, dtype=qtyping.TensorDataType.UINT
        ),
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8, symmetric=True, granularity=granularity),
        compute_precision=qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=False,
    )


def _only(output: str) -> str:
    """The library looks for this in an operator's output names, each of which ends in a semicolon."""
    return f"^{re.escape(output)};?$"


def _statistics(low: float, high: float) -> dict[str, Any]:
    return {"min": np.array([low], np.float32), "max": np.array([high], np.float32)}


def _quantize(file: bytes, manager: RecipeManager, statistics: dict[str, Any] | None) -> bytes:
    try:
        with quiet():
            quantizer = Quantizer(file, manager.get_quantization_recipe())
            result = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
    except (ValueError, RuntimeError) as exc:
        raise CompressorError(f"the quantizer refuses this network: {' '.join(str(exc).split())[:300]}") from exc
    return bytes(result.quantized_model)
