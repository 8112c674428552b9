"""Knowledge distillation: a compact network takes the model's place, and learns to answer as it does.

Rows without labels teach too: their answers come from the model. Source: Hinton et al. 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from torch import nn

from compressors.errors import NoEffectError, RecipeError
from compressors.network.macs import layer_macs
from compressors.rehydrate import clone
from compressors.step import Form, Outcome, Parameters, Step
from compressors.students import Architecture, build
from compressors.training import FitOptions, Setting, fit
from compressors.training.hints import Hints
from compressors.training.scale import Scale, scale_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from compressors.step import Context, Model

_ENDINGS: dict[Scale, Callable[[], nn.Module]] = {
    Scale.LOGITS: nn.Identity,
    Scale.PROBABILITIES: lambda: nn.Softmax(dim=1),
    Scale.LOG_PROBABILITIES: lambda: nn.LogSoftmax(dim=1),
    Scale.CHANCES: nn.Sigmoid,
}


class StudentParameters(FitOptions, Parameters):
    """Those of training, which begins at nothing here, and what the student is.

    `width` and `resolution` multiply its channels and the sides of its pictures. `teacher`: without, it learns from the
    labels alone. `hints`: the weight of learning the teacher's last features too.
    """

    architecture: Architecture = Architecture.MOBILENET_V2
    width: Annotated[float, Field(gt=0, le=2)] = 0.5
    resolution: Annotated[float, Field(ge=0.25, le=1)] = 1.0
    teacher: bool = True
    hints: Annotated[float, Field(ge=0, le=100)] = 0.0
    epochs: Annotated[int, Field(ge=1, le=1000)] = 30
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-3
    patience: Annotated[int, Field(ge=1)] = 10


def distil(model: Model, context: Context, parameters: StudentParameters) -> Outcome:
    """Train a student in the model's place; see `Step`.

    Raises:
        NoEffectError: the student is no smaller than the model, or it has learnt nothing.
        RecipeError: the model is of a kind that has no such student.
    """
    if context.train is None:
        raise RecipeError("student trains, and there is no training data: push it with --train")
    teacher = (context.teacher or model.network).module
    student = build(
        parameters.architecture,
        model.network.signature,
        width=parameters.width,
        resolution=parameters.resolution,
        seed=context.seed,
        ending=_ENDINGS[scale_of(teacher)](),
    )
    size = sum(weight.numel() for weight in student.parameters())
    network = replace(model.network, module=student.eval(), parameters=size)
    before, after = (sum(layer_macs(one).values()) for one in (model.network, network))
    if after >= before:
        raise NoEffectError(
            f"this student has {after} multiplications and the model {before}: choose a smaller width or resolution"
        )
    with ExitStack() as stack:
        hints = None
        if parameters.teacher and parameters.hints:
            hints = stack.enter_context(Hints(student, clone(teacher), parameters.hints, model.network.examples()))
        done = fit(
            student,
            context.train,
            context.selection,
            task=context.task,
            metric=context.metric,
            options=parameters,
            teacher=clone(teacher) if parameters.teacher else None,
            setting=Setting(device=context.device, seed=context.seed, extra_loss=None if hints is None else hints.loss),
        )
    if done.best == 0:
        raise NoEffectError(
            f"the student has learnt nothing in {len(done.epochs)} epochs: lower learning_rate, or give it more rows"
        )
    summary = (
        f"{parameters.architecture} at width {parameters.width:g} and resolution {parameters.resolution:g}: "
        f"{model.network.parameters} -> {size} parameters, {after / before:.0%} of the multiplications, "
        f"{context.metric.name} {done.after:.4g} on the selection split after {done.best} epochs"
    )
    return Outcome(replace(model, network=network), summary, {parameters.architecture: f"{after} MACs"})


STEP = Step("student", StudentParameters, distil, takes=Form.NETWORK, gives=Form.NETWORK, trains=True)
