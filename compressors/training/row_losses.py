"""What single batches cost a network, without training it: for steps that look at derivatives of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from compressors.rehydrate.verify import tensors_of
from compressors.training.objective import Pointwise, lesson_of
from compressors.training.options import FitOptions
from compressors.training.scale import Scale, scale_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    from compressors.contract import Task
    from compressors.data import Split
    from compressors.metrics import Metric


class LossBatch(NamedTuple):
    """Some rows, and what a network's answer to them costs."""

    inputs: tuple[torch.Tensor, ...]  # by position, rows first
    rows: int
    loss: Callable[[Any], torch.Tensor]  # of the network's outputs, the sum over the rows


def loss_batches(
    network: nn.Module, split: Split, task: Task, metric: Metric, *, max_rows: int, batch_size: int
) -> Iterator[LossBatch]:
    """Labelled rows, spread evenly over a split, with the loss that training would see.

    Raises:
        DataError: fewer than eight have a label.
    """
    lesson = lesson_of(split, task, metric, scale=scale_of(network), teacher=None, teacher_scale=Scale.LOGITS)
    objective = Pointwise(lesson, FitOptions())
    labelled = lesson.labelled.nonzero()[:, 0].numpy()
    rows = labelled[np.unique(np.linspace(0, len(labelled) - 1, min(len(labelled), max_rows)).astype(int))]
    for start in range(0, len(rows), batch_size):
        yield _batch(objective, split, torch.from_numpy(rows[start : start + batch_size]))


def _batch(objective: Pointwise, split: Split, rows: torch.Tensor) -> LossBatch:
    inputs = tuple(torch.from_numpy(array[rows.numpy()]) for array in split.inputs.values())
    return LossBatch(
        inputs, len(rows), lambda outputs: objective.loss(tensors_of(outputs)[0].flatten(1), rows) * len(rows)
    )
