"""How sure a metric is: a bootstrap over groups, because rows of one source are not independent. numpy only.

Models that answered the same rows are drawn alike, so that what one loses against the other has an interval of its own:
most of the spread of the two is the rows', and cancels.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 8 (groups) and 13 (percentile intervals).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressors.contract import Figure
from compressors.errors import MetricError
from compressors.metrics import POSITIVE, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from compressors.metrics import Metric

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

MOST_SAMPLES, LEAST_SAMPLES = 2000, 300  # with 300 an end moves by 0.15 of the standard error, with 2,000 by 0.06
DRAWN_ROWS = 5_000_000  # of all draws together, from which on there are fewer of them: many rows have narrow intervals
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A metric on some rows, and on each draw of them; NaN where a draw has no value (AUC without one of the classes).

    Rows of a single source can't be drawn in another way: then there are no draws, and no interval.
    """

    value: float
    drawn: Floats  # (samples,), or (0,)
    outputs: NDArray[np.generic]  # what the model answered, (rows, ...)
    sources: int  # independent ones that the value rests on: where two classes are told apart, of the rarer one

    @property
    def figure(self) -> Figure:
        """With its 95 % interval."""
        return _figure(self.value, self.drawn)


def evaluate(
    metric: Metric,
    outputs: NDArray[np.generic],
    target: NDArray[np.generic],
    *,
    group: Whole,
    query: Whole | None,
    seed: int = 0,
) -> Estimate:
    """The metric of a model; with the same groups and seed the draws are the same.

    Raises:
        MetricError: these rows have no value.
    """
    value = value_of(metric, outputs, target, query=query)
    scores = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    wanted = np.asarray(target, np.float64)
    drawn = [_score(metric, scores[rows], wanted[rows], again) for rows, again in _draws(group, query, seed)]
    return Estimate(value, np.asarray(drawn, np.float64), outputs, _sources(metric, wanted, group, query))


def paired_loss(metric: Metric, before: Estimate, after: Estimate) -> Figure:
    """What `after` loses against `before`, in units of the metric, negative is better; both of the same rows."""
    sign = 1.0 if metric.higher_is_better else -1.0
    return _figure(metric.loss_against(before.value, after.value), sign * (before.drawn - after.drawn))


def _sources(metric: Metric, target: Floats, group: Whole, query: Whole | None) -> int:
    counted = [group] if query is None else [group, query]
    if metric.tells_apart:
        positive = target.reshape(-1) > POSITIVE
        counted += [group[positive], group[~positive]]
    return min(len(np.unique(names)) for names in counted)


def _score(metric: Metric, outputs: Floats, target: Floats, query: Whole | None) -> float:
    try:
        return metric.score(outputs, target, query)
    except MetricError:  # all the rows have a value, so it is this draw that has none
        return float("nan")


def _figure(value: float, drawn: Floats) -> Figure:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Figure(value=value)
    low, high = np.percentile(known, INTERVAL)
    return Figure(value=value, low=float(low), high=float(high))


def _draws(group: Whole, query: Whole | None, seed: int) -> Iterator[tuple[Whole, Whole | None]]:
    """The rows of each draw, and which of them are ranked together; none where there is one source."""
    rng = np.random.default_rng(seed)
    sources, where = np.unique(group, return_inverse=True)
    if len(sources) == 1:
        return
    order = np.argsort(where, kind="stable")
    sizes = np.bincount(where)
    begins = np.cumsum(sizes) - sizes
    offset = 0 if query is None else int(query.max()) + 1
    for _ in range(max(LEAST_SAMPLES, min(MOST_SAMPLES, DRAWN_ROWS // len(group)))):
        picks = rng.integers(len(sources), size=len(sources))
        lengths = sizes[picks]
        number = np.repeat(np.arange(len(picks)), lengths)  # of the pick that a row comes with
        rows = order[np.arange(len(number)) + (begins[picks] - np.cumsum(lengths) + lengths)[number]]
        # a source drawn twice is two sources, so its queries must not melt into one
        yield rows, None if query is None else query[rows] + number * offset
