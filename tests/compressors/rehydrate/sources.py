"""Networks as users export them: what tests of rehydration share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from compressors.rehydrate import rehydrate

if TYPE_CHECKING:
    from torch import fx

FREE = {0: torch.export.Dim("batch", max=4096)}


class Picture(nn.Module):
    """Layers and functions mixed, in-place activations, a view with the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.act = nn.Hardswish(inplace=True)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(8 * 4 * 4, 3)

    def forward(self, picture: torch.Tensor) -> Any:  # noqa: ANN401
        x = functional.relu(self.norm(self.first(picture)), inplace=True)
        x = functional.max_pool2d(functional.relu6(self.depthwise(x)), 2)
        return self.head(self.drop(self.act(x).view(x.size(0), -1)))


class Shuffled(nn.Module):
    """Channels shuffled through a view, as ShuffleNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.mixed = nn.Conv2d(4, 8, 1, groups=2), nn.Conv2d(8, 4, 1, groups=2)

    def forward(self, picture: torch.Tensor) -> Any:  # noqa: ANN401
        x = self.grouped(picture)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.mixed(x.view(batch, channels, height, width)).mean((2, 3))


class Filtering(nn.Module):
    """Users and items as tables, with a product of both."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(9, 4), nn.Embedding(7, 4)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 1))

    def forward(self, user: torch.Tensor, item: torch.Tensor) -> Any:  # noqa: ANN401
        u, i = self.users(user), self.items(item)
        return self.layers(torch.cat([u, i], dim=1)) + (u * i).sum(1, keepdim=True)


class Attention(nn.Module):
    """A transformer encoder over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 16), nn.Parameter(torch.randn(1, 6, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, text: torch.Tensor) -> Any:  # noqa: ANN401
        return self.head(self.encoder(self.tokens(text) + self.places).mean(1))


class Patches(nn.Module):
    """A small vision transformer: patches, a token for the class that is expanded to the batch, attention by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(1, 12, 4, stride=4), nn.Parameter(torch.randn(1, 1, 12))
        self.qkv, self.out, self.head = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, picture: torch.Tensor) -> Any:  # noqa: ANN401
        x = self.patch(picture).flatten(2).transpose(1, 2)
        batch = x.shape[0]
        x = torch.cat([self.token.expand(batch, -1, -1), x], dim=1)
        q, k, v = self.qkv(x).reshape(batch, -1, 3, 2, 6).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / 6**0.5).softmax(dim=-1)
        return self.head(self.out((weights @ v).transpose(1, 2).reshape(batch, -1, 12))[:, 0])


class Remembering(nn.Module):
    """Begins with a state that it makes for the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(3, 4, batch_first=True)

    def forward(self, series: torch.Tensor) -> Any:  # noqa: ANN401
        return self.memory(series, torch.ones(1, series.shape[0], 4))[1][0]


class TwoOutputs(nn.Module):
    """Two inputs, two outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        both = functional.gelu(self.left(a) + self.right(b))
        return {"kind": self.head(both), "size": torch.sigmoid(both.sum(1, keepdim=True))}


class Tied(nn.Module):
    """One weight in two layers, and beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        return self.two(torch.relu(self.one(x))) + self.one.weight.mean(0)


class Sequence(nn.Module):
    """A recurrent layer, whose state begins with zeros."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU] = nn.LSTM) -> None:
        super().__init__()
        self.memory, self.head = kind(3, 8, batch_first=True, bidirectional=True), nn.Linear(16, 2)

    def forward(self, series: torch.Tensor) -> Any:  # noqa: ANN401
        return self.head(self.memory(series)[0][:, -1])


class Signal(nn.Module):
    """One-dimensional layers, up and down, and the norms that need no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv1d(2, 8, 3, groups=2, stride=2)
        self.up = nn.ConvTranspose1d(8, 4, 3, stride=2, output_padding=1)
        self.groups, self.layer, self.act = nn.GroupNorm(2, 4), nn.LayerNorm(17), nn.PReLU()

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        return self.act(self.layer(self.groups(self.up(self.down(x)))[..., :17])).flatten(1)


class Table(nn.Module):
    """Features scaled inside, a norm, and a view with the batch."""

    mean: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.register_buffer("mean", torch.randn(8))

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401
        x = (features - self.mean).reshape(features.shape[0], -1)
        return self.layers(x).view(features.shape[0]).unsqueeze(1)


class Apart(nn.Module):
    """Adds a layer's bias by itself, after the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(8, 4)

    def forward(self, features: torch.Tensor) -> Any:  # noqa: ANN401
        return functional.linear(features, self.dense.weight).relu() + self.dense.bias


class Spectrum(nn.Module):
    """Holds an operator that is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> Any:  # noqa: ANN401
        return self.head(torch.fft.rfft(x).abs())


def rows(network: nn.Module, count: int, *, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Random samples for one of these networks."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[type[nn.Module], list[tuple[int, ...]]] = {
        Picture: [(1, 8, 8)],
        Patches: [(1, 8, 8)],
        Remembering: [(5, 3)],
        Shuffled: [(4, 3, 3)],
        TwoOutputs: [(4,), (3,)],
        Tied: [(4,)],
        Sequence: [(5, 3)],
        Signal: [(2, 17)],
        Table: [(8,)],
        Apart: [(8,)],
        Spectrum: [(8,)],
    }
    whole: dict[type[nn.Module], list[tuple[int, ...]]] = {Filtering: [(), ()], Attention: [(6,)]}
    kind = type(network)
    if kind in whole:
        return tuple(torch.randint(0, 7, (count, *shape), generator=generator) for shape in whole[kind])
    return tuple(torch.randn(count, *shape, generator=generator) for shape in shapes[kind])


def exported(network: nn.Module, *, free: bool) -> tuple[fx.GraphModule, list[str]]:
    """The program of a network as a module, and the names of its inputs."""
    examples = rows(network, 2 if free else 1)
    program = torch.export.export(network, examples, dynamic_shapes=tuple(FREE for _ in examples) if free else None)
    return program.module(check_guards=False), [str(name) for name in program.graph_signature.user_inputs]


def rebuilt(network: nn.Module, *, free: bool = True) -> fx.GraphModule:
    """A network, exported and rehydrated."""
    return rehydrate(*exported(network.eval(), free=free))
