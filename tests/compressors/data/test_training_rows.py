"""Rows of `--train`: which are refused, which are left out because the report must not know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows, training_rows
from compressors.errors import DataError
from edge_agent.protocol.signature import ModelSignature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 60
CLASSIFIER = ModelSignature(
    inputs=(TensorSpec(name="x", shape=(-1, 4)),), outputs=(TensorSpec(name="output_0", shape=(-1, 3)),)
)
PRICE = ModelSignature(
    inputs=(TensorSpec(name="x", shape=(-1, 4)),), outputs=(TensorSpec(name="output_0", shape=(-1, 2)),)
)


def rows(count: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def evaluation_of(tmp_path: Path, **more: Any) -> evaluation_rows.EvaluationData:  # noqa: ANN401  arrays
    path = tmp_path / "eval.npz"
    np.savez(path, x=rows(ROWS, seed=1), target=np.arange(ROWS) % 3, **more)
    return evaluation_rows.load(path, CLASSIFIER, Task.CLASSIFICATION)


def loaded(
    tmp_path: Path,
    evaluation: evaluation_rows.EvaluationData,
    *,
    task: Task = Task.CLASSIFICATION,
    signature: ModelSignature = CLASSIFIER,
    **arrays: Any,  # noqa: ANN401
) -> training_rows.TrainingRows:
    path = tmp_path / "train.npz"
    np.savez(path, **arrays)
    return training_rows.load(path, signature, task, evaluation)


def test_training_rows_are_read_with_their_labels(tmp_path: Path) -> None:
    x, target = rows(20, seed=2), np.arange(20) % 3
    found = loaded(tmp_path, evaluation_of(tmp_path), x=x, target=target)
    assert np.array_equal(found.split.inputs["x"], x)
    assert np.array_equal(found.split.target, target)
    assert (found.counts.rows, found.counts.labelled, found.counts.left_out) == (20, 20, 0)


def test_rows_of_the_selection_and_test_split_are_left_out_and_counted(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path)
    x = np.concatenate([rows(20, seed=2), rows(ROWS, seed=1)])
    found = loaded(tmp_path, evaluation, x=x, target=np.arange(len(x)) % 3)
    assert found.counts.left_out == evaluation.selection.rows + evaluation.test.rows
    assert found.counts.rows == 20 + evaluation.calibration.rows
    hidden = {row.tobytes() for split in (evaluation.selection, evaluation.test) for row in split.inputs["x"]}
    assert not hidden & {row.tobytes() for row in found.split.inputs["x"]}


def test_rows_of_a_group_of_the_test_split_are_left_out(tmp_path: Path) -> None:
    photos = np.array([f"photo-{number // 4}" for number in range(ROWS)])
    evaluation = evaluation_of(tmp_path, group=photos)
    hidden = set(photos[evaluation.test.places]) | set(photos[evaluation.selection.places])
    group = np.array([*sorted(hidden)[:3], *["photo-new"] * 10])
    found = loaded(tmp_path, evaluation, x=rows(13, seed=2), target=np.arange(13) % 3, group=group)
    assert found.counts.left_out == 3
    assert found.split.places.tolist() == list(range(3, 13))


@pytest.mark.parametrize("how", ["minus-one", "nan", "missing"])
def test_classes_that_are_not_known_are_unlabelled(tmp_path: Path, how: str) -> None:
    target = np.arange(20) % 3
    given: dict[str, Any] = {
        "minus-one": np.where(target == 2, -1, target),
        "nan": np.where(target == 2, np.nan, target),
    }
    found = loaded(
        tmp_path, evaluation_of(tmp_path), x=rows(20, seed=2), **({} if how == "missing" else {"target": given[how]})
    )
    assert found.split.target.dtype == np.int64
    assert found.counts.labelled == (0 if how == "missing" else 14)
    assert ((found.split.target == -1) == ((target == 2) | (how == "missing"))).all()


def test_numbers_that_are_not_known_are_unlabelled(tmp_path: Path) -> None:
    target = np.ones((20, 2))
    target[3, 1] = np.nan
    found = loaded(
        tmp_path,
        evaluation_of(tmp_path),
        task=Task.REGRESSION,
        signature=PRICE,
        x=rows(20, seed=2),
        target=target,
    )
    assert found.counts.labelled == 19
    assert np.isnan(found.split.target[3]).all()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"target": np.zeros(5, int)}, "have no array 'x'; they need x"),
        ({"x": rows(5, seed=2), "split": np.zeros(5)}, "an array 'split'; known are group, labels, query, target, x"),
        ({"x": rows(5, seed=2), "target": np.zeros(4, int)}, "x has 5 rows, but target has 4"),
        ({"x": rows(0, seed=2)}, "the training data have no rows"),
        ({"x": np.full((5, 4), np.nan, np.float32)}, "x holds 20 values that are NaN"),
        ({"x": rows(5, seed=2), "target": np.array([0, 1, 7, -1, 0])}, "target is 7 in row 2"),
        ({"x": rows(5, seed=2), "target": np.array([0, 1, -2, -1, 0])}, "target is -2 in row 2"),
        ({"x": rows(5, seed=2), "target": np.array(["a"] * 5)}, "must be numbers"),
        ({"x": rows(ROWS, seed=1)[-5:], "group": np.zeros(4)}, "x has 5 rows, but group has 4"),
    ],
    ids=["no-input", "unknown", "rows", "empty", "nan", "class", "negative", "text", "group"],
)
def test_training_data_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        loaded(tmp_path, evaluation_of(tmp_path), **arrays)


def test_training_data_that_are_all_held_back_are_refused(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path)
    with pytest.raises(
        DataError, match=r"all 5 training rows, or their groups, are in the selection or test split too"
    ):
        loaded(tmp_path, evaluation, x=evaluation.test.inputs["x"][:5], target=evaluation.test.target[:5])
