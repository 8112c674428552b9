from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from compressors.data.evaluation_rows import Split
from compressors.errors import NoEffectError
from compressors.files.litert import read_facts
from compressors.inputs.program import from_exported
from compressors.network.layers import weight_of
from compressors.pruning.weights import prunable, sizes_of, zeros_of
from compressors.step import Model, content_of
from compressors.steps.export_litert import STEP as EXPORT
from compressors.steps.prune_weights import STEP as MAGNITUDE
from compressors.steps.prune_weights_hessian import STEP as HESSIAN
from tests.compressors.pruning_networks import Grouped, Residual, context_for, network_of
from tests.compressors.steps.applying import apply, first_output

if TYPE_CHECKING:
    from compressors.inputs.program import FloatModel
    from compressors.step import AnyStep, Context

STEPS = pytest.mark.parametrize("step", [MAGNITUDE, HESSIAN], ids=lambda step: step.name)


def sparsity_of(network: FloatModel) -> dict[str, float]:
    layers = prunable(network.module, ())
    sizes = sizes_of(layers)
    return {name: zeros / sizes[name] for name, zeros in zeros_of(layers).items()}


def overall(network: FloatModel) -> float:
    layers = prunable(network.module, ())
    return sum(zeros_of(layers).values()) / sum(sizes_of(layers).values())


@STEPS
def test_weights_are_zero_in_the_file_and_its_input_is_left_alone(step: AnyStep) -> None:
    network = network_of(Residual())
    context = context_for(network)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    outcome = apply(step, Model(network), context, sparsity=0.7)
    assert overall(outcome.model.network) == pytest.approx(0.7, abs=0.01)
    layers = read_facts(content_of(apply(EXPORT, outcome.model, context).model)).layers
    assert any("% zeros" in one for one in layers.values())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.module.state_dict().items())


@STEPS
def test_scope_layer_gives_each_layer_the_same_share(step: AnyStep) -> None:
    network = network_of(Grouped())
    outcome = apply(step, Model(network), context_for(network), sparsity=0.5, scope="layer")
    assert sparsity_of(outcome.model.network) == pytest.approx({"stem": 0.5, "grouped": 0.5, "head": 0.5}, abs=0.02)


@STEPS
def test_skipped_layers_keep_their_weights(step: AnyStep) -> None:
    network = network_of(Grouped())
    outcome = apply(step, Model(network), context_for(network), sparsity=0.5, skip=("stem",))
    assert "stem" not in outcome.layers
    assert sparsity_of(outcome.model.network)["stem"] == 0.0


@STEPS
def test_network_that_is_as_sparse_already_is_an_error(step: AnyStep) -> None:
    network = network_of(Grouped())
    context = context_for(network)
    sparse = apply(MAGNITUDE, Model(network), context, sparsity=0.8).model
    with pytest.raises(NoEffectError, match=r"were zero already and no more became so: ask for a higher sparsity"):
        apply(step, sparse, context, sparsity=0.5)


@STEPS
def test_zeros_of_before_count(step: AnyStep) -> None:
    network = network_of(Grouped())
    context = context_for(network)
    half = apply(MAGNITUDE, Model(network), context, sparsity=0.5, by="random").model
    more = apply(step, half, context, sparsity=0.75).model
    assert overall(more.network) == pytest.approx(0.75, abs=0.01)
    for name, layer in prunable(half.network.module, ()).items():
        gone = weight_of(layer) == 0
        if step is MAGNITUDE:
            assert not weight_of(more.network.module.get_submodule(name))[gone].any()


def test_hessian_changes_answers_less_than_magnitude() -> None:
    network = network_of(Residual())
    context = context_for(network)
    expected = first_output(Model(network), context.selection)
    errors = {}
    for step in (MAGNITUDE, HESSIAN):
        outcome = apply(step, Model(network), context, sparsity=0.6)
        errors[step.name] = float(((first_output(outcome.model, context.selection) - expected) ** 2).mean())
    assert errors["prune-weights-hessian"] < 0.6 * errors["prune-weights"]


def test_hessian_reports_eigenvalue_and_trace_of_each_layer() -> None:
    network = network_of(Grouped())
    said = apply(HESSIAN, Model(network), context_for(network), sparsity=0.5, curvature=True).layers
    assert set(said) == {"stem", "grouped", "head"}
    assert all("weights are zero, " in one and "Hessian: top eigenvalue" in one for one in said.values())


def test_layer_without_a_closed_form_stays_and_says_so() -> None:
    widened = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ConvTranspose2d(8, 4, 3), torch.nn.Flatten())
    network = network_of(torch.nn.Sequential(*widened, torch.nn.Linear(256, 3)))
    outcome = apply(HESSIAN, Model(network), context_for(network), sparsity=0.5)
    assert outcome.layers["1"].startswith("as it was: there is no closed form")
    assert bool((outcome.model.network.module.get_parameter("1.weight") != 0).all())
    assert "weights are zero" in outcome.layers["3"]


def test_channels_and_inputs_of_zero_range_are_pruned_without_nan() -> None:
    network = network_of(Residual())
    with torch.no_grad():
        network.module.get_parameter("expand.weight")[:8] = 0.0
        network.module.get_parameter("expand.bias")[:8] = -1.0  # behind the ReLU nothing is left of these channels
    context = context_for(network)
    outcome = apply(HESSIAN, Model(network), context, sparsity=0.5)
    assert np.isfinite(first_output(outcome.model, context.selection)).all()
    assert all(bool(torch.isfinite(weight).all()) for weight in outcome.model.network.module.parameters())


@STEPS
def test_network_without_weights_has_nothing_to_prune(step: AnyStep) -> None:
    network = network_of(Grouped())
    with pytest.raises(NoEffectError, match="no layer of this network has weights that may go"):
        apply(step, Model(network), context_for(network), skip=("stem", "grouped", "head"))


class Users(torch.nn.Module):
    """Whom the calibration rows know, and as many whom they don't."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.score = torch.nn.Embedding(200, 8), torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score: torch.Tensor = self.score(torch.tanh(self.users(x)))
        return score


@pytest.fixture
def users() -> tuple[FloatModel, Context]:
    torch.manual_seed(0)
    free = {"x": {0: torch.export.Dim("batch", max=4096)}}
    network = from_exported(torch.export.export(Users().eval(), (torch.arange(2),), dynamic_shapes=free))
    known = np.tile(np.arange(100), 4)
    return network, replace(context_for(network_of(Residual())), calibration=split_of(known), train=None)


def split_of(ids: Any) -> Split:  # noqa: ANN401  an array
    rows = np.arange(len(ids))
    return Split({"x": ids}, ids % 3, rows, None, rows)


def kept_of(network: FloatModel, ids: slice) -> float:
    return float((weight_of(network.module.get_submodule("users"))[ids] != 0).float().mean())


def test_rows_of_a_table_that_calibration_never_asks_for_keep_their_largest_weights(
    users: tuple[FloatModel, Context],
) -> None:
    network, context = users
    pruned = apply(HESSIAN, Model(network), context, sparsity=0.6).model.network
    assert kept_of(pruned, slice(100)) > kept_of(pruned, slice(100, 200)) > 0.05


def test_rows_of_a_table_are_weighed_by_the_training_rows_where_there_are_some(
    users: tuple[FloatModel, Context],
) -> None:
    network, context = users
    taught = replace(context, train=split_of(np.tile(np.arange(200), 50)))
    pruned = apply(HESSIAN, Model(network), taught, sparsity=0.6).model.network
    assert kept_of(pruned, slice(100, 200)) == pytest.approx(kept_of(pruned, slice(100)), abs=0.05)
