"""A layer with weights as a product of thinner ones, at any rank: what a rank keeps, costs, and becomes.

The energy of a layer is that of its output, E|Wx|^2 = tr(W C W^T) with the inputs' second moment C; with C = 1 it is
that of its weights. Of all products of one rank, the projection on the leading eigenvectors of W C W^T keeps most.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressors.network.layers import weight_of

if TYPE_CHECKING:
    from collections.abc import Sequence

SMALLEST_SHARE = 1e-9  # of the largest eigenvalue: an input channel that was always zero keeps a little weight
ROUNDS = 3  # alternating projections of Tucker-2; the energy hardly changes after two


class Factors(ABC):
    """One layer, and how it may be cut."""

    sides: tuple[torch.Tensor, ...]  # for each side that can be cut the energies of its directions, descending

    def __init__(self, layer: nn.Module) -> None:
        """Nothing is cut yet."""
        self.layer = layer
        self.shape = tuple(weight_of(layer).shape)
        self.weights = math.prod(self.shape)

    def ranks(self, energy: float, multiple: int) -> tuple[int, ...]:
        """The smallest rank of each side that together keep a share of the energy, rounded up to a multiple."""
        lost = (1 - energy) / len(self.sides)
        return tuple(_rank(side, lost, multiple) for side in self.sides)

    def kept(self, ranks: Sequence[int]) -> float:
        """The share of the energy that is kept at least."""
        lost = (side[rank:].sum() / side.sum() for side, rank in zip(self.sides, ranks, strict=True))
        return 1 - float(sum(lost))

    @abstractmethod
    def share(self, ranks: Sequence[int]) -> float:
        """The weights of the product, as a share of the layer's; that of its multiplications is the same or less."""

    @abstractmethod
    def chain(self, ranks: Sequence[int]) -> dict[str, nn.Module]:
        """The thin layers, in the order in which they are called."""


class MatrixFactors(Factors):
    """Truncated SVD of a linear layer, a 1x1 convolution, or an embedding."""

    def __init__(self, layer: nn.Module, moment: torch.Tensor | None) -> None:
        """`moment`: of the layer's inputs, or how often an embedding's rows are looked up; None: the weights count."""
        super().__init__(layer)
        weight = weight_of(layer).double().flatten(1)
        self._matrix = weight.T if isinstance(layer, nn.Embedding) else weight
        if moment is None:
            weighed = self._matrix
        elif isinstance(layer, nn.Embedding):
            weighed = self._matrix * (moment + SMALLEST_SHARE)
        else:
            weighed = self._matrix @ moment
        energies, self._basis = _leading(weighed @ self._matrix.T)
        self.sides = (energies,)

    def share(self, ranks: Sequence[int]) -> float:  # noqa: D102  as in the base class
        rows, columns = self._matrix.shape
        return ranks[0] * (rows + columns) / (rows * columns)

    def chain(self, ranks: Sequence[int]) -> dict[str, nn.Module]:  # noqa: D102
        basis = self._basis[:, : ranks[0]]
        reduce = basis.T @ self._matrix
        rank, outputs = ranks[0], len(basis)
        layer: Any = self.layer
        thin: nn.Module
        if isinstance(layer, nn.Embedding):
            thin = nn.Embedding(layer.num_embeddings, rank, padding_idx=layer.padding_idx)
            return {"reduce": _filled(thin, reduce.T), "expand": _filled(nn.Linear(rank, outputs, bias=False), basis)}
        if isinstance(layer, nn.Linear):
            thin, wide = nn.Linear(layer.in_features, rank, bias=False), nn.Linear(rank, outputs)
            return {"reduce": _filled(thin, reduce), "expand": _filled(wide, basis, bias=layer.bias)}
        thin = _convolution(layer, layer.in_channels, rank, moving=True)
        expand = _filled(_pointwise(layer, rank, outputs), basis, bias=layer.bias)
        return {"reduce": _filled(thin, reduce), "expand": expand}


