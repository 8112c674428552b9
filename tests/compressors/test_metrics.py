from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from compressors.contract import Task
from compressors.errors import MetricError
from compressors.metrics import METRICS, OutputScale, agreement, decisions, metric_for, value_of


def score(name: str, outputs: object, target: object, *, query: object = None) -> float:
    rows = np.asarray(outputs, np.float64)
    lists = None if query is None else np.asarray(query, np.int64)
    return value_of(METRICS[name].for_model(rows), rows, np.asarray(target), query=lists)


@pytest.mark.parametrize(
    ("name", "outputs", "target", "expected"),
    [
        pytest.param("top1", [[1, 2], [3, 0], [0, 1]], [1, 0, 0], 2 / 3, id="top1"),
        pytest.param("top1", [[-1.0], [2.0], [3.0]], [0, 1, 0], 2 / 3, id="top1-of-one-logit"),
        pytest.param("accuracy", [[-1.0], [0.3], [-2.0]], [0, 1, 1], 2 / 3, id="accuracy-of-logits"),
        pytest.param("accuracy", [[0.1], [0.7], [0.4]], [0, 1, 0], 1.0, id="accuracy-of-probabilities"),
        pytest.param("rmse", [[1.0], [3.0]], [[1.0], [1.0]], math.sqrt(2), id="rmse"),
        pytest.param("mae", [[1.0], [3.0]], [[1.0], [1.0]], 1.0, id="mae"),
        pytest.param("r2", [[1.0], [2.0], [3.0]], [[1.0], [2.0], [3.0]], 1.0, id="r2-perfect"),
        pytest.param("r2", [[2.0], [2.0], [2.0]], [[1.0], [2.0], [3.0]], 0.0, id="r2-of-the-mean"),
        pytest.param("r2", [[2.0], [2.0]], [[5.0], [5.0]], 0.0, id="r2-of-a-constant-target"),
        pytest.param("auc", [[0.1], [0.4], [0.35], [0.8]], [0, 0, 1, 1], 0.75, id="auc"),
        pytest.param("auc", [[1.0], [1.0], [1.0]], [0, 1, 1], 0.5, id="auc-of-ties"),
        pytest.param("auc", [[3.0, 1.0], [1.0, 3.0]], [0, 1], 1.0, id="auc-of-two-logits"),
    ],
)
def test_metric_on_a_case_done_by_hand_agrees(
    name: str, outputs: list[list[float]], target: list[float], expected: float
) -> None:
    assert score(name, outputs, target) == pytest.approx(expected)


def test_auc_of_one_class_is_no_number() -> None:
    with pytest.raises(MetricError, match="auc needs rows of both classes"):
        score("auc", [[1.0], [2.0]], [1, 1])


def test_rmse_for_ranking_compares_row_with_row() -> None:
    assert score("rmse", [[1.0], [2.0], [4.0]], [1.0, 2.0, 1.0], query=[0, 0, 1]) == pytest.approx(math.sqrt(3))


def test_hit_rate_counts_queries_with_a_relevant_item_among_the_first() -> None:
    outputs = [[0.9], [0.1], [0.2], [0.3], [0.8]]
    assert score("hr@1", outputs, [1, 0, 1, 0, 0], query=[0, 0, 1, 1, 1]) == 0.5
    assert score("hr@5", outputs, [1, 0, 1, 0, 0], query=[0, 0, 1, 1, 1]) == 1.0


def test_hit_rate_of_a_model_that_says_the_same_of_all_is_nothing() -> None:
    query = np.repeat(np.arange(5), 20)
    target = (np.arange(100) % 20 == 0).astype(float)  # the relevant item is the first row of each query
    assert score("hr@10", np.zeros((100, 1)), target, query=query) == 0.0


def test_hit_rate_without_query_says_what_the_data_lack() -> None:
    with pytest.raises(MetricError, match="`query`"):
        score("hr@10", [[1.0]], [1])


@pytest.mark.parametrize(
    ("name", "task", "says"),
    [
        ("f1", Task.CLASSIFICATION, "there is no metric 'f1'; for classification there are accuracy, auc, mrr, top1"),
        ("rmse", Task.CLASSIFICATION, "does not fit classification"),
        ("top1", Task.REGRESSION, "there are mae, r2, rmse"),
        ("r2", Task.RANKING, "does not fit ranking"),
    ],
)
def test_metric_that_does_not_exist_or_fit_is_refused_with_those_that_do(name: str, task: Task, says: str) -> None:
    with pytest.raises(MetricError, match=says):
        metric_for(name, task)


