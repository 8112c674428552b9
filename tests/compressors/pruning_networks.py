"""Small networks whose channels are coupled in every way that pruning knows, with rows to prune them by."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.inputs import program
from compressors.metrics import METRICS
from compressors.step import Context

CLASSES, SIDE = 3, 8


class Residual(nn.Module):
    """A residual addition over a bottleneck with a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.expand, self.depthwise = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.project, self.norm = nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        x = self.stem(x).relu()
        x = x + self.norm(self.project(self.depthwise(self.expand(x).relu()).relu()))
        return self.head(x.mean((2, 3)))


class Concatenated(nn.Module):
    """Two branches, one after the other in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 16, 1)
        self.join, self.head = nn.Conv2d(24, 16, 1), nn.Linear(16 * 16, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        x = self.join(torch.cat([self.left(x).relu(), self.right(x).relu()], 1)).relu()
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


class Grouped(nn.Module):
    """A convolution in four groups: each must lose as many."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 3, padding=1, groups=4)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        return self.head(self.grouped(self.stem(x).relu()).relu().mean((2, 3)))


class Shuffled(nn.Module):
    """Channels that are shuffled by shapes that are written down, as torchvision's ShuffleNetV2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        left, right = self.stem(x).relu().chunk(2, 1)
        x = torch.cat([left, self.branch(right).relu()], 1)
        x = x.view(-1, 2, 8, SIDE, SIDE).transpose(1, 2).reshape(-1, 16, SIDE, SIDE)
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    """Two heads of attention, taken apart, and the two layers behind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(3 * SIDE, 16), nn.Linear(16, 16)
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.widen, self.narrow, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        x = self.embed(x.permute(0, 2, 1, 3).flatten(2))
        query, key, value = (
            layer(x).reshape(-1, SIDE, 2, 8).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        seen = torch.softmax(query @ key.transpose(-1, -2), -1) @ value
        x = x + self.out(seen.transpose(1, 2).reshape(-1, SIDE, 16))
        return self.head((x + self.narrow(self.widen(x).relu())).mean(1))


class Recurrent(nn.Module):
    """An LSTM over the rows of a picture, and the layers behind."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(SIDE, 16, batch_first=True)
        self.after, self.head = nn.Linear(16, 24), nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        outputs, _ = self.lstm(x.mean(1))
        return self.head(self.after(outputs[:, -1]).relu())


def network_of(module: nn.Module, seed: int = 0) -> program.FloatModel:
    """A network as a push would make it, with weights of its own for each seed and norms that have seen something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn / weight[0].numel() ** 0.5 if weight.dim() > 1 else drawn * 0.1 + 0.5)
    free = ({0: torch.export.Dim.DYNAMIC},)
    with warnings.catch_warnings(action="ignore"):  # torch warns of how its own LSTM keeps its weights
        exported = torch.export.export(module.eval(), (torch.zeros(2, 3, SIDE, SIDE),), dynamic_shapes=free)
    return program.from_exported(exported)


def rows_of(network: program.FloatModel, rows: int = 96, seed: int = 0) -> Split:
    """Pictures; a class is the answer of the network that stands out most, so that every channel counts."""
    pictures = np.random.default_rng(seed).normal(size=(rows, 3, SIDE, SIDE)).astype(np.float32)
    name = network.signature.inputs[0].name
    answers = network.run({name: pictures})[network.signature.outputs[0].name]
    places = np.arange(rows)
    classes = (answers - answers.mean(0)).argmax(1).astype(np.int64)
    return Split({name: pictures}, classes, places, None, places)


def context_for(network: program.FloatModel, rows: int = 96) -> Context:
    calibration, selection, train = (rows_of(network, rows, seed) for seed in range(3))
    return Context(calibration, selection, Task.CLASSIFICATION, METRICS["top1"], train=train)
