"""Quantization-aware training: the network is trained on while its weights and activations are rounded.

It begins where post-training quantization ends, and is kept only where it gets further.
Source: Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from compressors.errors import RecipeError
from compressors.metrics import value_of
from compressors.network.folding import fold_batch_norms
from compressors.network.layers import graph_of, weight_of, weighted_layers
from compressors.rehydrate import clone
from compressors.simulation import Grid, Scheme, ranges_of, simulated
from compressors.simulation.learning import move_weights, prepared
from compressors.step import Form, Outcome, Parameters, Step
from compressors.steps.repaired import left_out
from compressors.training import FitOptions, Setting, fit

if TYPE_CHECKING:
    from torch import fx

    from compressors.inputs.program import FloatModel
    from compressors.step import Context, Model


class TrainQuantizedParameters(FitOptions, Parameters):
    """Those of training, and what is rounded.

    `ranges` of activations: `moving` follow the batches, `learned` are trained. `teacher`: the float model's answers
    are learnt beside the labels.
    """

    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-4
    weight_bits: Annotated[int, Field(ge=2, le=16)] = 8
    activation_bits: Annotated[int, Field(ge=2, le=16)] = 8
    per_channel: bool = True
    ranges: Literal["moving", "learned"] = "moving"
    teacher: bool = True


def train(model: Model, context: Context, parameters: TrainQuantizedParameters) -> Outcome:
    """Train with fake quantization and keep what is better than the network as it came; see `Step`.

    Raises:
        RecipeError: there are no rows of `--train`.
        TrainingError: training runs away, or there is nothing to train.
    """
    if context.train is None:
        raise RecipeError("train-quantized trains, and there is no training data: push it with --train")
    before = fold_batch_norms(graph_of(model.network.module))
    folded = replace(model.network, module=before)
    scheme = Scheme(
        Grid(parameters.weight_bits, symmetric=True),
        Grid(parameters.activation_bits, symmetric=False),
        parameters.per_channel,
    )
    rounding = prepared(before, scheme, ranges_of(folded, context.calibration), learned=parameters.ranges == "learned")
    done = fit(
        rounding,
        context.train,
        context.selection,
        task=context.task,
        metric=context.metric,
        options=parameters,
        teacher=clone(context.teacher.module) if parameters.teacher and context.teacher is not None else None,
        setting=Setting(device=context.device, seed=context.seed),
    )
    after = clone(before)
    move_weights(rounding, after)
    network = replace(model.network, module=after)
    without, with_it = (_quantized_score(replace(folded, module=one), context, scheme) for one in (before, after))
    said = f"{context.metric.name} of the quantized network on the selection split {without:.4g} -> {with_it:.4g}"
    if context.metric.loss_against(without, with_it) >= 0.0:
        return left_out(model, f"{said}, which is no gain")
    summary = f"{said} in {done.best} epochs ({len(done.epochs)} run, ended by {done.ended})"
    return Outcome(replace(model, network=network), summary, _moved(before, after))


def _quantized_score(network: FloatModel, context: Context, scheme: Scheme) -> float:
    """With ranges from calibration rows, as the quantizer will take them."""
    module = graph_of(network.module)
    rounding = simulated(module, scheme, ranges_of(network, context.calibration))
    rows = context.selection
    answers = replace(network, module=rounding).run(rows.inputs)[network.signature.outputs[0].name]
    return value_of(context.metric, answers, rows.target, query=rows.query)


def _moved(before: fx.GraphModule, after: fx.GraphModule) -> dict[str, str]:
    found = {}
    for name, layer in weighted_layers(after):
        old = weight_of(before.get_submodule(name))
        norm = float(old.norm())
        moved = float((weight_of(layer) - old).norm())
        found[name] = f"moved by {moved / norm:.3g} of its norm" if norm > 0.0 else "was all zero"
    return found


STEP = Step(
    "train-quantized",
    TrainQuantizedParameters,
    train,
    takes=Form.NETWORK,
    gives=Form.NETWORK,
    trains=True,
)
