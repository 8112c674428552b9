"""One operator call of an exported graph, read by the names of the operator's schema."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Call:
    """A call of an `aten` operator: its arguments by name, with the schema's defaults filled in."""

    node: fx.Node
    operator: str  # `conv2d`, whichever its overload; an in-place one keeps its underscore
    arguments: dict[str, Any]

    @classmethod
    def of(cls, node: fx.Node) -> Call | None:
        """The call that a node makes; None where it calls no operator of `aten`."""
        target = node.target
        if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):  # noqa: SLF001  has no public name
            return None
        namespace, _, operator = target._schema.name.partition("::")  # noqa: SLF001
        if namespace != "aten":
            return None
        schema = target._schema.arguments  # noqa: SLF001
        named = dict(zip((argument.name for argument in schema), node.args, strict=False)) | dict(node.kwargs)
        return cls(node, operator, {one.name: named.get(one.name, one.default_value) for one in schema})

    def constant(self, name: str) -> fx.Node | None:
        """The weight or buffer that an argument is; None where it is computed or absent."""
        value = self.arguments.get(name)
        return value if isinstance(value, fx.Node) and value.op == "get_attr" else None

    @property
    def first(self) -> Any:  # noqa: ANN401  a node, a list of lengths, or None
        """The first argument, mostly the tensor that the operator is applied to."""
        return self.node.args[0] if self.node.args else None

    def is_absent_or_constant(self, *names: str) -> bool:
        """Whether each of these optional arguments is a weight, a buffer, or not given."""
        return all(self.arguments.get(name) is None or self.constant(name) is not None for name in names)

    def input(self, name: str) -> fx.Node | None:
        """The argument where it is the result of another node."""
        value = self.arguments.get(name)
        return value if isinstance(value, fx.Node) else None


def is_first_item(node: fx.Node) -> bool:
    """Whether a node takes the first of a tuple."""
    return node.target is operator.getitem and node.args[1:] == (0,)


def shape_of(node: object) -> tuple[Any, ...]:
    """The lengths of a node's tensor in the exported program: integers, or symbols where they are free.

    Empty for what is no tensor.
    """
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def module_path(node: fx.Node) -> tuple[str, str]:
    """Name and class of the module of the source network that made this call; empty where it is not known."""
    stack = node.meta.get("nn_module_stack") or {}
    places = [place for place in _places(stack) if "_empty_nn_module_stack" not in place[0]]
    return places[-1] if places else ("", "")


def _places(stack: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for path, kind in stack.values():
        name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
        yield str(path), name.rpartition(".")[2]
