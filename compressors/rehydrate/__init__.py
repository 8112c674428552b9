"""Rehydration: an exported program becomes a network of ordinary `torch.nn` layers again.

`torch.export` gives a flat graph of `aten` operators. The libraries that prune, train and quantize want layers with
names. So each operator that is a layer becomes that layer, under its name in the source network, with its weights moved
in; what is not known for sure stays a function. See `graph` for the pass, `verify` for the proof.
"""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import fx, nn

from compressors.errors import WeightError
from compressors.rehydrate.call import Call
from compressors.rehydrate.graph import Rehydration

if TYPE_CHECKING:
    from collections.abc import Sequence

M = TypeVar("M", bound=nn.Module)

_OPERATOR = re.compile(r"[%.:](_*[a-z]\w*)")

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


def layer_of(network: nn.Module, said: str) -> str | None:
    """The layer of the source network in which an operator is called that a converter's message names.

    Args:
        network: a rehydrated one; another has no places to tell.
        said: the message; the first operator in it that the network calls counts, then one of the same family, because
            converters speak of what they have taken apart (`_fft_r2c` for `fft_rfft`).
    """
    if not isinstance(network, fx.GraphModule):
        return None
    calls = [(_operator(node), node) for node in network.graph.nodes if node.op == "call_function"]
    words = _OPERATOR.findall(said)
    exact = (node for word in words for name, node in calls if name == word)
    related = (node for word in words for name, node in calls if _family(name) == _family(word))
    node = next(exact, None) or next(related, None)
    return None if node is None else str(node.meta.get("layer", "")) or node.name


def _operator(node: fx.Node) -> str:
    call = Call.of(node)
    return getattr(node.target, "__name__", "") if call is None else call.operator


def _family(name: str) -> str:
    return name.strip("_").partition("_")[0]
