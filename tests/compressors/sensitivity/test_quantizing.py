from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.inputs import program
from compressors.network.layers import weight_of
from compressors.rehydrate import clone
from compressors.sensitivity.quantizing import sensitivity
from compressors.simulation import Grid, Scheme
from tests.compressors.steps.applying import context_of

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.step import Context


@pytest.fixture(scope="module")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "shapes.pt2")


@pytest.fixture
def context(uploads: Path, network: program.FloatModel, tmp_path: Path) -> Context:
    evaluation = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    return context_of(evaluation, Task.CLASSIFICATION, cache_dir=tmp_path / "cache")


def test_layer_whose_weights_one_scale_can_not_hold_is_the_most_sensitive(
    network: program.FloatModel, context: Context
) -> None:
    module = clone(network.module)
    weight = weight_of(module.get_submodule("layers.4"))
    weight[0, 0] = 300.0 * weight.abs().max()  # makes every step of the tensor's one scale coarse
    found = sensitivity(replace(network, module=module), context, Scheme(per_channel=False))
    assert {one.layer for one in found} == {"layers.0", "layers.2", "layers.4", "layers.8"}
    assert min(found, key=lambda one: one.weights_db).layer == "layers.4"
    assert [one.noise for one in found] == sorted((one.noise for one in found), reverse=True)


def test_fewer_bits_cost_more_of_every_layer(network: program.FloatModel, context: Context) -> None:
    eight = {one.layer: one for one in sensitivity(network, context)}
    few = Scheme(Grid(4, symmetric=True), Grid(4, symmetric=False))
    for one in sensitivity(network, context, few):
        assert one.weights_db < eight[one.layer].weights_db
        assert one.activations_db < eight[one.layer].activations_db


def test_result_is_kept_by_content(network: program.FloatModel, context: Context) -> None:
    found = sensitivity(network, context)
    assert context.cache_dir is not None
    (path,) = context.cache_dir.iterdir()
    path.write_text(path.read_text().replace('"layers.8"', '"layers.of.the.cache"'))
    assert "layers.of.the.cache" in {one.layer for one in sensitivity(network, context)}

    other = clone(network.module)
    with torch.no_grad():
        other.get_parameter("layers.8.bias").add_(1.0)
    assert "layers.of.the.cache" not in {one.layer for one in sensitivity(replace(network, module=other), context)}
    path.write_text("{")
    assert sensitivity(network, context) == found
