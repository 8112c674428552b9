"""What a model is worth on data. numpy only, each metric by its plain definition; intervals are `bootstrap`'s."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from compressors.contract import Figure, Task
from compressors.errors import MetricError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

POSITIVE = 0.5  # above it a target says yes, where the classes are 0 and 1
SUMS_TO_ONE = 0.01  # by so much the probabilities of a float model may miss it


class OutputScale(StrEnum):
    """What the numbers are that a classifier answers with; of other models it says nothing."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"

    @classmethod
    def of(cls, float_outputs: NDArray[np.generic]) -> OutputScale:
        """Told by what the float model answers to many rows: probabilities lie in [0, 1], and several add up to one.

        It holds for all that is made of the model: a few rows of logits may all lie in [0, 1], and a probability that
        was rounded to 8 bits may be 1.004.
        """
        values = np.asarray(float_outputs, np.float64).reshape(len(float_outputs), -1)
        within = bool(((values >= 0.0) & (values <= 1.0)).all())
        whole = values.shape[1] == 1 or bool((np.abs(values.sum(axis=1) - 1.0) < SUMS_TO_ONE).all())
        return cls.PROBABILITIES if within and whole else cls.LOGITS


THRESHOLD = {OutputScale.LOGITS: 0.0, OutputScale.PROBABILITIES: 0.5}  # of a single output that says yes or no


class Answered(NamedTuple):
    """Rows that a model has answered."""

    outputs: Floats  # (rows, values)
    target: Floats
    query: NDArray[np.int64] | None
    scale: OutputScale


@dataclass(frozen=True)
class Metric:
    """A metric, by its definition."""

    name: str
    tasks: frozenset[Task]
    higher_is_better: bool
    definition: Callable[[Answered], float]
    bounded: bool = True  # at most 1, so that a loss in points means something
    counts: bool = (
        False  # a share of rows or queries, so that small changes of the outputs move it by whole ones or not
    )
    tells_apart: bool = False  # two classes, so that it is as sure as the rarer one has rows
    scale: OutputScale = OutputScale.LOGITS  # of the model at hand
    first: int | None = None  # so many of each query count, where only those do

    def for_model(self, float_outputs: NDArray[np.generic]) -> Metric:
        """This metric of one model and of all that is made of it.

        Args:
            float_outputs: what the float model answers to the rows of the selection split, (rows, values).
        """
        return replace(self, scale=OutputScale.of(float_outputs))

    def score(self, outputs: Floats, target: Floats, query: NDArray[np.int64] | None) -> float:
        """Its value for some rows; `outputs` have the shape (rows, values)."""
        return self.definition(Answered(outputs, target, query, self.scale))

    def loss_against(self, float_value: float, value: float) -> float:
        """How much worse than the float model, in units of the metric; negative is better."""
        return float_value - value if self.higher_is_better else value - float_value


def decisions(outputs: Floats, scale: OutputScale) -> NDArray[np.int64]:
    """The class of each row: the largest of several outputs; a single one is held against its threshold."""
    if outputs.shape[1] > 1:
        return np.asarray(outputs.argmax(axis=1), np.int64)
    return (outputs[:, 0] > THRESHOLD[scale]).astype(np.int64)


def _right_decisions(rows: Answered) -> float:
    return float(np.mean(decisions(rows.outputs, rows.scale) == rows.target))


def _errors(rows: Answered) -> Floats:
    return rows.outputs - rows.target.reshape(rows.outputs.shape)


def _rmse(rows: Answered) -> float:
    return float(np.sqrt(np.mean(_errors(rows) ** 2)))


def _mae(rows: Answered) -> float:
    return float(np.mean(np.abs(_errors(rows))))


def _r2(rows: Answered) -> float:
    return _explained(rows.outputs, rows.target.reshape(rows.outputs.shape))


def _explained(outputs: Floats, wanted: Floats) -> float:
    """The share of the variance that is explained; 0 where what is wanted does not vary."""
    spread = float(np.sum((wanted - wanted.mean(axis=0)) ** 2))
    return 1.0 - float(np.sum((outputs - wanted) ** 2)) / spread if spread > 0 else 0.0