def test_metric_for_ignores_capitals() -> None:
    assert metric_for("HR@10", Task.RANKING).name == "hr@10"


def test_loss_points_the_same_way_for_every_metric() -> None:
    assert METRICS["top1"].loss_against(0.9, 0.8) == pytest.approx(0.1)
    assert METRICS["rmse"].loss_against(1.0, 1.2) == pytest.approx(0.2)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float64, (12, 4), elements=st.floats(-100, 100)), st.integers(0, 2**32 - 1))
def test_top1_does_not_depend_on_the_order_of_rows(outputs: np.ndarray, seed: int) -> None:
    target = np.arange(12) % 4
    order = np.random.default_rng(seed).permutation(12)
    assert score("top1", outputs, target) == score("top1", outputs[order], target[order])


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=30).filter(
        lambda rows: len({positive for _, positive in rows}) == 2
    )
)
def test_auc_is_the_share_of_pairs_in_the_right_order(rows: list[tuple[int, bool]]) -> None:
    positives = [value for value, positive in rows if positive]
    negatives = [value for value, positive in rows if not positive]
    pairs = [(p > n) + 0.5 * (p == n) for p in positives for n in negatives]
    measured = score("auc", [[float(value)] for value, _ in rows], [int(positive) for _, positive in rows])
    assert measured == pytest.approx(sum(pairs) / len(pairs))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3), st.booleans()), min_size=1, max_size=30))
def test_hit_rate_agrees_with_a_plain_loop(rows: list[tuple[int, int, bool]]) -> None:
    hits = []
    for number in {query for query, _, _ in rows}:
        items = sorted((-value, relevant) for query, value, relevant in rows if query == number)
        hits.append(any(relevant for _, relevant in items[:5]))
    outputs = [[float(value)] for _, value, _ in rows]
    measured = score("hr@5", outputs, [int(r) for _, _, r in rows], query=[q for q, _, _ in rows])
    assert measured == pytest.approx(sum(hits) / len(hits))


def test_agreement_counts_equal_decisions_and_explained_variance() -> None:
    ours, theirs = np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.0, 3.0], [0.0, 1.0]])
    logits = OutputScale.LOGITS
    assert agreement(Task.CLASSIFICATION, ours, theirs, logits).value == 0.5
    assert agreement(Task.REGRESSION, theirs, theirs, logits).value == 1.0
    assert agreement(Task.CLASSIFICATION, np.array([[0.2], [-1.0]]), np.array([[0.4], [3.0]]), logits).value == 0.5


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        pytest.param([[0.1], [0.9]], OutputScale.PROBABILITIES, id="a-chance"),
        pytest.param([[0.1], [1.2]], OutputScale.LOGITS, id="a-logit"),
        pytest.param([[0.1, 0.9], [0.5, 0.5]], OutputScale.PROBABILITIES, id="chances-of-classes"),
        pytest.param([[0.1, 0.9], [0.5, 0.7]], OutputScale.LOGITS, id="numbers-that-add-up-to-more"),
    ],
)
def test_scale_of_outputs_is_told_by_their_range_and_sum(outputs: list[list[float]], expected: OutputScale) -> None:
    assert OutputScale.of(np.array(outputs)) is expected


def test_threshold_is_the_model_s_and_not_that_of_the_rows_at_hand() -> None:
    logits = METRICS["accuracy"].for_model(np.array([[-2.0], [0.3], [4.0]]))
    few = np.array([[0.3], [0.4]])  # they might be probabilities
    assert decisions(few, logits.scale).tolist() == [1, 1]
    assert value_of(logits, few, np.array([1, 1]), query=None) == 1.0
    chances = METRICS["accuracy"].for_model(np.array([[0.1], [0.8]]))
    rounded = np.array([[1.004], [0.3]])  # int8 steps do not end at 1
    assert decisions(rounded, chances.scale).tolist() == [1, 0]
    assert agreement(Task.CLASSIFICATION, rounded, np.array([[0.99], [0.3]]), chances.scale).value == 1.0
