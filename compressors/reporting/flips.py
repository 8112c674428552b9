"""Which answers a variant changed, to right and to wrong; what counts as changed depends on what the model is for.

A class: another decision. A number: moved by more than a tenth of the target's spread. A rank: the row came among the
first of its query, or left them, because that is what a user sees; scores may move as they like. The first are as many
as the metric looks at (hr@K), else as many as the query has relevant rows (as R-precision does: Manning, Raghavan and
Schuetze 2008, Introduction to Information Retrieval, 8.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compressors.contract import Task
from compressors.metrics import decisions, places
from compressors.reporting.evidence import Flips

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split
    from compressors.metrics import Metric

    Floats = NDArray[np.float64]
    Marks = NDArray[np.bool_]

MOVED = 0.1  # of the target's standard deviation


def flips(task: Task, metric: Metric, split: Split, before: Floats, after: Floats) -> Flips:
    """Count them.

    Args:
        task: what the model is for; a ranking whose metric is one of numbers (rmse) is one of numbers.
        metric: that decides.
        split: the rows.
        before: the float model's outputs, (rows, values).
        after: the variant's.
    """
    if task is Task.CLASSIFICATION:
        old, new = decisions(before, metric.scale), decisions(after, metric.scale)
        return _counted(old != new, old == split.target, new == split.target)
    if task is Task.REGRESSION or not metric.bounded:
        return _numbers(split, before, after)
    relevant = split.target.reshape(-1).astype(np.float64) > 0
    was, now = (_among_the_first(outputs[:, -1], relevant, split, metric.first) for outputs in (before, after))
    return _counted(was != now, was == relevant, now == relevant)


def _numbers(split: Split, before: Floats, after: Floats) -> Flips:
    wanted = split.target.reshape(split.rows, -1).astype(np.float64)
    changed = np.abs(after - before).max(axis=1) > MOVED * wanted.std()
    was_off, is_off = (np.abs(outputs.reshape(wanted.shape) - wanted).max(axis=1) for outputs in (before, after))
    return _counted(changed, was_off <= is_off, is_off < was_off)


def _among_the_first(scores: Floats, relevant: Marks, split: Split, first: int | None) -> Marks:
    query = np.zeros(split.rows, np.int64) if split.query is None else split.query
    _, which = np.unique(query, return_inverse=True)
    most = np.bincount(which, weights=relevant)[which] if first is None else first
    among: Marks = places(scores, relevant, query) < most
    return among


def _counted(changed: Marks, right_before: Marks, right_after: Marks) -> Flips:
    return Flips(
        rows=len(changed),
        changed=int(changed.sum()),
        to_right=int((changed & right_after & ~right_before).sum()),
        to_wrong=int((changed & right_before & ~right_after).sum()),
    )