def _auc(rows: Answered) -> float:
    """The chance that a positive scores above a negative, ties counted half (Mann-Whitney)."""
    outputs = rows.outputs
    if outputs.shape[1] > 2:  # noqa: PLR2004
        raise MetricError(f"auc tells two classes apart, and this model has {outputs.shape[1]}: use mrr or top1")
    scores = outputs[:, -1] - outputs[:, 0] if outputs.shape[1] > 1 else outputs[:, 0]
    positive = rows.target > POSITIVE
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:  # one half would look like a measurement, and every variant would keep it
        raise MetricError(
            "auc needs rows of both classes, and all of these are of one: add rows, or name another metric"
        )
    return float((ranks(scores)[positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def _mean_reciprocal_rank(rows: Answered) -> float:
    """1 where the right class comes first, 1/2 where it comes second, and so on; ties count against the model."""
    right = rows.outputs[np.arange(len(rows.outputs)), rows.target.astype(int)][:, None]
    return float(np.mean(1.0 / (rows.outputs >= right).sum(axis=1)))


def _spearman(rows: Answered) -> float:
    """How alike two orders are: the correlation of ranks, the mean over the values of a row."""
    wanted = rows.target.reshape(rows.outputs.shape)
    found = [_correlation(ranks(ours), ranks(theirs)) for ours, theirs in zip(rows.outputs.T, wanted.T, strict=True)]
    return float(np.mean(found))


def _correlation(one: Floats, other: Floats) -> float:
    spread = float(one.std() * other.std())
    return float(((one - one.mean()) * (other - other.mean())).mean()) / spread if spread > 0 else 0.0


def ranks(values: Floats) -> Floats:
    """The place of each value in ascending order; equal ones share the mean of their places."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2.0)[where], np.float64)


def _hit_rate(k: int) -> Callable[[Answered], float]:
    """The share of queries with a relevant item among the k that score highest.

    Equal scores count against the model: a quantized one gives many, and the order of rows must not decide.
    """

    def score(rows: Answered) -> float:
        if rows.query is None:
            raise MetricError(f"hr@{k} needs the array `query` in the data: which rows are ranked together")
        relevant = rows.target.reshape(-1) > 0
        queries, which = np.unique(rows.query, return_inverse=True)
        hits = np.zeros(len(queries), dtype=bool)
        hits[which[relevant & (places(rows.outputs[:, -1], relevant, rows.query) < k)]] = True
        return float(np.mean(hits))

    return score


def places(scores: Floats, relevant: NDArray[np.bool_], query: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each row in its query, 0 for the highest score; of equal scores the relevant ones come last."""
    order = np.lexsort((relevant, -scores, query))
    _, begins, sizes = np.unique(query[order], return_index=True, return_counts=True)
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) - np.repeat(begins, sizes)
    return found


_ALL = (
    Metric("top1", frozenset({Task.CLASSIFICATION}), higher_is_better=True, definition=_right_decisions, counts=True),
    Metric(
        "accuracy", frozenset({Task.CLASSIFICATION}), higher_is_better=True, definition=_right_decisions, counts=True
    ),
    Metric("mrr", frozenset({Task.CLASSIFICATION}), higher_is_better=True, definition=_mean_reciprocal_rank),
    Metric(
        "auc",
        frozenset({Task.CLASSIFICATION, Task.RANKING}),
        higher_is_better=True,
        definition=_auc,
        tells_apart=True,
    ),
    Metric("rmse", frozenset({Task.REGRESSION, Task.RANKING}), higher_is_better=False, definition=_rmse, bounded=False),
    Metric("mae", frozenset({Task.REGRESSION}), higher_is_better=False, definition=_mae, bounded=False),
    Metric("spearman", frozenset({Task.REGRESSION}), higher_is_better=True, definition=_spearman),
    Metric("r2", frozenset({Task.REGRESSION}), higher_is_better=True, definition=_r2),
    *(
        Metric(
            f"hr@{k}",
            frozenset({Task.RANKING}),
            higher_is_better=True,
            definition=_hit_rate(k),
            counts=True,
            first=k,
        )
        for k in (1, 5, 10, 20, 50)
    ),
)
METRICS = {metric.name: metric for metric in _ALL}


def metric_for(name: str, task: Task) -> Metric:
    """A metric by name.

    Raises:
        MetricError: it does not exist, or does not fit the task.
    """
    metric = METRICS.get(name.lower())
    fitting = ", ".join(sorted(m.name for m in _ALL if task in m.tasks))
    if metric is None:
        raise MetricError(f"there is no metric {name!r}; for {task} there are {fitting}")
    if task not in metric.tasks:
        raise MetricError(f"the metric {metric.name} does not fit {task}; there are {fitting}")
    return metric


def value_of(
    metric: Metric, outputs: NDArray[np.generic], target: NDArray[np.generic], *, query: NDArray[np.int64] | None
) -> float:
    """The metric alone.

    Raises:
        MetricError: these rows have no value: the numbers are too large, or all of one class.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scores = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
        value = metric.score(scores, np.asarray(target, np.float64), query)
    if not np.isfinite(value):
        raise MetricError(f"the metric {metric.name} overflows on these outputs and targets: scale them down")
    return value


def agreement(
    task: Task, outputs: NDArray[np.generic], float_outputs: NDArray[np.generic], scale: OutputScale
) -> Figure:
    """How alike two models answer: the share of equal decisions, or for numbers the share of variance explained."""
    ours = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    theirs = np.asarray(float_outputs, np.float64).reshape(len(float_outputs), -1)
    if task is Task.CLASSIFICATION:
        return Figure(value=float(np.mean(decisions(ours, scale) == decisions(theirs, scale))))
    return Figure(value=_explained(ours, theirs))
