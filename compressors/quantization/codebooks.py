"""The best few values for many: k-means on a line, where the optimum can be found exactly.

Source: Grønlund et al. 2017, arXiv:1701.07204 (exact 1-D k-means); Lloyd 1982 where the exact way would take too long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kmeans1d
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Values = NDArray[np.float32]

EXACT_BUDGET = 1 << 24  # values times clusters: about 4 s on one core
ROUNDS = 30


def codebook_of(values: Values, size: int, *, keep_zeros: bool = True) -> Values:
    """The values whose use in place of the given ones has the least squared error, in ascending order.

    Args:
        values: of any shape.
        size: how many to keep at most; fewer come back where fewer are needed.
        keep_zeros: zeros stay zero, as pruning made them; then zero is one of the values kept.
    """
    flat = np.sort(values, axis=None).astype(np.float64)
    zeros = keep_zeros and bool((flat == 0).any())
    if zeros:
        flat = flat[flat != 0]
    size -= zeros
    different = np.unique(flat)
    kept = different if len(different) <= size else _means(flat, size)
    return np.unique(np.concatenate([kept, [0.0] if zeros else []]).astype(np.float32))


def nearest(values: Values, codebook: Values) -> NDArray[np.int64]:
    """The index of the codebook's value that is nearest to each; a zero keeps to a zero."""
    borders = (codebook[1:].astype(np.float64) + codebook[:-1]) / 2
    found = np.searchsorted(borders, values)
    zero = np.flatnonzero(codebook == 0)
    if len(zero):
        found[values == 0] = zero[0]
    return found


def _means(ordered: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    stride = -(-len(ordered) * size // EXACT_BUDGET)
    means = np.array(kmeans1d.cluster(ordered[stride // 2 :: stride], size).centroids)
    return means if stride == 1 else _lloyd(ordered, np.unique(means))


def _lloyd(ordered: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of their nearest values, until none moves; the values are in order, so that a cluster is a slice."""
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    for _ in range(ROUNDS):
        ends = np.searchsorted(ordered, (means[1:] + means[:-1]) / 2)
        ends = np.concatenate([[0], ends, [len(ordered)]])
        counts = np.diff(ends)
        moved = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), means)
        if np.allclose(moved, means, rtol=0, atol=1e-9 * np.ptp(ordered)):
            return moved
        means = moved
    return means
