"""What the layers of a network see: the second moment of their inputs over some samples."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from compressors.network.layers import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from compressors.data.evaluation_rows import Split
    from compressors.inputs.program import FloatModel

    Moment = Callable[[nn.Module, torch.Tensor], tuple[torch.Tensor, int] | None]  # the sum, and of how many

MAX_COLUMNS = 8192  # the moment of more takes gigabytes, and its inverse many minutes
MAX_ROWS = 512  # the moments of a layer's channels are known well before


def input_moments(
    network: FloatModel, split: Split, *, max_rows: int = MAX_ROWS, layers: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """For layers with weights the mean of x x^T over their inputs, float64, (channels, channels).

    For an embedding it is how often each row is looked up, (rows,). A layer that is never called has none. Arguments as
    for `patch_moments`.
    """
    return _means(network, split, max_rows, _moment, layers)


def patch_moments(
    network: FloatModel, split: Split, *, max_rows: int = MAX_ROWS, layers: Collection[str] | None = None
) -> dict[str, torch.Tensor]:
    """For linear layers and convolutions the mean of x x^T over what the weights of an output multiply.

    Float64, (groups, weights, weights), in the order of the weights of an output channel. Transposed convolutions,
    embeddings, and layers whose outputs have more than `MAX_COLUMNS` weights each have none.

    Args:
        network: is run, and not changed.
        split: the rows.
        max_rows: at most so many, evenly spread.
        layers: those wanted, by name; None: all.
    """
    return _means(network, split, max_rows, _patch_moment, layers)


def _means(
    network: FloatModel, split: Split, max_rows: int, moment: Moment, layers: Collection[str] | None
) -> dict[str, torch.Tensor]:
    found: dict[str, tuple[torch.Tensor, int]] = {}
    rows = np.unique(np.linspace(0, split.rows - 1, min(split.rows, max_rows)).astype(int))
    watched = [(name, layer) for name, layer in weighted_layers(network.module) if layers is None or name in layers]
    with _watched(watched, found, moment):
        network.run({name: array[rows] for name, array in split.inputs.items()})
    return {name: total / max(count, 1) for name, (total, count) in found.items()}


@contextmanager
def _watched(
    layers: Sequence[tuple[str, nn.Module]], found: dict[str, tuple[torch.Tensor, int]], moment: Moment
) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(_adder(name, found, moment)) for name, layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(name: str, found: dict[str, tuple[torch.Tensor, int]], moment: Moment) -> Any:  # noqa: ANN401  a hook
    def add(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        seen = moment(layer, arguments[0].detach())
        if seen is None:
            return
        total, count = seen
        before = found.get(name)
        found[name] = (total, count) if before is None else (before[0] + total, before[1] + count)

    return add


def _moment(layer: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The sum over the samples and places of a batch, and how many there were."""
    if isinstance(layer, nn.Embedding):
        return torch.bincount(inputs.flatten(), minlength=layer.num_embeddings).double(), inputs.numel()
    channels_last = inputs if isinstance(layer, nn.Linear) else inputs.movedim(1, -1)
    flat = channels_last.reshape(-1, channels_last.shape[-1])
    return (flat.T @ flat).double(), len(flat)


def _patch_moment(layer: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, int] | None:
    if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or layer.weight[0].numel() > MAX_COLUMNS:
        return None
    if isinstance(layer, nn.Linear):
        total, count = _moment(layer, inputs)
        return total[None], count
    total, count = torch.zeros((1, 1, 1), dtype=torch.float64), 0
    for row in inputs.split(1):  # the patches of many pictures at once would fill the memory
        flat = _patches(layer, row)
        total, count = total + (flat.transpose(1, 2) @ flat).double(), count + flat.shape[1]
    return total, count


def _patches(layer: Any, picture: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  a convolution of any kind
    """The inputs of each place and group, (groups, places, weights of an output channel)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    values = nn.functional.pad(picture, layer._reversed_padding_repeated_twice, mode=mode)  # noqa: SLF001  also of "same"
    for axis, (kernel, stride, dilation) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), start=2
    ):
        values = values.unfold(axis, (kernel - 1) * dilation + 1, stride)[..., ::dilation]
    places = len(layer.kernel_size)
    values = values.unflatten(1, (layer.groups, -1))  # rows, groups, channels, places..., kernel...
    order = (1, 0, *range(3, 3 + places), 2, *range(3 + places, 3 + 2 * places))
    patches: torch.Tensor = values.permute(order).flatten(1, 1 + places).flatten(2)
    return patches
