"""What single batches cost a network, without training it: for steps that look at derivatives of the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from compressors.contract import Task
from compressors.rehydrate.verify import tensors_of
from compressors.training.objective import MIN_ROWS, Pointwise, lesson_of
from compressors.training.options import FitOptions
from compressors.training.scale import Scale, scale_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import nn

    from compressors.data.evaluation_rows import Split
    from compressors.metrics import Metric


KEPT_BYTES = 1 << 30  # of values between layers: a second derivative keeps about three times as much


class LossBatch(NamedTuple):
    """Some rows, and what a network's answer to them costs."""

    inputs: tuple[torch.Tensor, ...]  # by position, rows first
    rows: int
    loss: Callable[[Any], torch.Tensor]  # of the network's outputs, the sum over the rows


def loss_batches(
    network: nn.Module, split: Split, task: Task, metric: Metric, *, max_rows: int, batch_size: int
) -> Iterator[LossBatch]:
    """Labelled rows, spread evenly over a split, with the loss that training would see.

    Args:
        network: decides how many rows of its values fit into memory at a time.
        split: where the rows are taken from.
        task: decides the loss, with the metric.
        metric: what the network is judged by.
        max_rows: at most so many rows in all.
        batch_size: at most so many rows in a batch.

    Raises:
        DataError: fewer than eight have a label.
    """
    lesson = lesson_of(split, task, metric, scale=scale_of(network), teacher=None, teacher_scale=Scale.LOGITS)
    objective = Pointwise(lesson, FitOptions())
    labelled = lesson.labelled.nonzero()[:, 0].numpy()
    rows = labelled[np.unique(np.linspace(0, len(labelled) - 1, min(len(labelled), max_rows)).astype(int))]
    size = max(1, min(batch_size, KEPT_BYTES // max(_kept_bytes(network, _inputs(split, rows[:1])), 1)))
    for start in range(0, len(rows), size):
        yield _batch(objective, split, torch.from_numpy(rows[start : start + size]))


def has_labels(split: Split, task: Task) -> bool:
    """Whether enough rows have one for `loss_batches`."""
    target = split.target.reshape(split.rows, -1).astype(np.float64)
    labelled = target >= 0.0 if task is Task.CLASSIFICATION else ~np.isnan(target)
    return int(labelled.all(axis=1).sum()) >= MIN_ROWS


def _batch(objective: Pointwise, split: Split, rows: torch.Tensor) -> LossBatch:
    return LossBatch(
        _inputs(split, rows.numpy()),
        len(rows),
        lambda outputs: objective.loss(tensors_of(outputs)[0].flatten(1), rows) * len(rows),
    )


def _inputs(split: Split, rows: NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(array[rows]) for array in split.inputs.values())


def _kept_bytes(network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> int:
    """What a derivative keeps of these rows' way through a network, its weights aside."""
    weights = {weight.data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(*inputs)  # held, so that no two values have one address
    del outputs
    return sum(kept.values())
