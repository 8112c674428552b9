"""Parts of the data in which a variant may be worse than on the whole: each class, and each quarter of what rows have.

What rows have: a table's features, a picture's brightness and contrast, and how rare an identifier is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compressors.contract import Task
from compressors.errors import MetricError
from compressors.metrics import METRICS, value_of
from compressors.reporting.evidence import SliceFigure

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split
    from compressors.metrics import OutputScale

    Array = NDArray[np.generic]
    Marks = NDArray[np.bool_]

MIN_ROWS = 30  # a smaller slice says nothing
MAX_CLASSES = 50
MAX_FEATURES = 32
QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")
METRIC_OF = {Task.CLASSIFICATION: "accuracy", Task.REGRESSION: "mae", Task.RANKING: "auc"}
PICTURE_DIMENSIONS = 4  # with the batch


def slice_figures(
    task: Task, split: Split, labels: tuple[str, ...], before: Array, after: Array, *, scale: OutputScale
) -> list[SliceFigure]:
    """The slices, those first that lose most.

    Args:
        task: decides the metric: accuracy, MAE, or AUC.
        split: the rows.
        labels: names of the classes, if they have any.
        before: the float model's outputs.
        after: the variant's.
        scale: of the outputs of both.
    """
    metric = replace(METRICS[METRIC_OF[task]], scale=scale)
    found = []
    for name, rows in _slices(task, split, labels):
        if rows.sum() < MIN_ROWS:
            continue
        target = split.target[rows]
        try:
            old, new = (value_of(metric, outputs[rows], target, query=None) for outputs in (before, after))
        except MetricError:  # rows of one class have no order
            continue
        found.append(
            SliceFigure(
                name=name,
                rows=int(rows.sum()),
                metric=metric.name,
                before=old,
                after=new,
                loss=metric.loss_against(old, new),
            )
        )
    return sorted(found, key=lambda one: -one.loss)


def _slices(task: Task, split: Split, labels: tuple[str, ...]) -> Iterator[tuple[str, Marks]]:
    if task is Task.CLASSIFICATION:
        classes = np.unique(split.target)
        for number in classes[:MAX_CLASSES].astype(int):
            yield f"class {labels[number] if number < len(labels) else number}", split.target == number
    for name, values in _traits(split.inputs):
        bounds = np.quantile(values, (0.25, 0.5, 0.75))
        quarter = np.searchsorted(bounds, values)
        for number in np.unique(quarter):
            yield f"{name}: {QUARTERS[number]}", quarter == number


def _traits(inputs: Mapping[str, Array]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for name, array in inputs.items():
        if np.issubdtype(array.dtype, np.integer):
            values, where, counts = np.unique(
                array.reshape(len(array), -1)[:, 0], return_inverse=True, return_counts=True
            )
            if len(values) > len(QUARTERS):
                yield f"rows of the same {name}", counts[where].astype(np.float64)
        elif array.ndim == PICTURE_DIMENSIONS:
            flat = array.reshape(len(array), -1).astype(np.float64)
            yield f"brightness of {name}", flat.mean(axis=1)
            yield f"contrast of {name}", flat.std(axis=1)
        else:
            flat = array.reshape(len(array), -1).astype(np.float64)
            for feature in range(min(flat.shape[1], MAX_FEATURES)):
                if len(np.unique(flat[:, feature])) > len(QUARTERS):
                    yield f"{name}[{feature}]", flat[:, feature]
