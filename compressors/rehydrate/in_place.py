"""Operators that change their input: which may become ordinary ones, because nobody else sees what they change."""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from compressors.rehydrate.call import Call, is_first_item
from compressors.rehydrate.functions import COPIES, has_public_form
from compressors.rehydrate.plain import PLAIN

# operators whose result is a tensor of its own
_FRESH_NAMES = """
add sub mul div cat linear addmm mm matmul bmm conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d
conv_transpose3d batch_norm layer_norm group_norm relu relu6 hardtanh hardswish hardsigmoid leaky_relu silu mish gelu
sigmoid tanh avg_pool2d max_pool2d adaptive_avg_pool2d embedding
"""
_FRESH = frozenset(_FRESH_NAMES.split())


def changes_in_place(call: Call) -> bool:
    """Whether a call changes its first argument, as the name says by its underscore."""
    return call.operator.endswith("_") and not call.operator.endswith("__")


def may_become_ordinary(call: Call) -> Call | None:
    """The same call without the change in place; None where somebody may see the change, or it has no such form."""
    ordinary = call.operator.removesuffix("_")
    changed = call.node.args[0]
    if not isinstance(changed, fx.Node) or len(changed.users) != 1 or not _is_fresh(changed):
        return None
    return replace(call, operator=ordinary) if ordinary in PLAIN or has_public_form(ordinary) else None


def _is_fresh(node: fx.Node) -> bool:
    call = Call.of(node)
    if call is None:
        made_by = node.args[0] if is_first_item(node) else None
        source = Call.of(made_by) if isinstance(made_by, fx.Node) else None
        return source is not None and source.operator.startswith(("_native", "native"))
    return call.operator.removesuffix("_") in _FRESH


def is_unchanged_constant(node: fx.Node) -> bool:
    """Whether a node is a weight or buffer, or copies one, and no operator changes any of these copies."""
    if any(_changes(user, node) for user in node.users):
        return False
    if node.op == "get_attr":
        return True
    call, source = Call.of(node), node.args[0] if node.args else None
    return (
        call is not None and call.operator in COPIES and isinstance(source, fx.Node) and is_unchanged_constant(source)
    )


def _changes(user: fx.Node, node: fx.Node) -> bool:
    call = Call.of(user)
    if call is None or call.operator == "detach_":
        return False
    return changes_in_place(call) and user.args[0] is node
