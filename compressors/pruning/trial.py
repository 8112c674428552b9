"""Which couplings a network really allows to prune: each is tried, on a copy.

The dependency graph follows gradients; it cannot see a channel count that is written down in a reshape, a constant for
each channel, or a mean over channels. A network without some channels must answer like the whole one whose readers see
zeros there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from compressors.pruning.coupling import without_channels
from compressors.pruning.gates import gated, inputs_gone, open_gate
from compressors.rehydrate.verify import tensors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compressors.pruning.coupling import Coupling, Examples

RELATIVE, ABSOLUTE = 1e-3, 1e-4  # of float32 sums in another order
_MIXING = nn.LayerNorm | nn.GroupNorm  # their statistics lose a channel, whose zeros would have stayed in them


def allowed(network: nn.Module, examples: Examples, couplings: Sequence[Coupling]) -> list[Coupling]:
    """The couplings that can be pruned.

    Args:
        network: in evaluation mode; not modified.
        examples: real rows, or random ones: with zeros all networks are alike.
        couplings: what the graph says.
    """
    candidates = [coupling for coupling in couplings if coupling.units > 1]
    if _agrees(network, examples, candidates):
        return candidates
    return [coupling for coupling in candidates if _agrees(network, examples, [coupling])]


def _agrees(network: nn.Module, examples: Examples, couplings: Sequence[Coupling]) -> bool:
    gone = {coupling: list(range(0, coupling.units, 2)) for coupling in couplings}
    try:
        with torch.no_grad():
            whole = tensors_of(network(*examples))
            smaller = tensors_of(without_channels(network, examples, gone)(*examples))
            with gated(network, _closed(network, gone)):
                expected = tensors_of(network(*examples))
    except Exception:  # noqa: BLE001  the library and the operators raise whatever they hit: then it can't be pruned
        return False
    if [tensor.shape for tensor in smaller] != [tensor.shape for tensor in whole]:
        return False
    if any(_mixes(network, coupling) for coupling in couplings):
        return True
    return all(torch.allclose(a, b, RELATIVE, ABSOLUTE) for a, b in zip(smaller, expected, strict=True))


def _mixes(network: nn.Module, coupling: Coupling) -> bool:
    return any(isinstance(network.get_submodule(side.layer), _MIXING) for side in coupling.sides)


def _closed(network: nn.Module, gone: dict[Coupling, list[int]]) -> dict[str, torch.Tensor]:
    gates: dict[str, torch.Tensor] = {}
    for name, inputs in inputs_gone(network, gone).items():
        gates[name] = open_gate(network.get_submodule(name), rows=1)
        gates[name][:, inputs] = 0.0
    return gates
