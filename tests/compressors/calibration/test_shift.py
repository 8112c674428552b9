from __future__ import annotations

import numpy as np

from compressors.calibration import shift
from compressors.calibration.histogram import Histogram
from compressors.data.evaluation_rows import Split

ROWS = 1000


def seen(center: float, spread: float, seed: int) -> dict[str, Histogram]:
    histogram = Histogram()
    histogram.add(np.random.default_rng(seed).normal(center, spread, ROWS).astype(np.float32))
    return {"layer": histogram}


def test_rows_of_one_distribution_are_not_warned_of() -> None:
    assert shift.warning(seen(0.0, 1.0, 0), seen(0.0, 1.0, 1), rows=ROWS) is None


def test_values_outside_the_calibrated_range_are_warned_of_with_the_tensor() -> None:
    warning = shift.warning(seen(0.0, 1.0, 0), seen(4.0, 1.0, 1), rows=ROWS)
    assert warning is not None
    assert "another distribution" in warning
    assert "of the values of layer lie outside" in warning


def test_range_that_is_wasted_is_warned_of() -> None:
    warning = shift.warning(seen(0.0, 100.0, 0), seen(0.0, 1.0, 1), rows=ROWS)
    assert warning is not None
    assert "times as wide" in warning


def test_few_rows_of_calibration_are_no_other_distribution() -> None:
    few = Histogram()
    few.add(np.random.default_rng(0).normal(size=10).astype(np.float32))
    assert shift.warning({"layer": few}, seen(0.0, 1.0, 1), rows=10) is None


def rows_of(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Split:
    numbers = np.arange(len(values))
    return Split(inputs={"pixels": values}, target=numbers, group=numbers, query=None, places=numbers)


def test_inputs_of_another_distribution_are_warned_of_and_ids_are_not() -> None:
    random = np.random.default_rng(0)
    bright, dark = (random.uniform(0, high, (300, 4)).astype(np.float32) for high in (1.0, 0.05))
    assert shift.input_warning(rows_of(bright), rows_of(bright[::-1])) is None
    warning = shift.input_warning(rows_of(dark), rows_of(bright))
    assert warning is not None
    assert "of the values of pixels lie outside" in warning
    ids = np.arange(300)
    assert shift.input_warning(rows_of(ids), rows_of(ids + 1000)) is None
