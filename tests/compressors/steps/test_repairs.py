"""Repairs in a recipe: kept where they measure better, left out with both figures where they don't."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import fx, nn

from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.inputs.program import FloatModel
from compressors.metrics import METRICS
from compressors.rehydrate import clone
from compressors.repairs.batch_norm import reestimate
from compressors.step import Context, Model
from compressors.steps import STEPS
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from tests.compressors.steps.applying import apply

ROWS = 64
REPAIRS = ("fold-batch-norm", "equalize-layers", "correct-biases", "reestimate-batch-norm")


def uneven_network() -> FloatModel:
    """A depthwise chain with batch-norms, whose channels have ranges far apart: the case of the literature."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()
    chain.get_parameter("1.weight").detach().copy_(torch.logspace(-2, 1, 16))
    chain.get_buffer("1.running_var").fill_(0.3)
    chain.get_buffer("4.running_var").fill_(0.5)
    signature = ModelSignature(
        inputs=(TensorSpec(name="picture", datatype=Datatype.FP32, shape=(-1, 3, 12, 12)),),
        outputs=(TensorSpec(name="output_0", datatype=Datatype.FP32, shape=(-1, 8)),),
    )
    return FloatModel(fx.symbolic_trace(chain), signature, sum(one.numel() for one in chain.parameters()))


def context_for(network: FloatModel) -> Context:
    def split(seed: int) -> Split:
        pictures = np.random.default_rng(seed).normal(size=(ROWS, 3, 12, 12)).astype(np.float32)
        target = network.run({"picture": pictures})["output_0"].argmax(axis=1)
        return Split({"picture": pictures}, target, np.arange(ROWS), None, np.arange(ROWS))

    return Context(split(0), split(1), Task.CLASSIFICATION, METRICS["top1"], teacher=network)


def figures(summary: str) -> list[float]:
    return [float(one) for one in re.findall(r"-?\d+\.\d+", summary)]


def test_equalization_and_bias_correction_are_kept_where_they_measure_better() -> None:
    network = uneven_network()
    context = context_for(network)
    model, last = Model(network), 0.0
    for name in ("equalize-layers", "correct-biases"):
        outcome = apply(STEPS[name], model, context, per_channel=False)
        before, after = figures(outcome.summary)
        assert after > before >= last
        assert outcome.layers
        model, last = outcome.model, after
    rows = context.selection.inputs
    assert np.allclose(network.run(rows)["output_0"], model.network.run(rows)["output_0"], atol=0.3)


@pytest.mark.parametrize("name", REPAIRS)
def test_repair_never_changes_the_network_that_it_was_given(name: str) -> None:
    network = uneven_network()
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    apply(STEPS[name], Model(network), context_for(network))
    after = network.module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_repair_that_is_no_better_is_left_out_with_both_figures() -> None:
    network = uneven_network()
    context = context_for(network)
    far = replace(
        context.calibration, inputs={"picture": context.calibration.inputs["picture"].astype(np.float32) * 3.0 + 2.0}
    )
    outcome = apply(STEPS["reestimate-batch-norm"], Model(network), replace(context, calibration=far))
    assert outcome.model.network is network
    assert outcome.layers == {}
    without, with_it = figures(outcome.summary)
    assert outcome.summary.startswith("left out: simulated output SNR")
    assert with_it <= without


def test_reestimation_takes_wrong_statistics_back() -> None:
    right = uneven_network()
    reestimate(right, context_for(right).calibration)
    wrong = clone(right.module)
    wrong.get_buffer("4.running_mean").add_(2.0)
    outcome = apply(STEPS["reestimate-batch-norm"], Model(replace(right, module=wrong)), context_for(right))
    before, after = figures(outcome.summary)
    assert after > before + 3.0
    assert set(outcome.layers) == {"1", "4"}


@pytest.mark.parametrize("name", REPAIRS)
def test_network_with_nothing_to_repair_passes_unchanged(name: str) -> None:
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    network = uneven_network()
    signature = network.signature.model_copy(
        update={"outputs": (TensorSpec(name="output_0", datatype=Datatype.FP32, shape=(-1, 3)),)}
    )
    bare = FloatModel(fx.symbolic_trace(plain), signature, 0)
    outcome = apply(STEPS[name], Model(bare), context_for(bare))
    assert outcome.model.network is bare
    assert outcome.summary.startswith("left out: ")


def test_folded_network_answers_the_same_without_batch_norms() -> None:
    network = uneven_network()
    context = context_for(network)
    outcome = apply(STEPS["fold-batch-norm"], Model(network), context)
    assert outcome.summary == "2 of 2 batch-norms folded"
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in outcome.model.network.module.modules())
    rows = context.selection.inputs
    assert np.allclose(network.run(rows)["output_0"], outcome.model.network.run(rows)["output_0"], atol=1e-4)
