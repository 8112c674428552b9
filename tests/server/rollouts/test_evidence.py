from __future__ import annotations

import math

import numpy as np
import pytest

from server.rollouts.evidence import evidence_of_share, mean_at_least, share_at_least

ALPHA = 0.05
RUNS = 400


def test_mean_at_least_looked_at_after_every_value_is_rarely_above_the_truth() -> None:
    chance = np.random.default_rng(1)
    misled = 0
    for values in chance.normal(3.0, 2.0, (RUNS, 60)):
        misled += any(mean_at_least(list(values[:number]), alpha=ALPHA) > 3.0 for number in range(1, 61))
    assert misled <= ALPHA * RUNS


def test_mean_at_least_of_many_values_comes_close_to_the_truth() -> None:
    values = list(np.random.default_rng(2).normal(3.0, 2.0, 2000))
    assert 2.7 < mean_at_least(values, alpha=ALPHA) < 3.0


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 5.1]])
def test_mean_at_least_of_too_few_values_says_nothing(values: list[float]) -> None:
    assert mean_at_least(values, alpha=0.001) == -math.inf


def test_mean_at_least_of_equal_values_is_their_value() -> None:
    assert mean_at_least([0.5] * 20, alpha=0.001) == pytest.approx(0.5)


@pytest.mark.parametrize("size", [1, 200])
def test_evidence_of_share_looked_at_after_every_device_rarely_grows(size: int) -> None:
    # of one request each, a share is 0 or 1: as skewed as can be
    shares = np.random.default_rng(3).binomial(size, 0.02, (RUNS, 60)) / size
    misled = sum(
        any(evidence_of_share(list(run[:number]), allowed=0.02) >= 1 / ALPHA for number in range(1, 61))
        for run in shares
    )
    assert misled <= ALPHA * RUNS


def test_evidence_of_share_three_devices_that_always_fail_are_enough_and_one_is_not() -> None:
    assert evidence_of_share([1.0] * 3, allowed=0.02) > 10_000
    assert evidence_of_share([1.0], allowed=0.02) < 100


def test_share_at_least_is_below_the_mean_and_grows_with_the_devices() -> None:
    few, many = share_at_least([0.3, 0.5] * 5, alpha=0.001), share_at_least([0.3, 0.5] * 50, alpha=0.001)
    assert 0 < few < many < 0.4
