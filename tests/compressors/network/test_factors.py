"""Factors of full rank are the layer itself; of a lower one they keep what the inputs use most."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import fx, nn

from compressors.network.factors import factors_of
from compressors.network.layers import replace_layer, weighted_layers

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(12, 20), (5, 12)),
    "linear-of-sequences": (nn.Linear(12, 20, bias=False), (5, 3, 12)),
    "pointwise": (nn.Conv2d(12, 20, 1, stride=2), (5, 12, 6, 6)),
    "convolution": (nn.Conv2d(12, 20, 3, stride=2, padding=1), (5, 12, 7, 7)),
    "dilated": (nn.Conv2d(12, 20, (3, 1), padding="same", dilation=(2, 1), bias=False), (5, 12, 7, 7)),
    "one-dimensional": (nn.Conv1d(12, 20, 5), (5, 12, 9)),
}


def network_of(layer: nn.Module) -> fx.GraphModule:
    return fx.symbolic_trace(nn.Sequential(copy.deepcopy(layer), nn.Tanh())).eval()


def cut(network: fx.GraphModule, moment: torch.Tensor | None, ranks: tuple[int, ...] | None) -> fx.GraphModule:
    """The network with its first layer as factors; the full rank where none is asked for."""
    changed = copy.deepcopy(network)
    name, layer = next(weighted_layers(changed))
    factors = factors_of(layer, moment)
    assert factors is not None
    replace_layer(changed, name, factors.chain(ranks or tuple(len(side) for side in factors.sides)))
    return changed


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("aim", ["outputs", "weights"])
def test_factors_of_full_rank_answer_as_the_layer(kind: str, aim: str) -> None:
    layer, shape = LAYERS[kind]
    torch.manual_seed(0)
    network, inputs = network_of(layer), torch.randn(shape)
    seen = torch.randn(40, 12).double()
    changed = cut(network, seen.T @ seen if aim == "outputs" else None, None)
    assert torch.allclose(changed(inputs), network(inputs), atol=1e-5)


def test_embedding_of_full_rank_gives_the_same_rows() -> None:
    layer = nn.Embedding(30, 8)
    network, rows = network_of(layer), torch.arange(30)
    assert torch.allclose(cut(network, torch.rand(30).double(), None)(rows), network(rows), atol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_factors_that_know_the_inputs_lose_less_of_the_output(kind: str) -> None:
    layer, shape = LAYERS[kind]
    torch.manual_seed(1)
    mixing = torch.randn(12, 12) * torch.logspace(0, -3, 12)  # few directions carry the inputs
    flat = torch.randn(512, *shape[1:])
    inputs = torch.einsum("bc...,dc->bd...", flat, mixing)
    channels = inputs.movedim(1, -1).reshape(-1, 12).double()
    network = network_of(layer)
    ranks = (4,) if kind == "linear" else (6, 4)
    wanted = network(inputs)
    by_weights, by_outputs = (
        (cut(network, moment, ranks)(inputs) - wanted).square().mean() for moment in (None, channels.T @ channels)
    )
    assert by_outputs < 0.7 * by_weights


def test_energy_kept_is_what_the_output_keeps() -> None:
    torch.manual_seed(2)
    layer, inputs = nn.Linear(16, 24, bias=False), torch.randn(4000, 16) * torch.logspace(0, -2, 16)
    factors = factors_of(layer, (inputs.T @ inputs).double())
    assert factors is not None
    ranks = factors.ranks(0.95, multiple=1)
    chain = nn.Sequential(*factors.chain(ranks).values())
    with torch.no_grad():
        lost = (chain(inputs) - layer(inputs)).square().sum() / layer(inputs).square().sum()
    assert float(1 - lost) == pytest.approx(factors.kept(ranks), abs=1e-4)
    assert factors.kept(ranks) >= 0.95 > factors.kept((ranks[0] - 1,))


def test_ranks_are_rounded_up_to_a_multiple_and_never_beyond_the_layer() -> None:
    torch.manual_seed(3)
    factors = factors_of(nn.Linear(64, 20), None)
    assert factors is not None
    assert factors.ranks(0.5, multiple=8)[0] % 8 == 0
    assert factors.ranks(0.99999, multiple=8) == (20,)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 8, 2), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")],
    ids=["depthwise", "transposed", "reflecting"],
)
def test_layer_that_can_not_be_cut_has_no_factors(layer: nn.Module) -> None:
    assert factors_of(layer, None) is None


def test_layer_of_zeros_has_no_factors() -> None:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    assert factors_of(layer, None) is None


def test_layer_that_is_called_twice_is_replaced_at_both_places() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(6, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first: torch.Tensor = self.shared(x)
            second: torch.Tensor = self.shared(torch.tanh(first))
            return second

    torch.manual_seed(4)
    network, inputs = fx.symbolic_trace(Twice()).eval(), torch.randn(3, 6)
    assert torch.allclose(cut(network, None, None)(inputs), network(inputs), atol=1e-5)
