from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch_pruning import DependencyGraph

from compressors.errors import NoEffectError, RecipeError
from compressors.files.litert import read_facts
from compressors.network.macs import layer_macs
from compressors.pruning.channel_scores import fisher
from compressors.rehydrate import clone
from compressors.step import Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.narrowing import prunable_of
from compressors.steps.prune_channels import STEP as MAGNITUDE
from compressors.steps.prune_channels_hessian import STEP as HESSIAN
from compressors.training.row_losses import loss_batches
from tests.compressors.pruning_networks import (
    Attention,
    Concatenated,
    Grouped,
    Recurrent,
    Residual,
    Shuffled,
    context_for,
    network_of,
)
from tests.compressors.steps.applying import apply, first_output

if TYPE_CHECKING:
    from torch import nn

    from compressors.step import AnyStep

STEPS = pytest.mark.parametrize("step", [MAGNITUDE, HESSIAN], ids=lambda step: step.name)


def quiet(step: AnyStep) -> dict[str, Any]:
    return {"rows": 64} if step is HESSIAN else {}


def kill_channels(module: nn.Module, layer: str, channels: slice) -> None:
    with torch.no_grad():
        for name in ("weight", "bias"):
            module.get_parameter(f"{layer}.{name}")[channels] = 0.0


@STEPS
@pytest.mark.parametrize("source", [Residual, Concatenated, Grouped], ids=lambda source: source.__name__)
@pytest.mark.parametrize("scope", ["network", "layer"])
def test_channels_that_go_together_go_and_the_input_is_left_alone(
    step: AnyStep, source: type[nn.Module], scope: str
) -> None:
    network = network_of(source())
    context = context_for(network)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    outcome = apply(step, Model(network), context, macs=0.6, multiple_of=4, scope=scope, **quiet(step))
    whole, left = (sum(layer_macs(one).values()) for one in (network, outcome.model.network))
    assert 0.1 * whole < left <= 0.6 * whole
    assert outcome.model.network.parameters < network.parameters
    assert np.isfinite(first_output(outcome.model, context.selection)).all()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())


@pytest.mark.parametrize("source", [Residual, Grouped], ids=lambda source: source.__name__)
def test_file_is_really_smaller_and_answers_as_the_network(source: type[nn.Module]) -> None:
    network = network_of(source())
    context = context_for(network)
    pruned = apply(MAGNITUDE, Model(network), context, macs=0.6, multiple_of=4).model
    exported = apply(EXPORT, pruned, context).model
    assert read_facts(content_of(exported)).macs == sum(layer_macs(pruned.network).values())
    np.testing.assert_allclose(
        first_output(exported, context.selection), first_output(pruned, context.selection), 1e-3, 1e-3
    )


@STEPS
def test_channels_of_zero_range_go_first_and_nothing_is_lost(step: AnyStep) -> None:
    network = network_of(Residual())
    kill_channels(network.module, "expand", slice(0, 16))
    with torch.no_grad():
        network.module.get_parameter("depthwise.weight")[:16] = 0.0
        network.module.get_parameter("depthwise.bias")[:16] = 0.0
        network.module.get_parameter("project.weight")[:, :16] = 0.0
    context = context_for(network)
    outcome = apply(step, Model(network), context, macs=0.75, multiple_of=8, **quiet(step))
    assert outcome.layers["expand"].startswith("32 -> 16 outputs")
    np.testing.assert_allclose(
        first_output(outcome.model, context.selection), first_output(Model(network), context.selection), 1e-2, 1e-2
    )


@STEPS
def test_share_that_can_not_be_met_names_the_nearest(step: AnyStep) -> None:
    network = network_of(Residual())
    with pytest.raises(
        NoEffectError, match=r"least width \d+\.\d% of the multiply-accumulates are left, and 1\.0% are asked for"
    ):
        apply(step, Model(network), context_for(network), macs=0.01, multiple_of=8, **quiet(step))


@STEPS
def test_share_that_is_named_is_the_one_asked_for_and_not_that_of_a_round(step: AnyStep) -> None:
    network = network_of(Residual())
    with pytest.raises(NoEffectError, match=r"100\.0% of the multiply-accumulates are left, and 50\.0% are asked for"):
        apply(step, Model(network), context_for(network), skip=("expand",), multiple_of=16)


@STEPS
def test_network_without_inner_channels_has_nothing_to_prune(step: AnyStep) -> None:
    network = network_of(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 3)))
    with pytest.raises(NoEffectError, match="no channels of this network can go"):
        apply(step, Model(network), context_for(network), **quiet(step))


