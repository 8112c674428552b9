"""Whether the features of a table live on scales that one quantized tensor can't hold. Pure: rows in, yes or no out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 255
FEWEST_STEPS = 4.0  # of the shared scale within one standard deviation of a feature
_VECTOR_DIMENSIONS = 2  # rows and features


def is_unevenly_scaled(rows: NDArray[np.generic]) -> bool:
    """Whether one 8-bit scale for the whole tensor would leave too little of some feature of these rows."""
    if rows.ndim != _VECTOR_DIMENSIONS or not np.issubdtype(rows.dtype, np.floating):
        return False
    values = rows.astype(np.float64)
    step = (max(0.0, values.max()) - min(0.0, values.min())) / STEPS
    spread = values.std(axis=0)
    varying = spread[spread > 0.0]
    return bool(varying.size and step > 0.0 and varying.min() < FEWEST_STEPS * step)
