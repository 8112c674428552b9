"""Recurrent layers: `lstm` and `gru` that begin with zeros and give the sequence become `nn.LSTM` and `nn.GRU`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx, nn

from compressors.rehydrate.call import Call, is_first_item, shape_of
from compressors.rehydrate.weighted import META, Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS: dict[str, type[nn.LSTM | nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})


def recurrent(call: Call) -> Layer | None:
    """The layer that a call is; None where its state is used, or given.

    Such a call stays the `aten` operator.
    """
    given, kind = call.arguments, _KINDS.get(call.operator)
    applied, weights = call.input("input"), given.get("params")
    if kind is None or applied is None or not isinstance(weights, list | tuple):
        return None
    if not all(_is_zeros(state) for state in _states(given["hx"])):
        return None
    if not all(is_first_item(user) or not user.users for user in call.node.users):
        return None
    if not all(isinstance(weight, fx.Node) and weight.op == "get_attr" for weight in weights):
        return None
    module = kind(
        shape_of(weights[0])[1],
        shape_of(weights[1])[1],
        num_layers=given["num_layers"],
        bias=given["has_biases"],
        batch_first=given["batch_first"],
        dropout=given["dropout"],
        bidirectional=given["bidirectional"],
        device=META,
    )
    names = [name for names in module._all_weights for name in names]  # noqa: SLF001  in the order of the operator
    if len(names) != len(weights):  # a projection of the state
        return None
    return Layer(module, applied, dict(zip(names, weights, strict=True)), first_of_tuple=True)


def _states(given: Any) -> Sequence[Any]:  # noqa: ANN401  one node, or one for each part of the state
    return given if isinstance(given, list | tuple) else [given]


def _is_zeros(node: Any) -> bool:  # noqa: ANN401  an argument
    call = Call.of(node) if isinstance(node, fx.Node) else None
    return call is not None and call.operator in {"zeros", "new_zeros", "zeros_like"}
