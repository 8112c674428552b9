"""ShuffleNetV2: half of the channels pass, the other half is filtered, and then they are mixed.

Source: Ma et al. 2018, arXiv:1807.11164.
"""

from __future__ import annotations

import torch
from torch import nn

from compressors.students.widths import divisible, strides_within

STEM = 24
STAGES = ((116, 4), (232, 8), (464, 4))  # channels at width 1, units
HEAD = 1024


def features(channels: int, side: int, *, width: float) -> tuple[nn.Sequential, int]:
    """The convolutions for pictures of a side, and how many channels they end in."""
    strides = strides_within(side, [2, 2, 2, 2, 2])
    now = STEM
    layers: list[nn.Module] = [_filter(channels, now, 3, strides[0]), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, strides[1], 1))
    for (at_one, units), stride in zip(STAGES, strides[2:], strict=True):
        outputs = divisible(at_one * width, multiple=4)
        layers.append(Down(now, outputs, stride))
        layers += [Unit(outputs) for _ in range(units - 1)]
        now = outputs
    return nn.Sequential(*layers, _filter(now, HEAD, 1, 1), nn.ReLU()), HEAD


class Unit(nn.Module):
    """One half passes, one half is filtered."""

    def __init__(self, channels: int) -> None:
        """Args: `channels`: in and out, an even number."""
        super().__init__()
        self._half = channels // 2
        self.branch = _branch(self._half, self._half, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        passing, filtered = x[:, : self._half], x[:, self._half :]
        return _shuffled(passing, self.branch(filtered))


class Down(nn.Module):
    """Both halves are filtered from all of the input, with a stride."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Args: `outputs`: an even number."""
        super().__init__()
        half = outputs // 2
        self.short = nn.Sequential(
            _filter(inputs, inputs, 3, stride, groups=inputs), _filter(inputs, half, 1, 1), nn.ReLU()
        )
        self.branch = _branch(inputs, half, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h / stride, w / stride)."""
        return _shuffled(self.short(x), self.branch(x))


def _branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _filter(inputs, outputs, 1, 1),
        nn.ReLU(),
        _filter(outputs, outputs, 3, stride, groups=outputs),
        _filter(outputs, outputs, 1, 1),
        nn.ReLU(),
    )


def _shuffled(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The channels of both in turn."""
    return torch.stack((left, right), dim=2).flatten(1, 2)


def _filter(inputs: int, outputs: int, kernel: int, stride: int, *, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)
    )
