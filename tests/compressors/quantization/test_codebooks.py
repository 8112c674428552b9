"""The few values that replace many are the best ones, and zeros stay zeros."""

from __future__ import annotations

import numpy as np
import pytest

from compressors.quantization import codebooks
from compressors.quantization.codebooks import codebook_of, nearest

WEIGHTS = np.random.default_rng(0).normal(0, 0.1, 20_000).astype(np.float32)


def error(values: np.ndarray[tuple[int], np.dtype[np.float32]], size: int) -> float:
    codebook = codebook_of(values, size)
    return float(((codebook[nearest(values, codebook)] - values) ** 2).mean())


def test_codebook_of_separate_clusters_is_their_means() -> None:
    values = np.array([0.9, 1.0, 1.1, 5.0, 5.2, -3.0], np.float32)
    assert codebook_of(values, 3).tolist() == pytest.approx([-3.0, 1.0, 5.1])


def test_codebook_loses_less_than_equal_steps() -> None:
    steps = np.linspace(WEIGHTS.min(), WEIGHTS.max(), 16, dtype=np.float32)
    assert error(WEIGHTS, 16) < 0.6 * float(((steps[nearest(WEIGHTS, steps)] - WEIGHTS) ** 2).mean())


def test_large_tensor_is_clustered_nearly_as_well_as_by_the_exact_way(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = error(WEIGHTS, 16)
    monkeypatch.setattr(codebooks, "EXACT_BUDGET", 1 << 14)
    assert exact <= error(WEIGHTS, 16) < 1.01 * exact


def test_zeros_stay_zeros_and_count_as_a_value() -> None:
    sparse = np.where(np.abs(WEIGHTS) > 0.1, WEIGHTS, 0).astype(np.float32)
    codebook = codebook_of(sparse, 16)
    shared = codebook[nearest(sparse, codebook)]
    assert len(codebook) == 16
    assert (shared[sparse == 0] == 0).all()


@pytest.mark.parametrize(
    ("values", "size", "kept"),
    [([0, 0, 0], 4, [0]), ([1, 2, 2, 3], 16, [1, 2, 3]), ([1, 0, 3], 2, [0, 2]), ([7], 2, [7])],
)
def test_codebook_holds_no_more_than_there_is(values: list[float], size: int, kept: list[float]) -> None:
    assert codebook_of(np.array(values, np.float32), size).tolist() == kept
