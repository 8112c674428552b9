"""Which rows calibrate a file that takes one sample at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressors.data import Split

MAX_CALIBRATION_SAMPLES = 4096  # more would take minutes for a photo network


def calibration_rows(split: Split) -> NDArray[np.int64]:
    """Numbers of rows, spread evenly over the split."""
    count = min(split.rows, MAX_CALIBRATION_SAMPLES)
    return np.unique(np.linspace(0, split.rows - 1, count).astype(np.int64))
