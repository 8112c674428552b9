"""The same rows as a device may really see them: noisy, blurred. What a variant loses there, beside the float model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.generic]

NOISE = (0.1, 0.3)  # standard deviations of each feature, or of all pixels
BLUR = (1.0, 2.0)  # pixels
PICTURE_DIMENSIONS = 4  # with the batch
PICTURE_CHANNELS = (1, 3, 4)


def shifted(inputs: Mapping[str, Array], *, seed: int) -> Iterator[tuple[str, dict[str, Array]]]:
    """Each shift by its name; none where no input is a number (identifiers have no near ones)."""
    if not any(np.issubdtype(array.dtype, np.floating) for array in inputs.values()):
        return
    rng = np.random.default_rng(seed)
    for strength in NOISE:
        yield f"noise of {strength:g} standard deviations", {n: _noisy(a, strength, rng) for n, a in inputs.items()}
    if any(array.ndim == PICTURE_DIMENSIONS for array in inputs.values()):
        for sigma in BLUR:
            yield f"blur of {sigma:g} pixels", {name: _blurred(array, sigma) for name, array in inputs.items()}


def rows_of_some_groups(group: NDArray[np.int64], *, most: int, seed: int) -> NDArray[np.int64]:
    """Rows of whole groups drawn at random, `most` or fewer: the first rows of a file are often of one kind.

    Where the first group that is drawn has more rows, some of its rows.
    """
    rng = np.random.default_rng(seed)
    names, sizes = np.unique(group, return_counts=True)
    order = rng.permutation(len(names))
    taken = order[: max(1, int((np.cumsum(sizes[order]) <= most).sum()))]
    rows = np.flatnonzero(np.isin(group, names[taken]))
    return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))


def _noisy(array: Array, strength: float, rng: np.random.Generator) -> Array:
    if not np.issubdtype(array.dtype, np.floating):
        return array
    values = np.asarray(array, np.float64)
    axis = None if array.ndim == PICTURE_DIMENSIONS else 0  # a feature has its own scale, a pixel has that of all
    noisy = values + strength * values.std(axis=axis) * rng.standard_normal(array.shape)
    within: Array = np.clip(noisy, values.min(axis=axis), values.max(axis=axis)).astype(array.dtype)
    return within


def _blurred(array: Array, sigma: float) -> Array:
    if array.ndim != PICTURE_DIMENSIONS or not np.issubdtype(array.dtype, np.floating):
        return array
    sides = (0, 0, sigma, sigma) if array.shape[1] in PICTURE_CHANNELS else (0, sigma, sigma, 0)
    blurred: Array = gaussian_filter(np.asarray(array), sides, mode="nearest")
    return blurred
