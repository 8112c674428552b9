"""What a report says of a variant is what was done to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data.evaluation_rows import Split
from compressors.metrics import METRICS, OutputScale
from compressors.reporting.attributions import attribution_correlation
from compressors.reporting.confidence import calibration_error, probabilities
from compressors.reporting.examine import Answers, Examination
from compressors.reporting.shifts import rows_of_some_groups, shifted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Model = Callable[[Mapping[str, Any]], dict[str, Any]]

ROWS = 400
RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(ROWS, 4)).astype(np.float32)
WEIGHTS = np.array([2.0, -1.0, 0.5, 0.0])


def split(target: Any, inputs: dict[str, Any], query: Any = None) -> Split:  # noqa: ANN401  arrays
    rows = np.arange(len(target))
    return Split(inputs, np.asarray(target), rows, query, rows)


def linear(weights: Any, *, noise: float = 0.0) -> Model:  # noqa: ANN401  an array
    """One number for a row of the table; the same row always gets the same noise."""

    def answer(inputs: Mapping[str, Any]) -> dict[str, Any]:
        table = inputs["table"].astype(np.float64)
        return {"out": (table @ weights + noise * np.sin(1e4 * table.sum(axis=1)))[:, None]}

    return answer


def examined(
    before: Model, after: Model, rows: Split, task: Task, metric: str, labels: tuple[str, ...] = ()
) -> Answers:
    known = METRICS[metric].for_model(before(rows.inputs)["out"])
    return Examination(before, after, rows, task=task, metric=known, labels=labels, seed=0).run()


DECIDED = split((TABLE @ WEIGHTS > 0).astype(np.int64), {"table": TABLE})
NUMBERS = split((TABLE @ WEIGHTS)[:, None], {"table": TABLE})


def test_variant_that_answers_alike_loses_nothing_anywhere() -> None:
    found = examined(linear(WEIGHTS), linear(WEIGHTS), DECIDED, Task.CLASSIFICATION, "accuracy")
    assert found.decision.loss.value == 0.0
    assert found.agreement == 1.0
    assert found.flips.changed == 0
    assert found.attribution_correlation == pytest.approx(1.0)
    assert {shift.loss for shift in found.shifts} == {0.0}
    assert {one.loss for one in found.slices} == {0.0}


def test_variant_that_is_wrong_near_the_threshold_flips_rows_to_wrong() -> None:
    found = examined(linear(WEIGHTS), linear(WEIGHTS, noise=1.0), DECIDED, Task.CLASSIFICATION, "accuracy")
    assert found.flips.changed == found.flips.to_wrong > 0
    assert found.flips.to_right == 0
    assert found.decision.loss.value == pytest.approx(found.flips.changed / ROWS)
    assert found.ranking is not None
    assert found.ranking.name == "auc"
    assert 0 < found.ranking.loss.value < found.decision.loss.value  # the order suffers less than the decisions


def test_probability_that_a_step_of_int8_puts_above_one_is_still_a_probability() -> None:
    def chance(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"out": 1 / (1 + np.exp(-linear(WEIGHTS)(inputs)["out"]))}

    def rounded(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"out": np.rint(chance(inputs)["out"] * 250) / 249}

    found = examined(chance, rounded, DECIDED, Task.CLASSIFICATION, "accuracy")
    assert found.agreement > 0.99
    assert found.flips.changed < 0.01 * ROWS
    assert found.calibration_error is not None
    assert abs(found.calibration_error.loss) < 0.01
    assert {one.loss < 0.05 for one in found.slices} == {True}


def test_slice_that_suffers_comes_first() -> None:
    def blind(inputs: Mapping[str, Any]) -> dict[str, Any]:
        table = inputs["table"].astype(np.float64)
        return {"out": np.where(table[:, 2] > 0.7, 0.0, table @ WEIGHTS)[:, None]}

    found = examined(linear(WEIGHTS), blind, NUMBERS, Task.REGRESSION, "r2")
    assert found.slices[0].name == "table[2]: highest quarter"
    assert found.slices[0].loss > 1.5 * found.slices[1].loss
    assert found.ranking is not None
    assert found.ranking.name == "spearman"
    assert found.flips.to_wrong > 0.1 * ROWS


def test_classes_are_slices_by_their_names() -> None:
    found = examined(linear(WEIGHTS), linear(WEIGHTS), DECIDED, Task.CLASSIFICATION, "top1", ("no", "yes"))
    assert {"class no", "class yes"} <= {one.name for one in found.slices}


def test_ranking_is_examined_without_shifts_of_identifiers() -> None:
    item = np.tile(np.arange(20), 20)
    scores = {"out": lambda inputs: {"out": (inputs["item"] % 7).astype(float)[:, None]}}
    rows = split((item % 7 == 6).astype(float), {"item": item}, np.arange(ROWS) // 20)
    found = examined(scores["out"], scores["out"], rows, Task.RANKING, "hr@5")
    assert found.shifts == ()
    assert found.attribution_correlation is None
    assert found.ranking is not None
    assert found.ranking.name == "auc"


def test_rank_changes_where_a_row_comes_among_the_first_and_not_where_scores_move() -> None:
    score = np.tile(np.arange(20.0), 20)  # of 20 queries; the last row of each is relevant, and first
    rows = split((score == 19).astype(float), {"score": score}, np.arange(ROWS) // 20)

    def ranks(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"out": inputs["score"][:, None]}

    def stretched(inputs: Mapping[str, Any]) -> dict[str, Any]:
        return {"out": np.exp(inputs["score"])[:, None]}

    def upset(inputs: Mapping[str, Any]) -> dict[str, Any]:
        out = inputs["score"].copy()
        if len(out) == ROWS:
            out[19], out[0] = 0.0, 19.0  # of the first query the relevant row falls, another rises
        return {"out": out[:, None]}

    alike = examined(ranks, stretched, rows, Task.RANKING, "hr@1").flips
    assert (alike.rows, alike.changed) == (ROWS, 0)
    for metric in ("hr@1", "auc"):  # where the metric has no K, as many as are relevant
        found = examined(ranks, upset, rows, Task.RANKING, metric).flips
        assert (found.changed, found.to_right, found.to_wrong) == (2, 0, 2)
    assert examined(ranks, stretched, rows, Task.RANKING, "rmse").flips.changed > 0.5 * ROWS


def test_test_split_of_one_class_has_no_metric_of_order() -> None:
    ones = split(np.ones(ROWS, np.int64), {"table": TABLE})
    assert examined(linear(WEIGHTS), linear(WEIGHTS), ones, Task.CLASSIFICATION, "accuracy").ranking is None


def test_rows_that_are_shifted_are_of_groups_drawn_from_all() -> None:
    group = np.repeat(np.arange(100), 10)
    rows = rows_of_some_groups(group, most=256, seed=0)
    assert len(rows) == 250
    names, sizes = np.unique(group[rows], return_counts=True)
    assert set(sizes) == {10}, "whole groups"
    assert names.max() > 60
    assert names.min() < 40
    assert np.array_equal(rows, rows_of_some_groups(group, most=256, seed=0))
    assert not np.array_equal(rows, rows_of_some_groups(group, most=256, seed=1))
    assert len(rows_of_some_groups(np.zeros(1000, np.int64), most=256, seed=0)) == 256
    assert np.array_equal(rows_of_some_groups(group, most=1000, seed=0), np.arange(1000))


def test_attributions_tell_a_model_that_looks_elsewhere() -> None:
    def first(weights: Any) -> Callable[[Mapping[str, Any]], Any]:  # noqa: ANN401  arrays
        return lambda inputs: linear(weights)(inputs)["out"]

    inputs = {"table": TABLE}
    alike = attribution_correlation(first(WEIGHTS), first(WEIGHTS * 1.1), inputs)
    elsewhere = attribution_correlation(first(WEIGHTS), first(WEIGHTS[::-1]), inputs)
    assert alike == pytest.approx(1.0)
    assert elsewhere is not None
    assert elsewhere < 0.3


@pytest.mark.parametrize("channels_last", ["channels first", "channels last"])
def test_attributions_of_pictures_are_of_their_parts(channels_last: str) -> None:
    pictures = RNG.normal(size=(6, 3, 28, 28)).astype(np.float32)
    pictures = pictures.transpose(0, 2, 3, 1) if channels_last == "channels last" else pictures
    area = np.zeros(pictures.shape[1:])
    area[(slice(None), slice(0, 8)) if channels_last == "channels first" else (slice(0, 8),)] = 1.0

    def seen(part: Any) -> Callable[[Mapping[str, Any]], Any]:  # noqa: ANN401  an array
        return lambda inputs: (inputs["picture"] * part).reshape(len(inputs["picture"]), -1).sum(axis=1, keepdims=True)

    same = attribution_correlation(seen(area), seen(area), {"picture": pictures})
    other = attribution_correlation(seen(area), seen(1 - area), {"picture": pictures})
    assert same == pytest.approx(1.0)
    assert other is not None
    assert other < 0.2


def test_shifts_keep_type_and_range_and_blur_only_pictures() -> None:
    names = [name for name, _ in shifted({"table": TABLE}, seed=0)]
    assert names == ["noise of 0.1 standard deviations", "noise of 0.3 standard deviations"]
    pictures = RNG.uniform(size=(4, 3, 16, 16)).astype(np.float32)
    found = dict(shifted({"picture": pictures}, seed=0))
    assert len(found) == 4
    for one in found.values():
        assert one["picture"].dtype == np.float32
        assert one["picture"].min() >= pictures.min()
        assert one["picture"].max() <= pictures.max()
    blurred = np.asarray(found["blur of 2 pixels"]["picture"], np.float64)
    assert blurred.std() < 0.3 * pictures.std()


def test_calibration_error_is_small_for_the_honest_and_large_for_the_boastful() -> None:
    sure = RNG.uniform(0.5, 1.0, 20_000)
    right = RNG.uniform(size=20_000) < sure
    honest = np.stack([sure, 1 - sure], axis=1)
    boastful = np.stack([np.full(20_000, 0.99), np.full(20_000, 0.01)], axis=1)
    target = (~right).astype(int)
    assert calibration_error(honest, target, OutputScale.PROBABILITIES) < 0.02
    assert calibration_error(boastful, target, OutputScale.PROBABILITIES) == pytest.approx(
        0.99 - right.mean(), abs=1e-6
    )


def test_outputs_of_any_kind_become_probabilities() -> None:
    logits = np.array([[2.0, 0.0, -1.0]])
    expected = np.exp(logits) / np.exp(logits).sum()
    by_logits, by_chances = OutputScale.LOGITS, OutputScale.PROBABILITIES
    assert np.allclose(probabilities(logits, by_logits), expected)
    assert np.allclose(probabilities(expected, by_chances), expected)
    assert np.allclose(probabilities(np.array([[0.0], [3.0]]), by_logits), [[0.5, 0.5], [0.0474, 0.9526]], atol=1e-3)
    assert np.allclose(probabilities(np.array([[0.2], [1.004]]), by_chances), [[0.8, 0.2], [0.0, 1.0]])
