from __future__ import annotations

import pytest
import torch
from torch import nn

from compressors.training.scale import Scale, logits_of, scale_of


class Squeezed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.reshape(torch.sigmoid(x), (-1, 1))


@pytest.mark.parametrize(
    ("network", "scale"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Softmax(dim=1)), Scale.PROBABILITIES),
        (nn.Sequential(nn.Linear(3, 2), nn.LogSoftmax(dim=1)), Scale.LOG_PROBABILITIES),
        (nn.Sequential(nn.Linear(3, 1), nn.Sigmoid()), Scale.CHANCES),
        (nn.Sequential(nn.Linear(3, 1), Squeezed()), Scale.CHANCES),
        (nn.Sequential(nn.Sigmoid(), nn.Linear(3, 1)), Scale.LOGITS),
    ],
)
def test_scale_is_told_by_what_gives_the_output(network: nn.Module, scale: Scale) -> None:
    assert scale_of(torch.fx.symbolic_trace(network)) is scale


def test_scale_of_a_network_without_a_graph_is_not_known() -> None:
    assert scale_of(nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())) is Scale.LOGITS


def test_logits_turn_into_the_outputs_again() -> None:
    chances, classes = torch.rand(5, 1), torch.rand(5, 3).softmax(dim=1)
    assert torch.allclose(logits_of(chances, Scale.CHANCES).sigmoid(), chances, atol=1e-5)
    assert torch.allclose(logits_of(classes, Scale.PROBABILITIES).softmax(dim=1), classes, atol=1e-5)
    assert logits_of(torch.tensor([[0.0, 1.0]]), Scale.PROBABILITIES).isfinite().all()