class TuckerFactors(Factors):
    """Tucker-2 of a convolution: fewer input channels, a small core with the places of the kernel, fewer outputs."""

    def __init__(self, layer: nn.Module, moment: torch.Tensor | None) -> None:
        """`moment`: of the input channels; None: the weights count."""
        super().__init__(layer)
        weight = weight_of(layer).double().flatten(2)
        channels = weight.shape[1]
        self._root, self._inverse = _roots(torch.eye(channels).double() if moment is None else moment)
        self._weighed = torch.einsum("oik,ij->ojk", weight, self._root)
        self.sides = (_leading(_unfolded(self._weighed, 0))[0], _leading(_unfolded(self._weighed, 1))[0])

    def share(self, ranks: Sequence[int]) -> float:  # noqa: D102  as in the base class
        outputs, inputs = self.shape[:2]
        core = ranks[0] * ranks[1] * math.prod(self.shape[2:])
        expand = outputs * ranks[0] if ranks[0] < outputs else 0
        reduce = inputs * ranks[1] if ranks[1] < inputs else 0
        return (expand + core + reduce) / self.weights

    def chain(self, ranks: Sequence[int]) -> dict[str, nn.Module]:  # noqa: D102
        layer: Any = self.layer
        outputs, inputs = self.shape[:2]
        outer, inner = self._bases(ranks)
        # a side that keeps all of its channels needs no layer of its own
        back = torch.eye(outputs).double() if ranks[0] == outputs else outer
        into = self._inverse if ranks[1] == inputs else inner
        core = torch.einsum("oik,or,is->rsk", self._weighed, back, into)
        wide = ranks[0] == outputs and layer.bias is not None
        chain = {}
        if ranks[1] < inputs:
            chain["reduce"] = _filled(_pointwise(layer, inputs, ranks[1], bias=False), (self._inverse @ inner).T)
        middle = _convolution(layer, ranks[1], ranks[0], moving=True, bias=wide)
        chain["core"] = _filled(middle, core, bias=layer.bias if wide else None)
        if ranks[0] < outputs:
            chain["expand"] = _filled(_pointwise(layer, ranks[0], outputs), back, bias=layer.bias)
        return chain

    def _bases(self, ranks: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Directions of the outputs and of the weighed inputs, each the best for the other one."""
        outer = _leading(_unfolded(self._weighed, 0))[1][:, : ranks[0]]
        inner = _leading(_unfolded(self._weighed, 1))[1][:, : ranks[1]]
        for _ in range(ROUNDS):
            outer = _leading(_unfolded(torch.einsum("oik,is->osk", self._weighed, inner), 0))[1][:, : ranks[0]]
            inner = _leading(_unfolded(torch.einsum("oik,or->rik", self._weighed, outer), 1))[1][:, : ranks[1]]
        return outer, inner


def factors_of(layer: nn.Module, moment: torch.Tensor | None) -> Factors | None:
    """How a layer may be cut; None where it may not: grouped, transposed, or with nothing in it."""
    if not torch.count_nonzero(weight_of(layer)):
        return None
    if isinstance(layer, nn.Linear | nn.Embedding):
        return MatrixFactors(layer, moment)
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.groups > 1 or layer.padding_mode != "zeros":
        return None
    return MatrixFactors(layer, moment) if math.prod(layer.kernel_size) == 1 else TuckerFactors(layer, moment)


def _rank(energies: torch.Tensor, lost: float, multiple: int) -> int:
    kept = torch.cumsum(energies, 0) / energies.sum()
    rank = int((kept < 1 - lost).sum()) + 1
    return min(-(-rank // multiple) * multiple, len(energies))


def _leading(symmetric: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eigenvalues in descending order, and their vectors as columns."""
    values, vectors = torch.linalg.eigh((symmetric + symmetric.T) / 2)
    return values.clamp(min=0).flip(0), vectors.flip(1)


def _roots(moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The symmetric square root of a second moment, and its inverse."""
    values, vectors = _leading(moment)
    values = values.clamp(min=float(values[0]) * SMALLEST_SHARE + 1e-30)
    return vectors * values.sqrt() @ vectors.T, vectors / values.sqrt() @ vectors.T


def _unfolded(weight: torch.Tensor, mode: int) -> torch.Tensor:
    """The moment of a kernel's slices along its outputs (0) or inputs (1)."""
    flat = weight.movedim(mode, 0).flatten(1)
    return flat @ flat.T


def _convolution(layer: Any, inputs: int, outputs: int, *, moving: bool, bias: bool = False) -> nn.Module:  # noqa: ANN401
    """A convolution of the layer's kind; `moving`: with its kernel, stride, padding and dilation."""
    places = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation} if moving else {}
    made: nn.Module = type(layer)(inputs, outputs, layer.kernel_size if moving else 1, bias=bias, **places)
    return made


def _pointwise(layer: Any, inputs: int, outputs: int, *, bias: bool = True) -> nn.Module:  # noqa: ANN401
    return _convolution(layer, inputs, outputs, moving=False, bias=bias)


def _filled(layer: Any, weight: torch.Tensor, *, bias: torch.Tensor | None = None) -> nn.Module:  # noqa: ANN401
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if bias is not None:
            layer.bias.copy_(bias)
        elif getattr(layer, "bias", None) is not None:
            layer.bias.zero_()
    layer.to(weight.device)
    filled: nn.Module = layer.eval()
    return filled
