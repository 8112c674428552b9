"""How sure a classifier says it is, and how far that is from how often it is right.

Source: Guo et al. 2017, arXiv:1706.04599 (expected calibration error).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BINS = 15
SUMS_TO_ONE = 0.02  # int8 probabilities are rounded to 1/256 each


def probabilities(outputs: NDArray[np.generic]) -> Floats:
    """(rows, classes); outputs may be probabilities already, else they are logits. A single output says yes or no."""
    values = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    within = bool(((values >= 0) & (values <= 1)).all())
    if values.shape[1] == 1:
        yes = values if within else 1 / (1 + np.exp(-np.clip(values, -500, 500)))
        return np.hstack([1 - yes, yes])
    if within and bool((np.abs(values.sum(axis=1) - 1) < SUMS_TO_ONE * max(1, values.shape[1] / 10)).all()):
        return values
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def calibration_error(outputs: NDArray[np.generic], target: NDArray[np.generic]) -> float:
    """The mean distance of confidence and accuracy over bins of confidence, weighed by their rows; 0 is best."""
    sure = probabilities(outputs)
    confidence, right = sure.max(axis=1), sure.argmax(axis=1) == target
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    distance = [
        (bins == one).mean() * abs(confidence[bins == one].mean() - right[bins == one].mean())
        for one in np.unique(bins)
    ]
    return float(np.sum(distance))
