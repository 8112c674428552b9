"""Which trials no other trial beats. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

T = TypeVar("T")


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one is nowhere worse than the other, and somewhere better; less is better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def pareto_front(items: Iterable[T], objectives: Callable[[T], Sequence[float]]) -> list[T]:
    """The items that no other dominates, in their order; of equal ones the first."""
    front: list[T] = []
    for item in items:
        values = objectives(item)
        if any(dominates(objectives(kept), values) or tuple(objectives(kept)) == tuple(values) for kept in front):
            continue
        front = [kept for kept in front if not dominates(values, objectives(kept))]
        front.append(item)
    return front
