"""Sketches there and back, merged in any order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.protocol.messages import LatencySketch
from edge_agent.protocol.sketch import MergeError, from_wire, merge, new_sketch, quantile_ms, to_wire

values = st.lists(st.floats(0.001, 1e6), min_size=1, max_size=60)


def sketch_of(numbers: list[float]) -> LatencySketch:
    sketch = new_sketch()
    for number in numbers:
        sketch.add(number)
    return to_wire(sketch)


@given(values)
def test_sketch_there_and_back_has_the_same_counts(numbers: list[float]) -> None:
    wire = sketch_of(numbers)
    assert wire.count == len(numbers)
    assert to_wire(from_wire(wire)) == wire


@given(values, values)
def test_merge_in_either_order_counts_every_value_once(left: list[float], right: list[float]) -> None:
    one, two = merge([sketch_of(left), sketch_of(right)]), merge([sketch_of(right), sketch_of(left)])
    assert one.bins == two.bins
    assert one.count == len(left) + len(right)


@given(values)
def test_quantile_is_within_the_accuracy_of_a_value(numbers: list[float]) -> None:
    median = quantile_ms(sketch_of(numbers), 0.5)
    assert median is not None
    assert any(abs(median - number) <= 0.0101 * number for number in numbers)


def test_quantile_of_nothing_is_none() -> None:
    assert quantile_ms(LatencySketch(), 0.5) is None


def test_merge_of_different_accuracies_is_refused() -> None:
    coarse = LatencySketch(relative_accuracy=0.05, bins=(1,))
    with pytest.raises(MergeError):
        merge([sketch_of([1.0]), coarse])
