"""Latency sketches: the wire form to and from the library that does the arithmetic (DDSketch)."""

# ruff: noqa: SLF001  the library keeps its store, minimum and maximum private and has no other way to read them
from __future__ import annotations

from typing import TYPE_CHECKING

from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import CollapsingLowestDenseStore

from edge_agent.protocol.messages import LatencySketch

if TYPE_CHECKING:
    from collections.abc import Iterable

RELATIVE_ACCURACY = 0.01
BIN_LIMIT = 2048  # 1 % accuracy needs 1,400 bins from 1 us to 20 minutes


class MergeError(ValueError):
    """Sketches of different accuracy have no common bins."""


def new_sketch(relative_accuracy: float = RELATIVE_ACCURACY) -> BaseDDSketch:
    """An empty sketch of milliseconds."""
    return BaseDDSketch(
        mapping=LogarithmicMapping(relative_accuracy),
        store=CollapsingLowestDenseStore(BIN_LIMIT),
        negative_store=CollapsingLowestDenseStore(1),
        zero_count=0.0,
    )


def to_wire(sketch: BaseDDSketch, *, relative_accuracy: float = RELATIVE_ACCURACY) -> LatencySketch:
    """The wire form of a sketch; empty bins at both ends are left out."""
    store = sketch._store
    filled = [i for i, count in enumerate(store.bins) if count]
    total = int(sketch._zero_count) + sum(int(store.bins[i]) for i in filled)
    if total == 0:
        return LatencySketch(relative_accuracy=relative_accuracy)
    first, last = (filled[0], filled[-1]) if filled else (0, -1)
    return LatencySketch(
        relative_accuracy=relative_accuracy,
        zero_count=int(sketch._zero_count),
        offset=store.offset + first if filled else 0,
        bins=tuple(int(count) for count in store.bins[first : last + 1]),
        min_ms=max(0.0, sketch._min),
        max_ms=max(0.0, sketch._max),
        sum_ms=max(0.0, sketch.sum),
    )


def from_wire(wire: LatencySketch) -> BaseDDSketch:
    """A sketch that can be asked for quantiles and merged with others."""
    sketch = new_sketch(wire.relative_accuracy)
    for i, count in enumerate(wire.bins):
        if count:
            sketch._store.add(wire.offset + i, float(count))
    sketch._zero_count = float(wire.zero_count)
    sketch._count = float(wire.count)
    sketch._sum = wire.sum_ms
    if wire.count:
        sketch._min, sketch._max = wire.min_ms, wire.max_ms
    return sketch


def merge(wires: Iterable[LatencySketch]) -> LatencySketch:
    """The sketch of all values of some sketches; order does not matter.

    Raises:
        MergeError: their accuracies differ.
    """
    total: BaseDDSketch | None = None
    accuracy = RELATIVE_ACCURACY
    for wire in wires:
        if not wire.count:
            continue
        if total is None:
            total, accuracy = from_wire(wire), wire.relative_accuracy
            continue
        if wire.relative_accuracy != accuracy:
            raise MergeError(f"a sketch has accuracy {wire.relative_accuracy}, the others {accuracy}")
        total.merge(from_wire(wire))
    return LatencySketch() if total is None else to_wire(total, relative_accuracy=accuracy)


def quantile_ms(wire: LatencySketch, q: float) -> float | None:
    """The q-quantile in milliseconds, within the sketch's relative accuracy; None when it is empty."""
    if not wire.count:
        return None
    value = from_wire(wire).get_quantile_value(q)
    return None if value is None else float(value)
