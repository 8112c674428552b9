"""A factor before each input channel of a layer: 0 is a channel that has gone, a derivative says what that costs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from compressors.pruning.coupling import is_depthwise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from compressors.pruning.coupling import Coupling, Side


def readers(network: nn.Module, coupling: Coupling) -> list[Side]:
    """The sides by which the layers behind a coupling read its channels."""
    return [side for side in coupling.sides if side.is_input and not is_depthwise(network.get_submodule(side.layer))]


def inputs_gone(network: nn.Module, removed: Mapping[Coupling, Sequence[int]]) -> dict[str, list[int]]:
    """Which input channels each layer loses where some units of some couplings go."""
    found: dict[str, list[int]] = {}
    for coupling, units in removed.items():
        channels = set(coupling.channels_of(units))
        for side in readers(network, coupling):
            lost = [mine for mine, root in zip(side.channels, side.roots, strict=True) if root in channels]
            if lost:
                found.setdefault(side.layer, []).extend(lost)
    return found


@contextmanager
def gated(network: nn.Module, gates: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """While it lasts, each named layer sees its input times a gate of shape (rows or 1, channels)."""
    handles = [network.get_submodule(name).register_forward_pre_hook(_times(gate)) for name, gate in gates.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _times(gate: torch.Tensor) -> Any:  # noqa: ANN401  a hook
    def apply(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        values = arguments[0]
        before, after = (values.dim() - 2, 0) if isinstance(module, nn.Linear) else (0, values.dim() - 2)
        shaped = gate.reshape(gate.shape[0], *[1] * before, gate.shape[1], *[1] * after)
        return (values * shaped, *arguments[1:])

    return apply


def open_gate(layer: nn.Module, *, rows: int) -> torch.Tensor:
    """Ones for every input channel of a layer."""
    inputs = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    weight = layer.weight
    return torch.ones(rows, int(inputs), dtype=weight.dtype, device=weight.device)  # type: ignore[arg-type]
