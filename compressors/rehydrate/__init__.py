"""Rehydration: an exported program becomes a network of ordinary `torch.nn` layers again.

`torch.export` gives a flat graph of `aten` operators. The libraries that prune, train and quantize want layers with
names. So each operator that is a layer becomes that layer, under its name in the source network, with its weights moved
in; what is not known for sure stays a function. See `graph` for the pass, `verify` for the proof.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from compressors.errors import WeightError
from compressors.rehydrate.graph import Rehydration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import fx

M = TypeVar("M", bound=nn.Module)

__all__ = ["check_weights", "clone", "layer_of", "rehydrate"]


def rehydrate(exported: fx.GraphModule, inputs: Sequence[str]) -> fx.GraphModule:
    """The network of an exported program, as layers, in evaluation mode and with a free batch.

    Args:
        exported: `program.module()`; the result shares its weights.
        inputs: the names of its tensors, `program.graph_signature.user_inputs`.

    Returns:
        A module that takes the tensors by position and gives one tensor, or a tuple where there are several.

    Raises:
        SignatureError: it was exported in training mode, or takes something that is no tensor.
        WeightError: a weight is NaN or infinite.
    """
    check_weights(exported)
    return Rehydration(exported, inputs).run()


def check_weights(module: nn.Module) -> None:
    """Whether every weight is a number.

    Raises:
        WeightError: one is not; the sentence names it.
    """
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        wrong = int((~torch.isfinite(tensor)).sum()) if tensor.is_floating_point() else 0
        if wrong:
            raise WeightError(f"{name} holds {wrong} values that are NaN or infinite: train the model again")


def clone(module: M) -> M:
    """A copy with weights of its own, for a step to change; what shares a weight goes on sharing it."""
    return copy.deepcopy(module)


def layer_of(module: fx.GraphModule, operator: str) -> str | None:
    """The layer of the source network in which an operator is called, by a part of its name (`aten.fft`)."""
    for node in module.graph.nodes:
        if node.op == "call_function" and operator in str(node.target):
            return str(node.meta.get("layer", "")) or node.name
    return None
