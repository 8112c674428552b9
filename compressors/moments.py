"""What the layers of a network see: the second moment of their inputs over some samples."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from compressors.layers import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compressors.data import Split
    from compressors.program import FloatModel

MAX_ROWS = 512  # the moments of a layer's channels are known well before


def input_moments(network: FloatModel, split: Split, *, max_rows: int = MAX_ROWS) -> dict[str, torch.Tensor]:
    """For each layer with weights the mean of x x^T over its inputs, float64, (channels, channels).

    For an embedding it is how often each row is looked up, (rows,). A layer that is never called has none.
    """
    found: dict[str, tuple[torch.Tensor, int]] = {}
    rows = np.unique(np.linspace(0, split.rows - 1, min(split.rows, max_rows)).astype(int))
    with _watched(network.module, found):
        network.run({name: array[rows] for name, array in split.inputs.items()})
    return {name: total / max(count, 1) for name, (total, count) in found.items()}


@contextmanager
def _watched(module: nn.Module, found: dict[str, tuple[torch.Tensor, int]]) -> Iterator[None]:
    handles = [layer.register_forward_pre_hook(_adder(name, found)) for name, layer in weighted_layers(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adder(name: str, found: dict[str, tuple[torch.Tensor, int]]) -> Any:  # noqa: ANN401  a hook
    def add(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        total, count = _moment(layer, arguments[0].detach())
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
