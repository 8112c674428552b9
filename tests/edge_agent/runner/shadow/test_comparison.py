"""What counts as agreement, for scores, labels and numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_agent.protocol.shadow import ShadowPlan
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from edge_agent.runner.shadow.comparison import Comparison

FLOATS = ModelSignature(
    inputs=(TensorSpec(name="x", shape=(-1, 2)),),
    outputs=(TensorSpec(name="y", shape=(-1, 3)),),
)
LABELS = ModelSignature(inputs=FLOATS.inputs, outputs=(TensorSpec(name="y", datatype=Datatype.INT64, shape=(-1,)),))
SCORES = ShadowPlan(deadline_s=60, scores=True)
NUMBERS = ShadowPlan(deadline_s=60, tolerance=0.1)


def compare(
    active: Any,  # noqa: ANN401  whatever numpy takes
    shadow: Any,  # noqa: ANN401  the same
    plan: ShadowPlan = NUMBERS,
    signature: ModelSignature = FLOATS,
) -> Comparison:
    comparison = Comparison(signature, plan)
    dtype = signature.outputs[0].datatype.numpy_name
    told, found = np.array(active, dtype), np.array(shadow, dtype)
    comparison.add({"y": told}, {"y": found}, rows=len(told), active_ms=1.0, shadow_ms=2.0)
    return comparison


def test_comparison_of_scores_asks_for_the_same_highest_class() -> None:
    report = compare([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]], [[0.3, 0.4, 0.3], [0.4, 0.5, 0.1]], SCORES).report()
    assert (report.samples, report.agreed, report.outputs[0].agreed) == (2, 1, 1)


def test_comparison_of_numbers_measures_them_by_the_active_ones_range_with_zero_in_it() -> None:
    # range 0..100, so 10 may be between them on the mean of a row
    active = [[20, 50, 100], [100, 100, 100]]
    shadow = [[30, 60, 110], [111, 111, 111]]
    output = compare(active, shadow).report().outputs[0]
    assert output.agreed == 1
    assert output.mean_difference == pytest.approx((10 + 11) / 2 / 100)
    assert output.largest_difference == pytest.approx(0.11)


def test_comparison_of_a_single_number_that_is_close_agrees_on_the_first_sample() -> None:
    signature = ModelSignature(inputs=FLOATS.inputs, outputs=(TensorSpec(name="y", shape=(-1, 1)),))
    assert compare([[200.0]], [[205.0]], SCORES, signature).report().agreed == 1
    assert compare([[200.0]], [[150.0]], SCORES, signature).report().agreed == 0


def test_comparison_of_zeros_alone_agrees_only_with_zeros() -> None:
    assert compare([[0, 0, 0]], [[0, 0, 0]]).report().agreed == 1
    report = compare([[0, 0, 0]], [[0, 0, 0.5]]).report()
    assert (report.agreed, report.outputs[0].largest_difference) == (0, 1.0)


def test_comparison_of_labels_asks_for_equal_ones() -> None:
    report = compare([3, 7, 7], [3, 7, 8], signature=LABELS).report()
    assert (report.samples, report.agreed) == (3, 2)
    assert report.outputs[0].mean_difference == 0.0


def test_comparison_counts_a_sample_only_where_every_output_agrees() -> None:
    signature = ModelSignature(inputs=FLOATS.inputs, outputs=(FLOATS.outputs[0], TensorSpec(name="z", shape=(-1, 1))))
    comparison = Comparison(signature, NUMBERS)
    one, other = np.array([[1, 0, 0], [1, 0, 0]], np.float32), np.array([[1, 0, 0], [0, 0, 9]], np.float32)
    high, low = np.array([[9], [9]], np.float32), np.array([[0], [9]], np.float32)
    comparison.add({"y": one, "z": high}, {"y": other, "z": low}, rows=2, active_ms=1, shadow_ms=1)
    report = comparison.report()
    assert [output.agreed for output in report.outputs] == [1, 1]
    assert (report.samples, report.agreed) == (2, 0)


def test_comparison_skips_what_the_active_one_could_not_answer_and_blames_the_shadow_for_the_rest() -> None:
    nan = float("nan")
    skipped = compare([[nan, 0, 0], [1, 0, 0]], [[nan, 0, 0], [1, 0, 0]]).report()
    assert (skipped.samples, skipped.agreed, skipped.errors) == (1, 1, 0)
    failed = compare([[1, 0, 0]], [[nan, 0, 0]]).report()
    assert (failed.samples, failed.errors) == (0, 1)


def test_comparison_that_has_enough_takes_no_more_samples() -> None:
    rows = np.ones((5, 3))
    comparison = compare(rows, rows, ShadowPlan(deadline_s=60, samples=3))
    assert comparison.complete
    assert comparison.report().samples == 3


def test_comparison_of_nothing_reports_zeros() -> None:
    report = Comparison(FLOATS, NUMBERS).report()
    assert (report.samples, report.agreed, report.p95_ms) == (0, 0, 0.0)
    assert report.agreement is None


def test_comparison_reports_both_latencies_of_the_same_requests() -> None:
    comparison = Comparison(FLOATS, NUMBERS)
    row = {"y": np.ones((1, 3), np.float32)}
    for number in range(1, 101):
        comparison.add(row, row, rows=1, active_ms=number, shadow_ms=2 * number)
    report = comparison.report()
    assert report.p50_ms == pytest.approx(2 * report.active_p50_ms)
    assert report.active_p95_ms == pytest.approx(95.05)
