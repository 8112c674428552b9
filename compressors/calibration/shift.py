"""Whether the calibration rows look like the rows that a model is judged on. Pure: rows in, a sentence out.

Ranges taken from other data than the model will see clip what it sees, or waste their steps on what it never sees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressors.calibration.histogram import Histogram
from compressors.calibration.rows import spread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compressors.data.evaluation_rows import Split

CLIPPED = 0.01  # of the values of a tensor: other photos of one kind stay below 0.1 %, noise clips 4 %
WASTED = 4.0  # times as wide as what is seen; photos of one kind stay below 1.5
COMPARED_ROWS = 1024


def input_warning(calibration: Split, selection: Split) -> str | None:
    """The same for targets that show no activation but their inputs; see `warning`."""
    seen, looked_at = map(_of_inputs, (calibration, selection))
    return warning(seen, looked_at, rows=min(calibration.rows, COMPARED_ROWS))


def _of_inputs(split: Split) -> dict[str, Histogram]:
    found = {}
    for name, array in split.inputs.items():
        if np.issubdtype(array.dtype, np.floating):  # an id has no distance to another
            found[name] = Histogram()
            for row in spread(split.rows, COMPARED_ROWS):
                found[name].add(array[row])
    return found


def warning(calibration: Mapping[str, Histogram], selection: Mapping[str, Histogram], *, rows: int) -> str | None:
    """One sentence where the two differ so that quantization suffers; None where they are alike.

    Args:
        calibration: what each tensor was on the calibration rows.
        selection: the same on selection rows.
        rows: of calibration. Of a single number a row, 2 in rows + 1 lie outside the range of others by chance.
    """
    by_chance = 2.0 / (rows + 1)
    clipped = {
        name: seen.share_outside(calibration[name].low, calibration[name].high) for name, seen in _seen(selection)
    }
    worst = max(clipped, key=lambda name: clipped[name], default=None)
    if worst is not None and clipped[worst] > max(CLIPPED, 3.0 * by_chance):
        return (
            f"warning: the calibration data look like another distribution than the selection data: "
            f"{clipped[worst]:.0%} of the values of {worst} lie outside the range that they gave"
        )
    wasted = {name: _waste(calibration[name], seen) for name, seen in _seen(selection)}
    worst = max(wasted, key=lambda name: wasted[name], default=None)
    if worst is not None and wasted[worst] > WASTED:
        return (
            f"warning: the calibration data look like another distribution than the selection data: the range that "
            f"they gave {worst} is {wasted[worst]:.0f} times as wide as what is seen there"
        )
    return None


def _seen(selection: Mapping[str, Histogram]) -> list[tuple[str, Histogram]]:
    return [(name, histogram) for name, histogram in selection.items() if histogram.total > 0]


def _waste(calibration: Histogram, seen: Histogram) -> float:
    """How many times as wide the calibrated range is as the range of the selection rows, zero counted in both."""
    bulk = max(seen.high, 0.0) - min(seen.low, 0.0)
    given = max(calibration.high, 0.0) - min(calibration.low, 0.0)
    return given / bulk if bulk > 0.0 else 0.0
