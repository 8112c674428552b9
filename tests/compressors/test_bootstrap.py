from __future__ import annotations

import numpy as np
import pytest

from compressors.bootstrap import Estimate, evaluate, paired_loss
from compressors.contract import Figure
from compressors.metrics import METRICS

ROWS = np.arange(400)


def test_interval_holds_the_value_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    outputs, target = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    first = evaluate(METRICS["top1"], outputs, target, group=np.arange(200), query=None).figure
    again = evaluate(METRICS["top1"], outputs, target, group=np.arange(200), query=None).figure
    assert first == again
    assert first.low is not None
    assert first.high is not None
    assert first.low <= first.value <= first.high


def test_interval_is_wider_when_rows_come_from_few_sources() -> None:
    sources = np.repeat(np.arange(10), 30)
    right = np.repeat(np.array([1, 1, 1, 0, 1, 0, 1, 1, 0, 1]), 30)
    outputs = np.stack([1.0 - right, right], axis=1).astype(float)
    target = np.ones(300, np.int64)
    apart = evaluate(METRICS["top1"], outputs, target, group=np.arange(300), query=None).figure
    grouped = evaluate(METRICS["top1"], outputs, target, group=sources, query=None).figure
    assert _width(grouped.low, grouped.high) > 3 * _width(apart.low, apart.high)


def _width(low: float | None, high: float | None) -> float:
    assert low is not None
    assert high is not None
    return high - low


def estimate(name: str, outputs: np.ndarray, target: np.ndarray) -> Estimate:
    return evaluate(METRICS[name], outputs[:, None], target[:, None], group=ROWS, query=None)


def test_loss_of_a_model_that_answers_alike_is_surely_nothing() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=400)
    model = estimate("r2", target + rng.normal(size=400), target)
    assert paired_loss(METRICS["r2"], model, model) == Figure(value=0.0, low=0.0, high=0.0)


@pytest.mark.parametrize("name", ["r2", "rmse"])
def test_loss_on_the_same_rows_is_far_surer_than_either_metric(name: str) -> None:
    rng = np.random.default_rng(1)
    target, wrong = rng.normal(size=400), rng.normal(size=400)
    before, after = (estimate(name, target + share * wrong, target) for share in (0.5, 0.53))
    loss = paired_loss(METRICS[name], before, after)
    assert loss.low is not None
    assert loss.high is not None
    assert 0 < loss.low < loss.value < loss.high, "worse is positive, whichever way the metric points"
    own = after.figure
    assert _width(loss.low, loss.high) < 0.2 * _width(own.low, own.high)


def test_draws_of_few_rows_keep_the_threshold_of_the_model() -> None:
    logits = np.tile([0.2, 0.4, 0.6, 5.0], 3)[:, None]  # most draws hold a 5, and some do not
    metric = METRICS["accuracy"].for_model(logits)
    found = evaluate(metric, logits, np.ones(12, np.int64), group=np.arange(12), query=None)
    assert set(found.drawn) == {1.0}


def test_draws_without_one_of_the_classes_say_nothing_of_auc() -> None:
    scores, target = np.arange(20.0)[:, None], (np.arange(20) > 18).astype(np.int64)  # a third of the draws miss it
    found = evaluate(METRICS["auc"], scores, target, group=np.arange(20), query=None)
    assert np.isnan(found.drawn).any()
    assert found.figure == Figure(value=1.0, low=1.0, high=1.0), "one half was drawn by nobody"
    assert paired_loss(METRICS["auc"], found, found) == Figure(value=0.0, low=0.0, high=0.0)


def test_rows_of_one_source_have_no_interval() -> None:
    outputs, target = np.arange(20.0)[:, None], np.arange(20.0)[::-1, None]
    found = evaluate(METRICS["mae"], outputs, target, group=np.zeros(20, np.int64), query=None)
    assert found.figure == Figure(value=10.0)
    assert paired_loss(METRICS["mae"], found, found) == Figure(value=0.0)


def sources(name: str, target: np.ndarray, *, group: np.ndarray, query: np.ndarray | None = None) -> int:
    outputs = np.random.default_rng(0).normal(size=len(target))
    return evaluate(METRICS[name], outputs, target, group=group, query=query).sources


def test_what_a_value_rests_on_are_sources_and_of_two_classes_the_rarer() -> None:
    yes, photos = (np.arange(60) % 20 == 0).astype(np.int64), np.arange(60) // 2
    assert sources("mae", yes, group=np.arange(60)) == 60
    assert sources("mae", yes, group=photos) == 30
    assert sources("auc", yes, group=np.arange(60)) == 3
    assert sources("auc", 1 - yes, group=np.arange(60)) == 3
    assert sources("hr@10", yes, group=np.arange(60), query=np.zeros(60, np.int64)) == 1


def test_few_rows_are_drawn_often_and_many_rows_less_often() -> None:
    drawn = {}
    for rows in (100, 5000, 50_000):
        target = np.zeros(rows)
        drawn[rows] = len(evaluate(METRICS["mae"], target, target, group=np.arange(rows), query=None).drawn)
    assert drawn == {100: 2000, 5000: 1000, 50_000: 300}


def test_draw_takes_all_rows_of_a_source_and_keeps_apart_the_queries_of_one_drawn_twice() -> None:
    """One of three queries is a hit; drawn twice it is two of three, and melted it would be one of two."""
    scores = np.array([4.0, 1.0, 2.0, 1.0, 4.0, 2.0, 1.0, 4.0, 2.0])
    target = np.array([1, 0, 0] * 3)
    found = evaluate(METRICS["hr@1"], scores, target, group=np.repeat([7, 3, 5], 3), query=np.repeat([0, 1, 2], 3))
    assert set(np.round(found.drawn * 3, 6)) == {0.0, 1.0, 2.0, 3.0}
