"""How sure a classifier says it is, and how far that is from how often it is right.

Source: Guo et al. 2017, arXiv:1706.04599 (expected calibration error).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressors.metrics import OutputScale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BINS = 15


def probabilities(outputs: NDArray[np.generic], scale: OutputScale) -> Floats:
    """(rows, classes). A single output says yes or no; int8 probabilities may lie a step outside of [0, 1]."""
    values = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    is_probability = scale is OutputScale.PROBABILITIES
    if values.shape[1] == 1:
        yes = np.clip(values, 0, 1) if is_probability else 1 / (1 + np.exp(-np.clip(values, -500, 500)))
        return np.hstack([1 - yes, yes])
    if is_probability:
        return np.clip(values, 0, 1)
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def calibration_error(outputs: NDArray[np.generic], target: NDArray[np.generic], scale: OutputScale) -> float:
    """The mean distance of confidence and accuracy over bins of confidence, weighed by their rows; 0 is best."""
    sure = probabilities(outputs, scale)
    confidence, right = sure.max(axis=1), sure.argmax(axis=1) == target
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    distance = [
        (bins == one).mean() * abs(confidence[bins == one].mean() - right[bins == one].mean())
        for one in np.unique(bins)
    ]
    return float(np.sum(distance))
