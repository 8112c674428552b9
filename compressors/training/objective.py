"""What a network is trained for: which rows make a batch, and what their outputs cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from compressors.contract import Task
from compressors.errors import DataError
from compressors.training import losses
from compressors.training.scale import Scale, logits_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Split
    from compressors.metrics import Metric
    from compressors.training.options import FitOptions

MIN_ROWS = 8


class Objective(Protocol):
    """Rows of the training split in batches, and the loss of each batch."""

    def batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """The rows of each batch of one epoch."""

    def loss(self, outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The mean loss of a batch; `outputs`: the network's first output for these rows."""


@dataclass(frozen=True)
class Lesson:
    """The training split as a loss sees it."""

    task: Task
    target: torch.Tensor  # (rows,) int64 for classes, else (rows, values) float
    labelled: torch.Tensor  # (rows,) bool
    teacher: torch.Tensor | None  # (rows, values), its outputs
    scale: Scale
    teacher_scale: Scale
    is_number: bool  # the target is a number that the output must equal


def lesson_of(
    train: Split, task: Task, metric: Metric, *, scale: Scale, teacher: torch.Tensor | None, teacher_scale: Scale
) -> Lesson:
    """What the rows teach; rows without a label need a teacher.

    Raises:
        DataError: there is neither, or too few rows.
    """
    is_number = task is Task.REGRESSION or (task is Task.RANKING and not metric.bounded)
    target = torch.from_numpy(np.ascontiguousarray(train.target))
    if task is Task.CLASSIFICATION:
        target, labelled = target.long(), target >= 0
    else:
        target = target.float().reshape(len(target), -1)
        labelled = ~target.isnan().any(dim=1)
    lesson = Lesson(task, target, labelled, teacher, scale, teacher_scale, is_number)
    usable = int(labelled.sum()) if teacher is None else len(labelled)
    if usable < MIN_ROWS:
        what = "rows" if teacher is not None or usable == len(labelled) else "labelled rows, and there is no teacher"
        raise DataError(f"the training data have {usable} {what}; at least {MIN_ROWS} are needed")
    return lesson


def objective_of(lesson: Lesson, train: Split, options: FitOptions) -> Objective:
    """Single rows, or pairs of rows where a ranking asks for those."""
    if lesson.task is Task.RANKING and options.ranking_loss == "bpr" and not lesson.is_number:
        return Pairwise(lesson, train.query, options)
    return Pointwise(lesson, options)


class Pointwise:
    """Each row for itself: a labelled one has its label and its teacher, another one its teacher alone."""

    def __init__(self, lesson: Lesson, options: FitOptions) -> None:
        """Args: `lesson`: what the rows teach; `options`: batch size and the teacher's share."""
        self._lesson, self._options = lesson, options
        self._rows = (
            torch.arange(len(lesson.labelled)) if lesson.teacher is not None else lesson.labelled.nonzero()[:, 0]
        )
        self._variance = _variance(lesson.target[lesson.labelled]) if lesson.is_number else torch.ones(1)
        self._teacher_variance = torch.ones(1) if lesson.teacher is None else _variance(lesson.teacher)

    def batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """All rows, shuffled; what does not fill the last batch waits for another epoch."""
        yield from _batches(self._rows, self._options.batch_size, generator)

    def loss(self, outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Mean over the rows."""
        lesson, share = self._lesson, self._options.teacher_share
        hard = self._hard(outputs, lesson.target[rows].to(outputs.device))
        if lesson.teacher is None:
            return hard.mean()
        soft = self._soft(outputs, lesson.teacher[rows].to(outputs.device))
        labelled = lesson.labelled[rows].to(outputs.device)
        return torch.where(labelled, (1.0 - share) * hard + share * soft, soft).mean()

    def _hard(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        lesson = self._lesson
        if lesson.task is Task.CLASSIFICATION:
            return losses.classification(logits_of(outputs, lesson.scale), target)
        target = target.nan_to_num()  # of unlabelled rows: masked, but NaN times zero is NaN in the gradient
        if lesson.is_number:
            return losses.regression(outputs, target, self._variance.to(outputs.device))
        return losses.relevance(logits_of(outputs, lesson.scale)[:, -1], target[:, 0])

    def _soft(self, outputs: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        lesson = self._lesson
        if lesson.task is Task.CLASSIFICATION:
            ours, theirs = logits_of(outputs, lesson.scale), logits_of(teacher, lesson.teacher_scale)
            return losses.imitation(ours, theirs, self._options.temperature)
        return losses.regression(outputs, teacher, self._teacher_variance.to(outputs.device))


class Pairwise:
    """Pairs of labelled rows of one query, the first more relevant than the second; BPR."""

    def __init__(self, lesson: Lesson, query: NDArray[np.int64] | None, options: FitOptions) -> None:
        """No `query`: all rows are ranked together.

        Raises:
            DataError: no query has two rows of different relevance.
        """
        self._lesson, self._options = lesson, options
        labelled = lesson.labelled.numpy()
        rows = np.flatnonzero(labelled)
        relevance = lesson.target[:, 0].numpy()[rows]
        asked = np.zeros(len(rows), np.int64) if query is None else query[rows]
        order = np.lexsort((relevance, asked))
        rows, relevance, asked = rows[order], relevance[order], asked[order]
        places = np.arange(len(rows))
        begins = np.maximum.accumulate(np.where(np.r_[True, asked[1:] != asked[:-1]], places, 0))
        changes = np.r_[True, (asked[1:] != asked[:-1]) | (relevance[1:] != relevance[:-1])]
        less = np.maximum.accumulate(np.where(changes, places, 0))  # rows before this place are less relevant
        better = np.flatnonzero(less > begins)
        if not len(better):
            raise DataError("no query of the training data has rows of different relevance: there is no order to learn")
        self._rows, self._better = torch.from_numpy(rows), torch.from_numpy(better)
        self._begins, self._worse = torch.from_numpy(begins), torch.from_numpy(less - begins)

    def batches(self, generator: torch.Generator) -> Iterator[torch.Tensor]:
        """Each relevant row once, with a less relevant one of its query drawn at random: first half and second half."""
        for better in _batches(self._better, self._options.batch_size, generator):
            drawn = torch.rand(len(better), generator=generator) * self._worse[better]
            yield torch.cat([self._rows[better], self._rows[self._begins[better] + drawn.long()]])

    def loss(self, outputs: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Mean over the pairs, and over the rows against the teacher's scores."""
        lesson, share = self._lesson, self._options.teacher_share
        better, worse = logits_of(outputs, lesson.scale)[:, -1].chunk(2)
        hard = losses.order(better, worse).mean()
        if lesson.teacher is None:
            return hard
        variance = _variance(lesson.teacher).to(outputs.device)
        soft = losses.regression(outputs, lesson.teacher[rows].to(outputs.device), variance).mean()
        return (1.0 - share) * hard + share * soft


def _batches(rows: torch.Tensor, size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    shuffled = rows[torch.randperm(len(rows), generator=generator)]
    full = len(rows) // size * size
    yield from torch.split(shuffled[:full] if full else shuffled, size)


def _variance(values: torch.Tensor) -> torch.Tensor:
    """Of each column; one that never changes counts as it is, and so do all where no row is labelled."""
    if not len(values):
        return torch.ones(values.shape[1:])
    variance = values.var(dim=0, unbiased=False)
    return torch.where(variance > 0, variance, torch.ones_like(variance))
