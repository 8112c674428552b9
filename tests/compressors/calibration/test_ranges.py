from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.calibration.histogram import Histogram
from compressors.calibration.ranges import Range, Rule, guarded, range_of, squared_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

PERCENTILE = 99.9


def histogram_of(values: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    histogram.add(values)
    return histogram


def with_outlier() -> NDArray[np.float32]:
    return np.append(np.random.default_rng(0).normal(size=50_000), 500.0).astype(np.float32)


def test_min_max_keeps_every_value() -> None:
    values = with_outlier()
    assert range_of(histogram_of(values), Rule.MIN_MAX, percentile=PERCENTILE) == (values.min(), 500.0)


@pytest.mark.parametrize("rule", [Rule.PERCENTILE, Rule.ENTROPY])
def test_rules_that_clip_leave_an_outlier_out(rule: Rule) -> None:
    low, high = range_of(histogram_of(with_outlier()), rule, percentile=PERCENTILE)
    assert -5.0 < low < -2.0
    assert 2.0 < high < 100.0


def test_mse_finds_no_worse_an_error_than_any_other_rule() -> None:
    histogram = histogram_of(np.random.default_rng(1).standard_t(3, size=20_000).astype(np.float32))
    values, counts = histogram.occupied()
    errors = {
        rule: squared_error(values, counts, *range_of(histogram, rule, percentile=PERCENTILE)) for rule in list(Rule)
    }
    assert errors[Rule.MSE] == min(errors.values())
    assert errors[Rule.MSE] < errors[Rule.MIN_MAX]


@pytest.mark.parametrize("rule", list(Rule))
def test_tensor_that_is_always_zero_gets_a_range_that_can_be_divided_by(rule: Rule) -> None:
    assert range_of(histogram_of(np.zeros(10, np.float32)), rule, percentile=PERCENTILE) == (0.0, 1.0)


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_zero_lies_within_the_range_of_values_of_one_sign(rule: Rule, sign: float) -> None:
    values = sign * np.random.default_rng(2).uniform(5.0, 6.0, 1000).astype(np.float32)
    low, high = range_of(histogram_of(values), rule, percentile=PERCENTILE)
    assert low <= 0.0 <= high
    assert high - low > 4.0


def test_range_that_is_all_but_empty_is_widened() -> None:
    assert guarded(Range(0.0, 1e-9)) == (0.0, 1e-6)
    assert guarded(Range(-1e-9, 0.0)) == (-1e-6, 0.0)
    assert guarded(Range(-1.0, 2.0)) == (-1.0, 2.0)
