"""MobileNetV2, MobileNetV3 and EfficientNet-Lite: one kind of block, four tables.

Source: Sandler et al. 2018, arXiv:1801.04381; Howard et al. 2019, arXiv:1905.02244; EfficientNet-Lite from the TPU
models of TensorFlow (EfficientNet without squeeze-and-excite, ReLU6 throughout).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from compressors.students.widths import divisible, strides_within

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    Activation = Callable[[], nn.Module]

SQUEEZE_SHARE = 4  # squeeze-and-excite looks through a quarter of the channels


@dataclass(frozen=True)
class Block:
    """One inverted residual, at width 1."""

    kernel: int
    inside: int  # channels of its middle; 0: those of its input, which is then not widened
    outputs: int
    stride: int
    squeeze: bool = False
    activation: Activation = nn.ReLU6


@dataclass(frozen=True)
class Family:
    """A table of blocks between a stem and a head."""

    stem: int
    blocks: tuple[Block, ...]
    head: int  # channels of the last convolution
    hidden: int = 0  # of the classifier; 0: it is one layer
    activation: Activation = nn.ReLU6
    narrows_head: bool = False  # the head follows a width below 1 too


def _expanded(stem: int, *stages: tuple[int, int, int, int, int]) -> tuple[Block, ...]:
    """Blocks of stages (kernel, expansion, channels, repeats, stride), of which the first block has the stride."""
    blocks, now = [], stem
    for kernel, expansion, channels, repeats, stride in stages:
        for repeat in range(repeats):
            inside = now * expansion if expansion > 1 else 0
            blocks.append(Block(kernel, inside, channels, stride if repeat == 0 else 1))
            now = channels
    return tuple(blocks)


MOBILENET_V2 = Family(
    32,
    _expanded(
        32,
        (3, 1, 16, 1, 1),
        (3, 6, 24, 2, 2),
        (3, 6, 32, 3, 2),
        (3, 6, 64, 4, 2),
        (3, 6, 96, 3, 1),
        (3, 6, 160, 3, 2),
        (3, 6, 320, 1, 1),
    ),
    1280,
)
EFFICIENTNET_LITE = Family(
    32,
    _expanded(
        32,
        (3, 1, 16, 1, 1),
        (3, 6, 24, 2, 2),
        (5, 6, 40, 2, 2),
        (3, 6, 80, 3, 2),
        (5, 6, 112, 3, 1),
        (5, 6, 192, 4, 2),
        (3, 6, 320, 1, 1),
    ),
    1280,
)
MOBILENET_V3_SMALL = Family(
    16,
    (
        Block(3, 0, 16, 2, squeeze=True, activation=nn.ReLU),
        Block(3, 72, 24, 2, activation=nn.ReLU),
        Block(3, 88, 24, 1, activation=nn.ReLU),
        Block(5, 96, 40, 2, squeeze=True, activation=nn.Hardswish),
        Block(5, 240, 40, 1, squeeze=True, activation=nn.Hardswish),
        Block(5, 240, 40, 1, squeeze=True, activation=nn.Hardswish),
        Block(5, 120, 48, 1, squeeze=True, activation=nn.Hardswish),
        Block(5, 144, 48, 1, squeeze=True, activation=nn.Hardswish),
        Block(5, 288, 96, 2, squeeze=True, activation=nn.Hardswish),
        Block(5, 576, 96, 1, squeeze=True, activation=nn.Hardswish),
        Block(5, 576, 96, 1, squeeze=True, activation=nn.Hardswish),
    ),
    576,
    1024,
    nn.Hardswish,
    narrows_head=True,
)
MOBILENET_V3_LARGE = Family(
    16,
    (
        Block(3, 0, 16, 1, activation=nn.ReLU),
        Block(3, 64, 24, 2, activation=nn.ReLU),
        Block(3, 72, 24, 1, activation=nn.ReLU),
        Block(5, 72, 40, 2, squeeze=True, activation=nn.ReLU),
        Block(5, 120, 40, 1, squeeze=True, activation=nn.ReLU),
        Block(5, 120, 40, 1, squeeze=True, activation=nn.ReLU),
        Block(3, 240, 80, 2, activation=nn.Hardswish),
        Block(3, 200, 80, 1, activation=nn.Hardswish),
        Block(3, 184, 80, 1, activation=nn.Hardswish),
        Block(3, 184, 80, 1, activation=nn.Hardswish),
        Block(3, 480, 112, 1, squeeze=True, activation=nn.Hardswish),
        Block(3, 672, 112, 1, squeeze=True, activation=nn.Hardswish),
        Block(5, 672, 160, 2, squeeze=True, activation=nn.Hardswish),
        Block(5, 960, 160, 1, squeeze=True, activation=nn.Hardswish),
        Block(5, 960, 160, 1, squeeze=True, activation=nn.Hardswish),
    ),
    960,
    1280,
    nn.Hardswish,
    narrows_head=True,
)


def features(family: Family, channels: int, side: int, *, width: float) -> tuple[nn.Sequential, int]:
    """The convolutions of a family for pictures of a side, and how many channels they end in."""
    stem, *strides = strides_within(side, [2, *(block.stride for block in family.blocks)])
    now = divisible(family.stem * width)
    layers: list[nn.Module] = [_convolution(channels, now, 3, stem, family.activation)]
    for block, stride in zip(family.blocks, strides, strict=True):
        inside, outputs = divisible(block.inside * width) if block.inside else now, divisible(block.outputs * width)
        layers.append(InvertedResidual(block, now, inside, outputs, stride=stride))
        now = outputs
    head = divisible(family.head * (width if family.narrows_head else max(width, 1.0)))
    return nn.Sequential(*layers, _convolution(now, head, 1, 1, family.activation)), head


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel, narrow by 1x1; added to the input where the shapes agree."""

    def __init__(self, block: Block, inputs: int, inside: int, outputs: int, *, stride: int) -> None:
        """Args: the channels at its beginning, middle and end."""
        super().__init__()
        layers: list[nn.Module] = []
        if block.inside:
            layers.append(_convolution(inputs, inside, 1, 1, block.activation))
        layers.append(_convolution(inside, inside, block.kernel, stride, block.activation, groups=inside))
        if block.squeeze:
            layers.append(SqueezeExcite(inside))
        self.layers = nn.Sequential(*layers, _convolution(inside, outputs, 1, 1, None))
        self._adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, inputs, h, w) to (batch, outputs, h / stride, w / stride)."""
        y: torch.Tensor = self.layers(x)
        return x + y if self._adds else y


class SqueezeExcite(nn.Module):
    """Weigh each channel by what all of them say on average."""

    def __init__(self, channels: int) -> None:
        """Args: `channels`: in and out."""
        super().__init__()
        inside = divisible(channels / SQUEEZE_SHARE)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, inside, 1),
            nn.ReLU(),
            nn.Conv2d(inside, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The shape stays."""
        weighed: torch.Tensor = x * self.layers(x)
        return weighed


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int, activation: Activation | None, *, groups: int = 1
) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))
