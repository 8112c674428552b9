from __future__ import annotations

import numpy as np
import pytest

from compressors.calibration.histogram import HALF_BINS, Histogram


def test_values_are_counted_once_though_their_range_grows() -> None:
    histogram = Histogram()
    pieces = [np.random.default_rng(seed).normal(0.0, 10.0**seed, 1000).astype(np.float32) for seed in range(4)]
    for piece in pieces:
        histogram.add(piece)
    values = np.concatenate(pieces)
    assert histogram.total == values.size
    assert (histogram.low, histogram.high) == (values.min(), values.max())
    for share in (0.01, 0.25, 0.5, 0.99):
        expected = float(np.quantile(values, share, method="inverted_cdf"))
        assert histogram.quantile(share) == pytest.approx(expected, abs=2 * histogram.width)
    assert len(histogram.counts) == 2 * HALF_BINS


def test_only_zeros_are_a_histogram_without_width() -> None:
    histogram = Histogram()
    histogram.add(np.zeros((3, 4), np.float32))
    assert (histogram.low, histogram.high, histogram.total) == (0.0, 0.0, 12)
    histogram.add(np.array([1.0], np.float32))
    assert histogram.total == 13
    assert histogram.share_outside(0.0, 0.5) == pytest.approx(1 / 13)


def test_masks_that_stand_for_infinity_are_no_values() -> None:
    histogram = Histogram()
    histogram.add(np.array([-np.inf, np.finfo(np.float32).min, 1.0, -2.0], np.float32))
    assert (histogram.low, histogram.high, histogram.total) == (-2.0, 1.0, 2)
