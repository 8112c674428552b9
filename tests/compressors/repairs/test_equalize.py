from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import fx, nn

from compressors.network.layers import weight_of
from compressors.rehydrate import clone
from compressors.repairs.equalize import equalize, pairs_of

if TYPE_CHECKING:
    from collections.abc import Callable

INPUTS = torch.randn(16, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def network(activation: Callable[[], nn.Module]) -> fx.GraphModule:
    """A depthwise chain whose channels have ranges far apart, one of them dead."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        activation(),
        nn.ZeroPad2d(1),
        nn.Conv2d(8, 8, 3, groups=8),
        activation(),
        nn.Conv2d(8, 4, 1, bias=False),
    )
    first = weight_of(chain[0])
    first *= torch.logspace(-2, 0, 8).reshape(8, 1, 1, 1)
    first[5] = 0.0
    return fx.symbolic_trace(chain.eval())


def spread(module: fx.GraphModule) -> float:
    ranges = weight_of(module.get_submodule("0")).flatten(1).abs().amax(1)
    live = ranges[ranges > 0.0]
    return float(live.max() / live.min())


def test_equalized_network_answers_the_same_with_ranges_nearer_to_each_other() -> None:
    before = network(nn.ReLU)
    after = clone(before)
    pairs = pairs_of(after, through_caps=False)
    assert [(pair.first, pair.second) for pair in pairs] == [("0", "3"), ("3", "5")]
    narrowed = equalize(after, pairs, {})
    assert torch.allclose(before(INPUTS), after(INPUTS), atol=1e-5)
    assert spread(after) < spread(before) / 3
    assert narrowed["0"] == pytest.approx(spread(before) / spread(after))
    assert all(torch.isfinite(weight).all() for weight in after.parameters())


def test_relu6_is_skipped_or_its_channels_are_kept_below_the_cap() -> None:
    before = network(nn.ReLU6)
    assert pairs_of(before, through_caps=False) == []
    after = clone(before)
    pairs = pairs_of(after, through_caps=True)
    tops = {pair.capped: torch.full((8,), 2.0) for pair in pairs if pair.capped is not None}
    equalize(after, pairs, tops)
    assert not torch.equal(weight_of(before.get_submodule("0")), weight_of(after.get_submodule("0")))
    assert torch.allclose(before(INPUTS), after(INPUTS), atol=1e-4)


def test_channel_that_reaches_the_cap_keeps_its_range() -> None:
    before = network(nn.ReLU6)
    after = clone(before)
    pairs = pairs_of(after, through_caps=True)
    equalize(after, pairs, {pair.capped: torch.full((8,), 6.0) for pair in pairs if pair.capped is not None})
    assert torch.equal(weight_of(before.get_submodule("0")), weight_of(after.get_submodule("0")))


def test_layers_whose_way_forks_are_no_pair() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, picture: torch.Tensor) -> Any:  # noqa: ANN401
            found = self.first(picture)
            return found + self.second(found)

    assert pairs_of(fx.symbolic_trace(Fork().eval()), through_caps=True) == []
