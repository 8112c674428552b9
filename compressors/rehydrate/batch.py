"""Make the batch of a program free that was exported for one sample, and wrote its lengths down as numbers.

The network is run on shapes alone, with another batch. Where a reshape comes, the axis of its input that grew shows
where the batch lies, and the reshape's own lengths at one sample show where it goes. That is a guess where a batch of
one leaves no trace; `verify` holds the result against the program.
"""

from __future__ import annotations

import logging
import math
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

if TYPE_CHECKING:
    from collections.abc import Sequence

ALONE = "alone"  # in a node's meta: the shape of its tensor for one sample
BATCH = 7  # a prime that is no usual number of channels
_MADE_FROM_NOTHING = (torch.zeros, torch.ones, torch.full)
_MADE_ALIKE = ("new_zeros", "new_ones", "new_full")
_REFUSALS = (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError)


def free_batch(network: fx.GraphModule, batch: fx.Node) -> None:
    """Let the lengths of reshapes follow the batch, in place; what is not understood stays, for `verify` to refuse.

    Args:
        network: its nodes know their shape for one sample (`ALONE`), its placeholders their tensor (`val`), too.
        batch: the node that holds the number of samples.
    """
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)  # it prints what we leave to `verify`
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        samples = [
            torch.empty((BATCH, *node.meta[ALONE][1:]), dtype=node.meta["val"].dtype)
            for node in network.graph.nodes
            if node.op == "placeholder"
        ]
        try:
            _Freeing(network, batch).run(*samples)
        except _REFUSALS:
            return


class _Freeing(fx.Interpreter):
    """Runs on shapes, and mends each node before it runs."""

    def __init__(self, network: fx.GraphModule, batch: fx.Node) -> None:
        super().__init__(network.eval(), garbage_collect_values=False)
        self._batch = batch

    def run_node(self, n: fx.Node) -> Any:  # noqa: ANN401  whatever the node gives
        alone = n.meta.get(ALONE)
        if n.op == "call_function" and n.target in {torch.reshape, torch.flatten} and alone:
            self._free_reshape(n, alone)
        elif n.op == "call_method" and n.target == "expand" and alone:
            self._free_expand(n)
        elif _is_made(n):
            self._free_made(n, 0 if n.op == "call_function" else 1)
        return super().run_node(n)

    def _grown(self, node: fx.Node) -> int | None:
        """The axis of a tensor that the batch is part of."""
        alone, shape = node.meta.get(ALONE), getattr(self.env.get(node), "shape", ())
        if not alone or len(alone) != len(shape):
            return None
        grown = [axis for axis, (one, many) in enumerate(zip(alone, shape, strict=True)) if many == BATCH * one != one]
        return grown[0] if len(grown) == 1 else None

    def _free_reshape(self, node: fx.Node, after: Sequence[int]) -> None:
        source, given = _arguments(node)[:2]
        axis = self._grown(source)
        if axis is None:
            return
        to = batch_axis_after(source.meta[ALONE], axis, after)
        if node.target is torch.flatten:
            if to == axis < given:
                return
            node.target, given = torch.reshape, after
        lengths = list(given)
        if lengths[to] != -1:
            lengths[to] = self._batch if after[to] == 1 else self._times(node, after[to])
        node.args = (source, lengths)

    def _times(self, before: fx.Node, length: int) -> fx.Node:
        with before.graph.inserting_before(before):
            product = before.graph.call_function(operator.mul, (self._batch, length))
        self.env[product] = self.env[self._batch] * length
        return product

    def _free_expand(self, node: fx.Node) -> None:
        source, given = _arguments(node)[:2]
        lengths, axis = list(given), self._grown(source)
        if axis is not None:
            lengths[axis + len(lengths) - len(source.meta[ALONE])] = -1
        elif len(lengths) > 1 and lengths[0] == 1:
            lengths[0] = self._batch
        node.args = (source, lengths)

    def _free_made(self, node: fx.Node, where: int) -> None:
        lengths = list(_arguments(node)[where])
        if len(lengths) > 1 and lengths[0] == 1:
            lengths[0] = self._batch
            node.args = (*node.args[:where], lengths, *node.args[where + 1 :])


def batch_axis_after(before: Sequence[int], axis: int, after: Sequence[int]) -> int:
    """Where a reshape takes the batch.

    Args:
        before: the shape of its input for one sample.
        axis: that of `before` that the batch is part of.
        after: the shape that it gives for one sample.

    Returns:
        The axis of `after`: one of length 1 where the batch may lie; else, where what follows the batch stays or is
        joined, the axis before it, (time, batch, heads, depth) -> (time * batch, width); else the axis that begins
        where it lay, (time, batch, width) -> (time, batch * heads, depth).
    """
    begins = [math.prod(after[:place]) for place in range(len(after))]
    low, high = math.prod(before[:axis]), math.prod(before[: axis + 1])
    for place, length in enumerate(after):
        if length == 1 and low <= begins[place] <= high:
            return place
    rest = before[axis + 1 :]
    for place in range(max(1, len(after) - len(rest)), len(after)):
        if low > 1 and math.prod(after[place:]) == math.prod(rest):
            return place - 1
    return max(place for place, begin in enumerate(begins) if begin <= low)


def _arguments(node: fx.Node) -> list[Any]:
    return list(node.args)


def _is_made(node: fx.Node) -> bool:
    return (node.op == "call_function" and node.target in _MADE_FROM_NOTHING) or (
        node.op == "call_method" and node.target in _MADE_ALIKE
    )
