"""Examine a variant beside the float model it came from: everything a report says of how it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressors.bootstrap import evaluate, paired_loss
from compressors.contract import Task
from compressors.errors import MetricError
from compressors.metrics import METRICS, agreement, value_of
from compressors.reporting.attributions import attribution_correlation
from compressors.reporting.confidence import calibration_error
from compressors.reporting.evidence import Compared, ComparedFigure, ShiftFigure
from compressors.reporting.flips import flips
from compressors.reporting.shifts import rows_of_some_groups, shifted
from compressors.reporting.slices import slice_figures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split
    from compressors.measuring.scoring import Answer
    from compressors.metrics import Metric
    from compressors.reporting.evidence import Flips, SliceFigure

    Array = NDArray[np.generic]
    Floats = NDArray[np.float64]
    Queries = NDArray[np.int64] | None

MAX_SHIFTED_ROWS = 512
SECOND = "the second set"  # what the user gave
BINARY = 2  # values of an output that tells two classes apart; or one


@dataclass(frozen=True)
class Answers:
    """How a variant answers, beside the float model."""

    decision: ComparedFigure
    ranking: ComparedFigure | None
    calibration_error: Compared | None
    agreement: float
    flips: Flips
    slices: tuple[SliceFigure, ...]
    shifts: tuple[ShiftFigure, ...]
    attribution_correlation: float | None


class Examination:
    """The float model and a variant, on the same rows."""

    def __init__(
        self,
        before: Answer,
        after: Answer,
        split: Split,
        *,
        task: Task,
        metric: Metric,
        labels: tuple[str, ...],
        seed: int,
        second: Split | None = None,
    ) -> None:
        """Nothing is run yet.

        Args:
            before: the float model.
            after: the variant.
            split: the test rows.
            task: what the model is for.
            metric: that decides, as it reads this model's outputs.
            labels: names of the classes, if they have any.
            seed: of the noise that is added.
            second: the user's own rows from elsewhere.
        """
        self._models, self._split, self._task, self._metric = (before, after), split, task, metric
        self._labels, self._seed, self._second = labels, seed, second

    def run(self) -> Answers:
        """All of it; takes as long as a few thousand inferences."""
        split = self._split
        before, after = self._both(split.inputs)
        return Answers(
            decision=self._compared(self._metric, before, after),
            ranking=self._ranking(before, after),
            calibration_error=self._calibration(before, after),
            agreement=self._agreement(before, after),
            flips=flips(self._task, self._metric, split, before, after),
            slices=tuple(slice_figures(self._task, split, self._labels, before, after, scale=self._metric.scale)),
            shifts=tuple(self._shifts()),
            attribution_correlation=attribution_correlation(self._first(0), self._first(1), split.inputs),
        )

    def _first(self, number: int) -> FirstOutput:
        return FirstOutput(self._models[number])

    def _both(self, inputs: Mapping[str, Array]) -> tuple[Floats, Floats]:
        return self._first(0)(inputs), self._first(1)(inputs)

    def _agreement(self, before: Array, after: Array) -> float:
        return agreement(self._task, after, before, self._metric.scale).value

    def _compared(self, metric: Metric, before: Array, after: Array) -> ComparedFigure:
        split = self._split
        old, new = (
            evaluate(metric, outputs, split.target, group=split.group, query=split.query) for outputs in (before, after)
        )
        loss = paired_loss(metric, old, new)
        return ComparedFigure(name=metric.name, before=old.figure, after=new.figure, loss=loss)

    def _ranking(self, before: Floats, after: Floats) -> ComparedFigure | None:
        """A metric of order: a decision does not say how far it was from falling the other way."""
        if self._task is Task.REGRESSION:
            name = "spearman"
        elif self._task is Task.CLASSIFICATION and before.shape[1] > BINARY:
            name = "mrr"
        else:
            name = "auc"
        if name == self._metric.name:
            return None
        try:
            return self._compared(METRICS[name], before, after)
        except MetricError:  # a test split of one class has no order of the two
            return None

    def _calibration(self, before: Array, after: Array) -> Compared | None:
        if self._task is not Task.CLASSIFICATION:
            return None
        old, new = (calibration_error(outputs, self._split.target, self._metric.scale) for outputs in (before, after))
        return Compared(name="expected calibration error", before=old, after=new, loss=new - old)

    def _shifts(self) -> list[ShiftFigure]:
        split = self._split
        most = split.rows if split.query is not None else MAX_SHIFTED_ROWS  # few queries say nothing
        rows = rows_of_some_groups(split.group, most=most, seed=self._seed)
        query = None if split.query is None else split.query[rows]
        found = [
            self._shift(name, inputs, split.target[rows], query)
            for name, inputs in shifted({n: array[rows] for n, array in split.inputs.items()}, seed=self._seed)
        ]
        if (second := self._second) is not None:
            name = f"{SECOND}, {second.rows:,} rows"
            found.append(self._shift(name, second.inputs, second.target, second.query))
        return found

    def _shift(self, name: str, inputs: Mapping[str, Array], target: Array, query: Queries) -> ShiftFigure:
        before, after = self._both(inputs)
        old, new = (value_of(self._metric, outputs, target, query=query) for outputs in (before, after))
        return ShiftFigure(
            name=name,
            before=old,
            after=new,
            loss=self._metric.loss_against(old, new),
            agreement=self._agreement(before, after),
        )


class FirstOutput:
    """A model as a function to its first output, (rows, values)."""

    def __init__(self, answer: Answer) -> None:
        """Args: `answer`: the model."""
        self._answer = answer

    def __call__(self, inputs: Mapping[str, Array]) -> Floats:
        """The first output for some rows."""
        outputs = self._answer(inputs)
        first = next(iter(outputs.values()))
        return np.asarray(first, np.float64).reshape(len(first), -1)
