"""Which rows of a split are looked at where all would take too long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compressors.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split

MAX_CALIBRATION_ROWS = 4096  # more would take minutes for a photo network


def spread(rows: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` row numbers, evenly spread: rows of one source often lie together."""
    return np.unique(np.linspace(0, rows - 1, min(rows, limit)).astype(np.int64))


def calibrating(split: Split, limit: int = MAX_CALIBRATION_ROWS) -> NDArray[np.int64]:
    """At most `limit` row numbers of the split that ranges are taken from.

    Raises:
        DataError: the split has no rows.
    """
    require_rows(split)
    return spread(split.rows, min(limit, MAX_CALIBRATION_ROWS))


def require_rows(split: Split) -> None:
    """Refuse a split that nothing can be learnt from.

    Raises:
        DataError: the split has no rows.
    """
    if split.rows == 0:
        raise DataError("there are no calibration rows, and ranges are taken from them: add some to the data")


def part_of(split: Split, limit: int) -> Split:
    """A split of at most `limit` of the rows."""
    if split.rows <= limit:
        return split
    chosen = spread(split.rows, limit)
    return replace(
        split,
        inputs={name: array[chosen] for name, array in split.inputs.items()},
        target=split.target[chosen],
        group=split.group[chosen],
        query=None if split.query is None else split.query[chosen],
        places=split.places[chosen],
    )
