from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors.errors import DataError
from compressors.network.layers import weight_of
from compressors.rehydrate import clone
from compressors.sensitivity.curvature import Curvature
from compressors.sensitivity.sharpness import affordable_curvature, layer_curvature, sharpness
from compressors.simulation.grid import Grid, bounds_of, rounded
from compressors.training.row_losses import loss_batches
from tests.compressors.pruning_networks import Residual, context_for, network_of

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.inputs.program import FloatModel
    from compressors.step import Context


def loss(network: torch.nn.Module, context: Context) -> float:
    batches = list(
        loss_batches(network, context.calibration, context.task, context.metric, max_rows=128, batch_size=64)
    )
    with torch.no_grad():
        return sum(float(one.loss(network(*one.inputs))) for one in batches) / sum(one.rows for one in batches)


@pytest.fixture
def network() -> FloatModel:
    return network_of(Residual())


def test_foretold_cost_is_that_of_random_changes_of_the_same_size(network: FloatModel) -> None:
    context, grid = context_for(network), Grid(5, symmetric=True)
    foretold = [sharpness(network, replace(context, seed=seed), grid)["head"] for seed in range(6)]
    moved = clone(network.module)
    weight = weight_of(moved.get_submodule("head"))
    kept = weight.clone()
    size = (rounded(kept, *bounds_of(kept, 0), grid) - kept).norm()
    generator, costs, before = torch.Generator().manual_seed(0), [], loss(network.module, context)
    for _ in range(200):
        change = torch.randn(kept.shape, generator=generator)
        for sign in (1.0, -1.0):  # the slope cancels out
            weight.copy_(kept + sign * change / change.norm() * size)
            costs.append(loss(moved, context) - before)
    assert float(np.mean(foretold)) == pytest.approx(float(np.mean(costs)), rel=0.3)


def test_layers_are_told_in_the_order_of_their_cost_and_cost_less_with_more_bits(network: FloatModel) -> None:
    context = context_for(network)
    coarse, fine = (sharpness(network, context, Grid(bits, symmetric=True)) for bits in (3, 8))
    assert list(coarse.values()) == sorted(coarse.values(), reverse=True)
    assert all(fine[layer] < cost / 100 for layer, cost in coarse.items() if cost > 0)


def test_rows_without_labels_are_refused(network: FloatModel) -> None:
    context = context_for(network)
    blank = replace(context.calibration, target=np.full_like(context.calibration.target, -1))
    with pytest.raises(DataError, match="label"):
        sharpness(network, replace(context, calibration=blank))


def test_curvature_is_kept_by_network_rows_loss_and_seed(tmp_path: Path) -> None:
    network = network_of(Residual())
    context = replace(context_for(network), cache_dir=tmp_path)
    found = layer_curvature(network, context)
    (path,) = tmp_path.glob("*.curvature.json")
    assert layer_curvature(network, context) == found
    path.write_text(path.read_text().replace('"head"', '"head.of.the.cache"'))
    assert "head.of.the.cache" in layer_curvature(network, context)

    other = clone(network.module)
    with torch.no_grad():
        other.get_parameter("head.bias").add_(1.0)
    turned = replace(context.calibration, target=np.roll(context.calibration.target, 1))
    for changed_network, changed in (
        (replace(network, module=other), context),
        (network, replace(context, seed=context.seed + 1)),
        (network, replace(context, calibration=turned)),
    ):
        assert "head" in layer_curvature(changed_network, changed)
    path.write_text("{")
    assert layer_curvature(network, context) == found, "damaged, it is computed anew"


def test_curvature_nobody_asked_for_is_that_of_small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(Residual())
    context = context_for(network)
    assert affordable_curvature(network, context) == layer_curvature(network, context)
    monkeypatch.setattr("compressors.sensitivity.sharpness.curvature_of", lambda *_a, **_k: {"head": FLAT})
    assert affordable_curvature(network, context) == {}, "what is no finite number says nothing"


FLAT = Curvature(top_eigenvalue=float("nan"), trace=0.0, weights=1)
