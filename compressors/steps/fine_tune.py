"""Fine-tuning: the network is trained on, by the rows of `--train`, with the float model as its teacher if asked.

It mends what pruning, factors or shared values took away. Source of the teacher: Hinton et al. 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from compressors.errors import NoEffectError, RecipeError
from compressors.rehydrate import clone
from compressors.step import Form, Outcome, Parameters, Step
from compressors.training import FitOptions, Setting, fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from compressors.step import Context, Model
    from compressors.training import Fit

_MATRIX = 2  # dimensions from which on pruning makes zeros; norms and biases may be zero by chance


class FineTuneParameters(FitOptions, Parameters):
    """Those of training, and two more.

    `teacher`: the float model's answers are learnt beside the labels, and where there are none. `keep_zeros`: weights
    that are zero stay so, because pruning made them.
    """

    teacher: bool = True
    keep_zeros: bool = True


def fine_tune(model: Model, context: Context, parameters: FineTuneParameters) -> Outcome:
    """Train the network and keep its best epoch; see `Step`.

    Raises:
        NoEffectError: no epoch was better on the selection split than the network as it came.
        TrainingError: training runs away, or there is nothing to train.
        DataError: too few rows, or none with an answer.
    """
    if context.train is None:
        raise RecipeError("fine-tune trains, and there is no training data: push it with --train")
    before = model.network.module
    module = clone(before)
    done = fit(
        module,
        context.train,
        context.selection,
        task=context.task,
        metric=context.metric,
        options=parameters,
        teacher=clone(context.teacher.module) if parameters.teacher and context.teacher is not None else None,
        setting=Setting(
            device=context.device, seed=context.seed, after_step=zeros_kept(before) if parameters.keep_zeros else None
        ),
    )
    if done.best == 0:
        raise NoEffectError(
            f"{len(done.epochs)} epochs of fine-tuning made the network no better on the selection split "
            f"({context.metric.name} {done.before:.4g} before, {_best_of(done, context):.4g} at best): "
            "leave the step out, or lower learning_rate"
        )
    summary = (
        f"{context.metric.name} {done.before:.4g} -> {done.after:.4g} on the selection split in {done.best} epochs "
        f"({len(done.epochs)} run, ended by {done.ended})"
    )
    return Outcome(replace(model, network=replace(model.network, module=module)), summary, _changes(before, module))


def zeros_kept(pruned: nn.Module) -> Callable[[nn.Module], None]:
    """What sets the weights of a network back to zero that are zero in `pruned`, after each step of training."""
    zeros = {
        name: (parameter == 0.0)
        for name, parameter in pruned.named_parameters()
        if parameter.dim() >= _MATRIX and bool((parameter == 0.0).any())
    }

    def clear(module: nn.Module) -> None:
        with torch.no_grad():
            for name, zero in zeros.items():
                parameter = module.get_parameter(name)
                parameter.masked_fill_(zero.to(parameter.device), 0.0)

    return clear


def _best_of(done: Fit, context: Context) -> float:
    values = [epoch.metric for epoch in done.epochs]
    return max(values) if context.metric.higher_is_better else min(values)


def _changes(before: nn.Module, after: nn.Module) -> dict[str, str]:
    """How far the weights of each layer moved, as a share of their norm."""
    found = {}
    for name, parameter in after.named_parameters():
        old = before.get_parameter(name).detach()
        norm, moved = float(torch.linalg.vector_norm(old)), float(torch.linalg.vector_norm(parameter.detach() - old))
        if name.endswith("weight"):
            layer = name.rpartition(".")[0]
            found[layer] = f"moved by {moved / norm:.3g} of its norm" if norm > 0.0 else "was all zero"
    return found


STEP = Step("fine-tune", FineTuneParameters, fine_tune, takes=Form.NETWORK, gives=Form.NETWORK, trains=True)
