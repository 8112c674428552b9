"""What the weights of a layer see: with it the mean square of the layer's outputs is known without running it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compressors.data.evaluation_rows import Split
from compressors.inputs.program import FloatModel
from compressors.network import moments
from compressors.network.moments import patch_moments
from edge_agent.protocol.signature import ModelSignature, TensorSpec

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(12, 20, bias=False), (12,)),
    "linear-of-sequences": (nn.Linear(12, 20, bias=False), (3, 12)),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), (4, 7, 7)),
    "same-and-dilated": (nn.Conv2d(4, 6, (3, 1), padding="same", dilation=(2, 1), bias=False), (4, 7, 7)),
    "reflecting": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False), (4, 7, 7)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 7, 7)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4, bias=False), (4, 7, 7)),
    "one-dimensional": (nn.Conv1d(4, 6, 5, bias=False), (4, 9)),
}


def network_of(layer: nn.Module, shape: tuple[int, ...]) -> FloatModel:
    signature = ModelSignature(
        inputs=(TensorSpec(name="x", shape=(-1, *shape)),), outputs=(TensorSpec(name="y", shape=(-1, 1)),)
    )
    return FloatModel(nn.Sequential(layer), signature, 0)


@pytest.mark.parametrize("kind", LAYERS)
def test_moment_gives_the_mean_square_of_each_output(kind: str) -> None:
    layer, shape = LAYERS[kind]
    values = np.random.default_rng(0).normal(size=(70, *shape)).astype(np.float32)
    places = np.arange(70)
    moment = patch_moments(network_of(layer, shape), Split({"x": values}, places, places, None, places))["0"]
    weight = layer.get_parameter("weight").detach()
    rows = weight.reshape(len(moment), -1, weight[0].numel()).double()
    with torch.no_grad():
        outputs = layer(torch.from_numpy(values))
    by_channel = outputs.flatten(0, -2) if isinstance(layer, nn.Linear) else outputs.movedim(1, -1).flatten(0, -2)
    found = ((rows @ moment) * rows).sum(-1).flatten()
    torch.testing.assert_close(found, by_channel.double().square().mean(0), rtol=1e-4, atol=1e-6)


def test_only_the_layers_asked_for_and_of_bearable_size_have_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, shape = LAYERS["linear"]
    values, places = np.ones((3, *shape), np.float32), np.arange(3)
    network, rows = network_of(layer, shape), Split({"x": values}, places, places, None, places)
    assert set(patch_moments(network, rows, layers=["0"])) == {"0"}
    assert not patch_moments(network, rows, layers=["1"])
    monkeypatch.setattr(moments, "MAX_COLUMNS", 11)
    assert not patch_moments(network, rows)


def test_layers_without_patches_have_no_moment() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3)
    values = np.zeros((3, 4, 5, 5), np.float32)
    places = np.arange(3)
    assert not patch_moments(network_of(layer, (4, 5, 5)), Split({"x": values}, places, places, None, places))
