"""Weights of a LiteRT file whose scale would be too small for their bias. Pure but for the flatbuffer.

A bias is stored in 32 bits, in steps of input scale times weight scale. A channel whose weights are all but zero
(pruning makes them) has steps so fine that its bias does not fit, and is cut off without a word; and the quotient of
scales overflows in a runtime without XNNPACK. Such a channel's scale is raised until its bias fits: its weights are
then rounded to zero, which they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressors.files.litert import weighted_operators

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from compressors.calibration.ranges import Range
    from compressors.files.litert import WeightedOperator

    Floats = NDArray[np.float32]

BIAS_LIMIT = 2.0**30  # half of what 32 bits hold: the products are added to it
SMALLEST = 2.0**-24  # of the tensor's largest weight
WEIGHT_STEPS = 127
_CHANNEL_AXIS = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0, "DEPTHWISE_CONV_2D": 3}


def safe_bounds(
    file: bytes, ranges: Mapping[str, Range], activation_bits: int, *, per_channel: bool
) -> dict[str, Floats]:
    """The largest magnitude that each filter must be scaled for, by the filter's name.

    Only filters that need another than their own are there. Shape: that of the filter, with a length of one along
    everything that shares a scale.
    """
    bounds = {}
    for operator in weighted_operators(file):
        axis = _CHANNEL_AXIS.get(operator.kind)
        if axis is None or operator.input not in ranges:
            continue
        low, high = ranges[operator.input]
        steps = 2.0**activation_bits - 1
        input_scale = (high - low) / steps if activation_bits == 8 else max(-low, high) / (steps / 2)  # noqa: PLR2004
        own = _magnitude(operator.filter, axis if per_channel else None)
        wanted = np.maximum(own, _floor(operator, own, axis, input_scale, per_channel=per_channel))
        if (wanted > own).any():
            bounds[operator.filter_name] = wanted.astype(np.float32)
    return bounds


def _magnitude(weights: Floats, axis: int | None) -> Floats:
    others = tuple(i for i in range(weights.ndim) if i != axis)
    largest: Floats = np.abs(weights).max(axis=others, keepdims=True)
    return largest


def _floor(operator: WeightedOperator, own: Floats, axis: int, input_scale: float, *, per_channel: bool) -> Floats:
    largest = float(own.max())
    floor = np.full(own.shape, largest * SMALLEST if largest > 0.0 else 1.0, np.float32)
    if operator.bias is None:
        return floor
    needed = np.abs(operator.bias) * (WEIGHT_STEPS / BIAS_LIMIT / input_scale)
    if not per_channel:
        return np.maximum(floor, np.float32(needed.max()))
    shape = [1] * own.ndim
    shape[axis] = own.shape[axis]
    return np.maximum(floor, needed.reshape(shape).astype(np.float32))
