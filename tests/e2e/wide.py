"""Version 1 of `tiny` with two wide layers: the same answers, and four million weights to be moved for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import TinyModel

WIDTH = 2048  # the p95 of version 1 is microseconds and scatters: the difference has to stand out


def widen(tiny: TinyModel, path: Path) -> None:
    """Version 1 with two wide layers that hand on what it computes: four million weights more, the same answers."""
    import torch  # noqa: PLC0415  only whoever makes the model pays for the import

    weights = torch.export.load(tiny.archive("1")).state_dict
    hidden = weights["layers.0.bias"].numel()
    torch.manual_seed(0)
    wide = torch.nn.Sequential(
        torch.nn.Linear(8, hidden), torch.nn.ReLU(),
        torch.nn.Linear(hidden, WIDTH), torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, 1),
    ).eval()  # fmt: skip
    state = wide.state_dict()  # shares its memory with the network
    for layer in (2, 4):
        state[f"{layer}.weight"][:hidden] = 0.0
        state[f"{layer}.weight"][:hidden, :hidden] = torch.eye(hidden)
        state[f"{layer}.bias"][:hidden] = 0.0
    state["6.weight"][:] = 0.0
    for name in ("weight", "bias"):
        state[f"0.{name}"][:] = weights[f"layers.0.{name}"]
        state[f"6.{name}"][..., :hidden] = weights[f"layers.2.{name}"]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = wide

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.layers(features)
            return answer

    shapes = {"features": {0: torch.export.Dim("batch", max=4096)}}
    torch.export.save(torch.export.export(Network().eval(), (torch.zeros(2, 8),), dynamic_shapes=shapes), path)
