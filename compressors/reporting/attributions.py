"""What a model looks at, before and after: how its answer moves when a part of the input is covered.

It asks nothing of the model but answers, so that a file on a device's runtime is explained as the float network is.
Source: Zeiler and Fergus 2014, arXiv:1311.2901 (occlusion); Adebayo et al. 2018, arXiv:1810.03292 (rank correlation).
"""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING

import numpy as np

from compressors.metrics import ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    Array = NDArray[np.generic]
    First = Callable[[Mapping[str, Array]], NDArray[np.float64]]  # the first output, (rows, values)

GRID = 7  # parts of a picture along each side
MAX_PICTURES, MAX_ROWS = 12, 64
MAX_FEATURES = 64
ASKED_ROWS = 128  # at once: another Python takes longer to start than to answer
PICTURE_DIMENSIONS = 4  # with the batch
PICTURE_CHANNELS = (1, 3, 4)


def attribution_correlation(before: First, after: First, inputs: Mapping[str, Array]) -> float | None:
    """The mean rank correlation, over rows, of how much each part matters to two models.

    Args:
        before: the float model, whose answers are explained.
        after: the variant.
        inputs: some rows; only the first of them are used.

    Returns:
        1: the same parts matter as before; 0: unrelated. None: there are no numbers to cover, or nothing matters.
    """
    name = next((n for n, array in inputs.items() if np.issubdtype(array.dtype, np.floating)), None)
    if name is None:
        return None
    rows = MAX_PICTURES if inputs[name].ndim == PICTURE_DIMENSIONS else MAX_ROWS
    few = {n: array[:rows] for n, array in inputs.items()}
    answers = before(few)
    explained = answers.argmax(axis=1)
    old, new = (_attributions(model, few, name, explained, inputs[name]) for model in (before, after))
    if old.shape[1] < 2:  # noqa: PLR2004  one part has no rank
        return None
    correlations = [_rank_correlation(a, b) for a, b in zip(old, new, strict=True)]
    known = [value for value in correlations if value is not None]
    return float(np.mean(known)) if known else None


def _attributions(
    model: First, inputs: Mapping[str, Array], name: str, explained: NDArray[np.int64], all_rows: Array
) -> NDArray[np.float64]:
    """(rows, parts): how much the explained value falls when a part is covered."""
    rows = np.arange(len(explained))
    whole = model(inputs)[rows, explained]
    moved: list[NDArray[np.float64]] = []
    changes = _covered(inputs[name], all_rows)
    while few := list(islice(changes, max(1, ASKED_ROWS // len(rows)))):
        asked = {other: np.concatenate([array] * len(few)) for other, array in inputs.items()}
        answers = model({**asked, name: np.concatenate(few)}).reshape(len(few), len(rows), -1)
        moved += [whole - one[rows, explained] for one in answers]
    return np.stack(moved, axis=1)


def _covered(array: Array, all_rows: Array) -> Iterator[Array]:
    if array.ndim != PICTURE_DIMENSIONS:
        flat, means = array.reshape(len(array), -1), all_rows.reshape(len(all_rows), -1).mean(axis=0)
        for feature in range(min(flat.shape[1], MAX_FEATURES)):
            changed = flat.copy()
            changed[:, feature] = means[feature]
            yield changed.reshape(array.shape)
        return
    first = 2 if array.shape[1] in PICTURE_CHANNELS else 1
    mean = array.mean()
    for top in _parts(array.shape[first]):
        for left in _parts(array.shape[first + 1]):
            changed = array.copy()
            changed[(slice(None),) * first + (top, left)] = mean
            yield changed


def _parts(length: int) -> list[slice]:
    bounds = np.unique(np.linspace(0, length, GRID + 1).astype(int))
    return [slice(int(a), int(b)) for a, b in pairwise(bounds)]


def _rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Spearman's; None where a model is moved by no part at all."""
    a, b = ranks(one), ranks(other)
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else None
