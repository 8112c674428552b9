"""Train a network: AdamW, a cosine schedule with warm-up, and the weights kept that do best on the selection split.

Source of the schedule: Loshchilov and Hutter 2017, arXiv:1608.03983; of the optimizer: arXiv:1711.05101.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from compressors.errors import MetricError, TrainingError
from compressors.metrics import value_of
from compressors.rehydrate.verify import tensors_of
from compressors.running import operators_may_refuse
from compressors.training.objective import lesson_of, objective_of
from compressors.training.scale import Scale, scale_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from compressors.contract import Task
    from compressors.data.evaluation_rows import Split
    from compressors.metrics import Metric
    from compressors.training.objective import Objective
    from compressors.training.options import FitOptions

EVALUATION_BATCH = 256
_MATRIX = 2  # dimensions from which on a weight decays
_ADVICE = "use a smaller batch_size, or leave the step out if the network can't be trained"


@dataclass(frozen=True)
class Epoch:
    """One epoch as it went; `metric` is that of the selection split after it."""

    number: int
    loss: float
    metric: float


@dataclass(frozen=True)
class Fit:
    """How training went. The network holds the best weights, which may be those that it began with (`best` is 0)."""

    before: float  # metric on the selection split
    after: float
    best: int  # epoch
    epochs: tuple[Epoch, ...]
    ended: str  # "epochs", "patience" or "time"


@dataclass(frozen=True)
class Setting:
    """Where a run takes place, and what a step adds to it.

    With the same seed, the same number of threads and no `time_limit_s` the weights are the same.
    """

    device: str = "cpu"
    seed: int = 0
    after_step: Callable[[nn.Module], None] | None = None  # sets pruned weights back to zero, for example
    extra_loss: Callable[[tuple[torch.Tensor, ...]], torch.Tensor] | None = None  # of a batch's inputs: feature hints
    on_epoch: Callable[[Epoch], None] | None = None


def fit(
    module: nn.Module,
    train: Split,
    selection: Split,
    *,
    task: Task,
    metric: Metric,
    options: FitOptions,
    teacher: nn.Module | None = None,
    setting: Setting | None = None,
) -> Fit:
    """Train a network in place, and leave it in evaluation mode on the CPU with the best weights.

    Args:
        module: the network, a clone of what a step was given; takes the inputs by position.
        train: rows; a target of -1 (a class) or NaN (a number) is unlabelled and follows the teacher alone.
        selection: rows that decide which epoch was best and when to stop.
        task: decides the loss; numbers that are ranked by RMSE or MAE are learnt as numbers.
        metric: of the first output.
        options: how long and how hard.
        teacher: a network whose answers are imitated; not changed.
        setting: the device, the seed, and what else happens.

    Raises:
        TrainingError: the loss became NaN or infinite, or the metric can't be computed.
        DataError: too few rows, or none that teaches.
        ModelRunError: an operator can't be trained.
    """
    setting = setting or Setting()
    with torch.random.fork_rng(devices=[] if setting.device == "cpu" else None):
        torch.manual_seed(setting.seed)
        answers = None if teacher is None else predict(teacher, train, device=setting.device)
        lesson = lesson_of(
            train,
            task,
            metric,
            scale=scale_of(module),
            teacher=answers,
            teacher_scale=Scale.LOGITS if teacher is None else scale_of(teacher),
        )
        course = _Course(module, train, objective_of(lesson, train, options), options, setting)
        try:
            return course.run(lambda: _score(module, selection, metric, setting.device), metric)
        finally:
            module.to("cpu").eval()


def predict(module: nn.Module, split: Split, *, device: str = "cpu") -> torch.Tensor:
    """The first output for all rows, float32, shape (rows, values); the network is left in evaluation mode."""
    module.to(device).eval()
    pieces = []
    with torch.no_grad(), operators_may_refuse("the network fails on the data", _ADVICE):
        for start in range(0, split.rows, EVALUATION_BATCH):
            batch = _inputs(split, slice(start, start + EVALUATION_BATCH), device)
            pieces.append(tensors_of(module(*batch))[0].float().flatten(1).cpu())
    return torch.cat(pieces)


class _Course:
    """One training run."""

    def __init__(
        self, module: nn.Module, train: Split, objective: Objective, options: FitOptions, setting: Setting
    ) -> None:
        self._module, self._train, self._objective = module, train, objective
        self._options, self._setting = options, setting

    def run(self, score: Callable[[], float], metric: Metric) -> Fit:
        """All epochs, until there are no more, none gets better, or the time is up."""
        began, seed = time.monotonic(), self._setting.seed
        before = best_metric = score()
        best, best_weights = 0, _weights(self._module)
        generator = torch.Generator().manual_seed(seed)
        steps = sum(1 for _ in self._objective.batches(torch.Generator().manual_seed(seed))) * self._options.epochs
        optimizer = _optimizer(self._module, self._options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _cosine(steps, self._options.warmup_share))
        epochs: list[Epoch] = []
        ended = "epochs"
        for number in range(1, self._options.epochs + 1):
            loss = self._epoch(number, optimizer, schedule, generator)
            epochs.append(Epoch(number, loss, score()))
            if self._setting.on_epoch is not None:
                self._setting.on_epoch(epochs[-1])
            if metric.loss_against(best_metric, epochs[-1].metric) < 0.0:
                best, best_metric, best_weights = number, epochs[-1].metric, _weights(self._module)
            if number - best >= self._options.patience:
                ended = "patience"
                break
            if self._options.time_limit_s is not None and time.monotonic() - began > self._options.time_limit_s:
                ended = "time"
                break
        self._module.load_state_dict(best_weights)
        return Fit(before, best_metric, best, tuple(epochs), ended)

    def _epoch(
        self,
        number: int,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        generator: torch.Generator,
    ) -> float:
        self._module.train()
        losses: list[float] = []
        for rows in self._objective.batches(generator):
            with operators_may_refuse("the network can't be trained", _ADVICE):
                losses.append(self._step(rows, optimizer))
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    f"the loss became {losses[-1]} in step {len(losses)} of epoch {number}: lower learning_rate "
                    f"(now {self._options.learning_rate:g}), or look for extreme values in the training data"
                )
            schedule.step()
        return sum(losses) / len(losses)

    def _step(self, rows: torch.Tensor, optimizer: torch.optim.Optimizer) -> float:
        inputs = _inputs(self._train, rows.numpy(), self._setting.device)
        optimizer.zero_grad()
        loss = self._objective.loss(tensors_of(self._module(*inputs))[0].flatten(1), rows)
        if self._setting.extra_loss is not None:
            loss = loss + self._setting.extra_loss(inputs)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._module.parameters(), self._options.clip_norm)
            optimizer.step()
            if self._setting.after_step is not None:
                self._setting.after_step(self._module)
        return value


def _score(module: nn.Module, selection: Split, metric: Metric, device: str) -> float:
    outputs = predict(module, selection, device=device).numpy()
    try:
        return value_of(metric, outputs, selection.target, query=selection.query)
    except MetricError as exc:
        raise TrainingError(f"{metric.name} can't be computed while training ({exc}): lower learning_rate") from exc


def _inputs(split: Split, rows: slice | NDArray[np.int64], device: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.as_tensor(array[rows]).to(device) for array in split.inputs.values())


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}


def _optimizer(module: nn.Module, options: FitOptions) -> torch.optim.Optimizer:
    """AdamW over what may be trained.

    Raises:
        TrainingError: there is nothing.
    """
    trainable: Sequence[nn.Parameter] = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise TrainingError("the network has no weights that could be trained: leave the training step out")
    groups = [
        {"params": [one for one in trainable if one.dim() >= _MATRIX], "weight_decay": options.weight_decay},
        {"params": [one for one in trainable if one.dim() < _MATRIX], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def _cosine(steps: int, warmup_share: float) -> Callable[[int], float]:
    """The share of the learning rate at each step: a straight rise, then half a cosine down to zero."""
    rise = int(steps * warmup_share)

    def share(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        return 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return share
