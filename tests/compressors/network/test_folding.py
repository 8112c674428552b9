"""Folding keeps the answers, and leaves what is not a layer's alone."""

from __future__ import annotations

import torch
from torch import fx, nn

from compressors.network.folding import fold_batch_norms


def trained_looking(network: nn.Module) -> fx.GraphModule:
    """Batch-norms with statistics and factors, as training leaves them."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return fx.symbolic_trace(network).eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())


def test_folded_network_answers_alike_without_batch_norms() -> None:
    network = trained_looking(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.BatchNorm2d(8),
            nn.Flatten(),
            nn.Linear(8 * 36, 5),
            nn.BatchNorm1d(5),
        )
    )
    pictures = torch.randn(4, 3, 10, 10)
    folded = fold_batch_norms(network)
    assert norms(folded) == 0
    assert torch.allclose(folded(pictures), network(pictures), atol=1e-4)
    assert norms(network) == 3


def test_norm_of_a_layer_that_others_use_too_stays() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            total: torch.Tensor = y + self.norm(y)
            return total

    network = trained_looking(Forked())
    folded = fold_batch_norms(network)
    assert norms(folded) == 1
    rows = torch.randn(6, 4)
    assert torch.allclose(folded(rows), network(rows))


def test_norm_of_a_layer_that_is_called_twice_stays() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(torch.relu(self.norm(self.layer(x))))
            return y

    network, rows = trained_looking(Twice()), torch.randn(6, 4)
    folded = fold_batch_norms(network)
    assert norms(folded) == 1
    assert torch.allclose(folded(rows), network(rows))


def test_norm_before_any_layer_stays() -> None:
    network, rows = trained_looking(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))), torch.randn(6, 4)
    folded = fold_batch_norms(network)
    assert norms(folded) == 1
    assert torch.allclose(folded(rows), network(rows))
