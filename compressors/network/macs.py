"""Multiply-accumulates of a network for one sample, layer by layer; counted as `tflite_file` counts those of a file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressors.network.layers import weighted_layers

if TYPE_CHECKING:
    from compressors.inputs.program import FloatModel


def layer_macs(network: FloatModel) -> dict[str, int]:
    """The multiply-accumulates of each convolution and linear layer, by its name, in the order of execution."""
    found: dict[str, int] = {}
    handles = [
        layer.register_forward_hook(_counter(name, found))
        for name, layer in weighted_layers(network.module)
        if not isinstance(layer, nn.Embedding)
    ]
    try:
        with torch.no_grad():
            network.module(*network.examples())
    finally:
        for handle in handles:
            handle.remove()
    return found


def _counter(name: str, found: dict[str, int]) -> Any:  # noqa: ANN401  a hook
    def count(layer: Any, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:  # noqa: ANN401
        if isinstance(layer, nn.Linear):
            macs = output.numel() * layer.in_features
        else:
            places = arguments[0] if layer.transposed else output
            macs = places.numel() * math.prod(layer.weight.shape[1:])
        found[name] = found.get(name, 0) + macs // output.shape[0]

    return count
