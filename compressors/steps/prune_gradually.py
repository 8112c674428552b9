"""Gradual pruning: some weights or channels go, the network is trained on, some more go, until enough have gone.

Most go early, while there is plenty to spare. What is zero stays zero while the network is trained.
Source: Zhu & Gupta 2017, arXiv:1710.01878.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from compressors.errors import RecipeError
from compressors.network.macs import layer_macs
from compressors.pruning import weights
from compressors.pruning.schedule import cubic, shared_out
from compressors.rehydrate import clone
from compressors.step import Form, Outcome, Parameters, Step
from compressors.steps import narrowing, prune_weights
from compressors.steps.fine_tune import zeros_kept
from compressors.steps.prune_channels import STEP as CHANNELS
from compressors.steps.prune_weights import STEP as WEIGHTS
from compressors.training import FitOptions, Setting, fit

if TYPE_CHECKING:
    from compressors.data.evaluation_rows import Split
    from compressors.step import Context, Model


class PruneGraduallyParameters(FitOptions, Parameters):
    """Those of training, and five more; `epochs` are shared out over the rounds.

    `what`: weights, or channels. `gone`: the share of weights, or of the multiply-accumulates, that goes. `rounds`: how
    often it is pruned. `teacher`: the float model's answers are learnt beside the labels. `skip`: layers that stay.
    """

    what: Literal["weights", "channels"] = "weights"
    gone: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    rounds: Annotated[int, Field(ge=1, le=100)] = 5
    teacher: bool = True
    skip: tuple[str, ...] = ()


def prune(model: Model, context: Context, parameters: PruneGraduallyParameters) -> Outcome:
    """Prune and train in turns; see `Step`.

    Raises:
        NoEffectError: nothing can go, or the network can't come down so far.
        RecipeError: there are no rows of `--train`, or fewer epochs than rounds.
        TrainingError: training runs away.
    """
    if context.train is None:
        raise RecipeError("prune-gradually trains, and there is no training data: push it with --train")
    if parameters.epochs < parameters.rounds:
        raise RecipeError(
            f"{parameters.epochs} epochs can't be shared out over {parameters.rounds} rounds: ask for as many epochs "
            "as rounds at least"
        )
    if parameters.what == "channels":
        narrowing.check_reachable(
            model, context, narrowing.ChannelParameters(macs=1.0 - parameters.gone, skip=parameters.skip)
        )
    whole = sum(layer_macs(model.network).values())
    course = zip(
        cubic(parameters.gone, parameters.rounds), shared_out(parameters.epochs, parameters.rounds), strict=True
    )
    pruned, said = model, []
    for gone, epochs in course:
        pruned = _pruned(pruned, context, parameters, gone, whole)
        pruned, now = _trained(pruned, context, context.train, parameters, epochs)
        said.append(f"{now:.4g}")
    outcome = _outcome(model, pruned, parameters)
    return replace(outcome, summary=f"{outcome.summary}; {context.metric.name} after each round: {', '.join(said)}")


def _pruned(model: Model, context: Context, parameters: PruneGraduallyParameters, gone: float, whole: int) -> Model:
    """One round; one that has nothing to do, because widths are rounded, leaves the network as it is."""
    if parameters.what == "channels":
        share = (1.0 - gone) * whole / max(sum(layer_macs(model.network).values()), 1)
        if share >= 1.0:
            return model
        return CHANNELS.apply(model, context, CHANNELS.parameters(macs=share, skip=parameters.skip)).model
    layers = weights.prunable(model.network.module, parameters.skip)
    if sum(weights.zeros_of(layers).values()) >= round(gone * sum(weights.sizes_of(layers).values())):
        return model
    return WEIGHTS.apply(model, context, WEIGHTS.parameters(sparsity=gone, skip=parameters.skip)).model


def _trained(
    model: Model, context: Context, train: Split, parameters: PruneGraduallyParameters, epochs: int
) -> tuple[Model, float]:
    """The network after some epochs, and its metric on the selection split."""
    module = clone(model.network.module)
    done = fit(
        module,
        train,
        context.selection,
        task=context.task,
        metric=context.metric,
        options=parameters.model_copy(update={"epochs": epochs}),
        teacher=clone(context.teacher.module) if parameters.teacher and context.teacher is not None else None,
        setting=Setting(device=context.device, seed=context.seed, after_step=zeros_kept(model.network.module)),
    )
    return replace(model, network=replace(model.network, module=module)), done.after


def _outcome(before: Model, after: Model, parameters: PruneGraduallyParameters) -> Outcome:
    if parameters.what == "channels":
        return narrowing.outcome_of(before, after.network.module)
    layers = weights.prunable(after.network.module, parameters.skip)
    zeros = weights.zeros_of(weights.prunable(before.network.module, parameters.skip))
    return prune_weights.outcome_of(before, after.network.module, layers, zeros)


STEP = Step("prune-gradually", PruneGraduallyParameters, prune, takes=Form.NETWORK, gives=Form.NETWORK, trains=True)
