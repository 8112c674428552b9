"""Lengths in a graph that an export wrote down as numbers, and that must follow the data again.

Each export holds the number of channels in every `view`, which breaks as soon as channels are pruned. The number of
samples is the work of `batch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compressors.rehydrate.call import shape_of

if TYPE_CHECKING:
    from compressors.rehydrate.call import Call

RESHAPES = frozenset({"view", "reshape", "_unsafe_view"})
_SIZE_FIRST = frozenset({"zeros", "ones", "full"})
_SIZE_SECOND = frozenset({"expand", "new_zeros", "new_ones", "new_full", *RESHAPES})
Lengths = list[Any]  # integers, nodes, and -1


def size_argument(call: Call) -> int | None:
    """Where a call takes a list of lengths among its positional arguments; None where it takes none."""
    if call.operator in _SIZE_FIRST:
        return 0
    is_lengths = (
        call.operator in _SIZE_SECOND and len(call.node.args) > 1 and isinstance(call.node.args[1], list | tuple)
    )
    return 1 if is_lengths else None


def free_lengths(call: Call, lengths: Lengths) -> Lengths:
    """The lengths of a call without what follows from its input; `lengths`: their nodes are those of the new graph."""
    return _without_known(call, lengths) if call.operator in RESHAPES else lengths


def _without_known(call: Call, lengths: Lengths) -> Lengths:
    """Let the one length that follows from the others be -1, so that it follows the number of channels."""
    before, after = shape_of(call.first), shape_of(call.node)
    if not before or not after or len(after) != len(lengths):
        return lengths
    start = 0
    while start < min(len(before), len(after)) and _same(before[start], after[start]):
        start += 1
    stop = 0
    while stop < min(len(before), len(after)) - start and _same(before[-1 - stop], after[-1 - stop]):
        stop += 1
    changed = range(start, len(after) - stop)
    if not changed or any(isinstance(length, int) and length < 0 for length in lengths):
        return lengths
    last = changed[-1]
    return [*lengths[:last], -1, *lengths[last + 1 :]]


def _same(one: object, other: object) -> bool:
    """Whether two lengths are equal for sure; comparing symbols would write a guard."""
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    return type(one) is type(other) and str(one) == str(other)


def flattened_from(call: Call) -> int | None:
    """The axis from which a reshape flattens all others into the last; None where it does something else."""
    if call.operator not in RESHAPES:
        return None
    before, after = shape_of(call.first), shape_of(call.node)
    axis = len(after) - 1
    if axis < 1 or len(before) <= len(after):
        return None
    return axis if all(_same(a, b) for a, b in zip(before[:axis], after[:axis], strict=True)) else None
