"""Bias correction: rounding shifts the mean of a layer's outputs, and its bias takes the shift back.

The rounded network runs once over calibration rows; each layer is corrected as soon as it has answered, so that the
next one sees what it will see.
Source: Nagel et al. 2019, arXiv:1906.04721 (empirical form).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressors.network.layers import weighted_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import fx

    from compressors.data.evaluation_rows import Split
    from compressors.inputs.program import FloatModel

    Hook = Callable[[nn.Module, tuple[Any, ...], torch.Tensor], torch.Tensor | None]


def shifts_of(folded: FloatModel, rounding: fx.GraphModule, rows: Split) -> dict[str, torch.Tensor]:
    """What must be added to the bias of each layer, float32, (channels,).

    Args:
        folded: the float network.
        rounding: the same with rounded weights and activations; not changed.
        rows: calibration rows; the rounded network holds the activations of all of them, layer by layer.
    """
    means: dict[str, torch.Tensor] = {}
    shifts: dict[str, torch.Tensor] = {}
    _run(folded, folded.module, rows, lambda name: _noting(name, means))
    _run(folded, rounding, rows, lambda name: _correcting(name, means, shifts))
    return shifts


def add_to_biases(network: fx.GraphModule, shifts: Mapping[str, torch.Tensor]) -> None:
    """Correct a network in place; a layer without a bias gets one."""
    for name, shift in shifts.items():
        layer: Any = network.get_submodule(name)
        before = torch.zeros_like(shift) if layer.bias is None else layer.bias.detach()
        layer.bias = nn.Parameter(before + shift)


def _run(network: FloatModel, module: nn.Module, rows: Split, hook: Callable[[str], Hook]) -> None:
    handles = [
        layer.register_forward_hook(hook(name))
        for name, layer in weighted_layers(module)
        if not isinstance(layer, nn.Embedding)
    ]
    try:
        replace(network, module=module).run(rows.inputs, batch=rows.rows)
    finally:
        for handle in handles:
            handle.remove()


def _noting(name: str, means: dict[str, torch.Tensor]) -> Hook:
    def note(layer: nn.Module, _inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        means[name] = _mean(layer, output)

    return note


def _correcting(name: str, means: Mapping[str, torch.Tensor], shifts: dict[str, torch.Tensor]) -> Hook:
    def correct(layer: nn.Module, _inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        shifts[name] = means[name] - _mean(layer, output)
        channels_last = isinstance(layer, nn.Linear)
        places = 0 if channels_last else output.dim() - 2
        return output + shifts[name].reshape(-1, *[1] * places)

    return correct


def _mean(layer: nn.Module, output: torch.Tensor) -> torch.Tensor:
    """Of each channel; a layer that is called twice is corrected by its last call."""
    return output.flatten(0, -2).mean(0) if isinstance(layer, nn.Linear) else output.transpose(0, 1).flatten(1).mean(1)