@STEPS
def test_layers_to_skip_keep_their_channels(step: AnyStep) -> None:
    network = network_of(Concatenated())
    outcome = apply(
        step, Model(network), context_for(network), macs=0.7, multiple_of=1, skip=("left", "join"), **quiet(step)
    )
    assert "left" not in outcome.layers
    assert outcome.layers["join"].startswith("16 -> 16 outputs")


def test_written_down_shapes_fix_their_channels() -> None:
    network = network_of(Shuffled())
    with pytest.raises(NoEffectError, match="no channels of this network can go: every layer's width is fixed"):
        apply(MAGNITUDE, Model(network), context_for(network))


def test_network_that_torch_pruning_can_not_follow_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("integer division or modulo by zero")

    monkeypatch.setattr(DependencyGraph, "build_dependency", fail)
    network = network_of(Grouped())
    with pytest.raises(RecipeError, match=r"can't follow the channels of this network \(ZeroDivisionError: integer"):
        apply(MAGNITUDE, Model(network), context_for(network))


@pytest.mark.parametrize(
    ("source", "narrowed"),
    [(Attention, {"widen", "narrow"}), (Recurrent, {"after", "head"})],
    ids=["attention", "lstm"],
)
def test_attention_and_recurrent_layers_stay_and_the_others_are_pruned(
    source: type[nn.Module], narrowed: set[str]
) -> None:
    network = network_of(source())
    context = context_for(network)
    outcome = apply(MAGNITUDE, Model(network), context, macs=0.9, multiple_of=1)
    assert set(outcome.layers) == narrowed
    assert np.isfinite(first_output(outcome.model, context.selection)).all()


def test_random_channels_differ_by_seed_only() -> None:
    network = network_of(Grouped())
    first, again = (
        apply(MAGNITUDE, Model(network), context_for(network), by="random", multiple_of=4).model.network.module
        for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_hessian_changes_answers_less_than_magnitude_and_reports_eigenvalues() -> None:
    network = network_of(Residual())
    context = context_for(network)
    expected = first_output(Model(network), context.selection)
    outcomes = {
        step.name: apply(step, Model(network), context, macs=0.6, multiple_of=4, **more)
        for step, more in ((MAGNITUDE, {}), (HESSIAN, {"curvature": True}))
    }
    errors = {
        name: float(((first_output(outcome.model, context.selection) - expected) ** 2).mean())
        for name, outcome in outcomes.items()
    }
    assert errors["prune-channels-hessian"] < 0.8 * errors["prune-channels"]
    said = outcomes["prune-channels-hessian"].layers
    assert set(said) == {"stem", "expand", "depthwise", "project", "head"}
    assert all("Hessian: top eigenvalue" in one for one in said.values())


@STEPS
def test_layer_to_skip_that_does_not_exist_is_refused(step: AnyStep) -> None:
    network = network_of(Residual())
    with pytest.raises(RecipeError, match=r"skip names the layer 'steam', which .* it has stem, expand"):
        apply(step, Model(network), context_for(network), skip=("steam",))


@pytest.mark.parametrize("labelled", [0, 96])
def test_rows_without_labels_are_not_asked_for_the_loss(labelled: int) -> None:
    network = network_of(Residual())
    context = context_for(network)
    assert context.train is not None
    hidden = replace(context.train, target=np.where(np.arange(96) < labelled, context.train.target, -1))
    found, expected = (
        apply(HESSIAN, Model(network), replace(context, train=train), macs=0.6, multiple_of=4, rounds=1, make_up=False)
        for train in (hidden, context.train if labelled else None)
    )
    for ours, theirs in zip(
        found.model.network.module.parameters(), expected.model.network.module.parameters(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_fisher_of_later_rows_counts() -> None:
    """Torch-Pruning's own importance keeps the last sample only."""
    network = network_of(Residual())
    context = context_for(network)
    prunable = prunable_of(Model(network), context, ())
    scores = []
    for batch_size in (96, 7):
        batches = loss_batches(
            clone(prunable.network),
            context.calibration,
            context.task,
            context.metric,
            max_rows=96,
            batch_size=batch_size,
        )
        scores.append(fisher(prunable.network, prunable.couplings, batches))
    for coupling in prunable.couplings:
        torch.testing.assert_close(scores[0][coupling], scores[1][coupling], rtol=1e-3, atol=1e-7)
