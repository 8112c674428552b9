from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressors.contract import Task
from compressors.data.evaluation_rows import MIN_ROWS, SPLITS, load
from compressors.errors import DataError
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 100
CLASSIFIER = ModelSignature(
    inputs=(TensorSpec(name="x", shape=(-1, 4)),), outputs=(TensorSpec(name="output_0", shape=(-1, 3)),)
)
PRICE = ModelSignature(
    inputs=(TensorSpec(name="x", shape=(-1, 4)),), outputs=(TensorSpec(name="output_0", shape=(-1, 1)),)
)
RANKER = ModelSignature(
    inputs=(
        TensorSpec(name="user", datatype=Datatype.INT32, shape=(-1,)),
        TensorSpec(name="query", datatype=Datatype.INT64, shape=(-1,)),
    ),
    outputs=(TensorSpec(name="output_0", shape=(-1, 1)),),
)


def arrays(**changes: Any) -> dict[str, Any]:  # noqa: ANN401  what a user might save
    good = {"x": np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4), "target": np.arange(ROWS) % 3}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def saved(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "eval.npz"
    np.savez(path, **content)
    return path


def with_value(value: float, *, row: int) -> np.ndarray:
    x = np.zeros((ROWS, 4), np.float32)
    x[row, 2] = value
    return x


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"x": None}, "no array 'x'; they need x and target", id="missing-input"),
        pytest.param({"target": None}, "no array 'target'", id="missing-target"),
        pytest.param({"y": np.zeros(ROWS)}, "an array 'y' that the model does not take; it takes x", id="extra"),
        pytest.param({"x": np.zeros((ROWS, 5), np.float32)}, r"samples of the shape \(5,\).*takes \(4,\)", id="shape"),
        pytest.param({"x": np.zeros(ROWS, np.float32)}, r"samples of the shape \(\)", id="rank"),
        pytest.param({"x": np.zeros((ROWS, 4), "U3")}, "x is <U3, the model takes float32", id="text"),
        pytest.param({"x": np.zeros((ROWS, 4), complex)}, "x is complex128", id="complex"),
        pytest.param({"x": np.zeros((ROWS - 1, 4), np.float32)}, "target has 100 rows, but x has 99", id="rows"),
        pytest.param({"group": np.zeros(3)}, "target has 100 rows, but group has 3", id="group-rows"),
        pytest.param({"x": np.float32(1), "target": np.int64(0)}, "no rows", id="scalars"),
        pytest.param(
            {"x": np.zeros((0, 4), np.float32), "target": np.zeros(0, int)}, "the data have no rows", id="empty"
        ),
        pytest.param({"x": with_value(np.nan, row=7)}, "x holds 1 values that are NaN or infinite.*row 7", id="nan"),
        pytest.param({"x": with_value(-np.inf, row=3)}, "the first in row 3", id="infinity"),
        pytest.param({"x": np.full((ROWS, 4), 1e300)}, "NaN or infinite", id="too-large-for-float32"),
        pytest.param({"target": np.arange(ROWS) % 4}, "target is 3 in row 3.*classes 0 to 2", id="label-too-high"),
        pytest.param({"target": np.full(ROWS, -1)}, "target is -1 in row 0", id="label-negative"),
        pytest.param({"target": np.full(ROWS, 0.5)}, "0.5, which is no class number", id="label-broken"),
        pytest.param({"target": np.full(ROWS, np.nan)}, "target holds 100 values that are NaN", id="label-nan"),
        pytest.param({"target": np.full(ROWS, "cat")}, "must be numbers", id="label-text"),
        pytest.param({"target": np.zeros((ROWS, 2), int)}, "target has 2 values a row", id="target-shape"),
        pytest.param({"split": np.full(ROWS, "train")}, "split holds 'train'; the splits are", id="split-unknown"),
        pytest.param(
            {"split": np.full(ROWS, "test")}, f"calibration split has 0 rows, at least {MIN_ROWS}", id="split-empty"
        ),
        pytest.param({"labels": np.array(["a", "b"])}, "names 2 classes, but the model knows 3", id="labels-count"),
        pytest.param({"labels": np.array("a")}, r"labels must be a list of names.*shape \(\)", id="labels-scalar"),
        pytest.param({"group": np.zeros(ROWS)}, "all rows are of 1 group, .* at least 3 sources", id="one-group"),
        pytest.param({"target": np.full(ROWS, 1e300)}, r"target is 1e\+300 in row 0", id="label-huge"),
        pytest.param({"target": np.ones(ROWS)}, "target is 1 in all 30 rows of the selection split", id="one-class"),
        pytest.param(
            {"split": np.array([SPLITS[i % 3] for i in range(ROWS)])},
            "2 in all 33 rows of the test split|1 in all 33",
            id="one-class-test",
        ),
        pytest.param({"group": np.zeros((ROWS, 2))}, "one value a row", id="group-shape"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_one_sentence(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        load(saved(tmp_path, arrays(**changes)), CLASSIFIER, Task.CLASSIFICATION)
    assert "\n" not in str(caught.value)


def test_object_array_is_refused_and_not_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return open, (str(tmp_path / "executed"), "w")

    bomb = np.empty(ROWS, object)
    bomb[0] = Bomb()
    path = saved(tmp_path, arrays(group=bomb))
    with pytest.raises(DataError, match="an array of Python objects"):
        load(path, CLASSIFIER, Task.CLASSIFICATION)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04.", b"a,b\n1,2\n"])
def test_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "eval.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"np\.savez"):
        load(path, CLASSIFIER, Task.CLASSIFICATION)


def test_array_that_claims_to_be_larger_than_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "eval.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 4)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(DataError):
        load(path, CLASSIFIER, Task.CLASSIFICATION)


@pytest.mark.parametrize("content", [b"", b"no array at all", b"PK\x03\x04"])
def test_member_that_is_no_array_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = saved(tmp_path, arrays(x=None))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x.npy", content)
    with pytest.raises(DataError, match="a file 'x' that is no numpy array"):
        load(path, CLASSIFIER, Task.CLASSIFICATION)


def test_target_of_the_wrong_width_for_regression_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays(target=np.zeros((ROWS, 3))))
    with pytest.raises(DataError, match="target has 3 values a row, the model gives 1"):
        load(path, PRICE, Task.REGRESSION)


def test_integers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    ids = np.full(ROWS, 1 << 40)
    path = saved(tmp_path, {"user": ids, "query": ids, "target": ids % 2})
    with pytest.raises(DataError, match="user holds values that int32 can't hold"):
        load(path, RANKER, Task.RANKING)


def test_input_that_is_called_like_an_extra_is_an_input(tmp_path: Path) -> None:
    ids = np.arange(ROWS)
    path = saved(tmp_path, {"user": ids, "query": ids, "target": ids % 2})
    data = load(path, RANKER, Task.RANKING)
    assert set(data.test.inputs) == {"user", "query"}
    assert data.test.query is None


def test_bytes_of_a_photo_become_the_floats_that_the_model_takes(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays(x=np.full((ROWS, 4), 200, np.uint8)))
    data = load(path, CLASSIFIER, Task.CLASSIFICATION)
    assert data.test.inputs["x"].dtype == np.float32
    assert data.test.inputs["x"].max() == 200.0


def test_splits_that_are_given_are_kept(tmp_path: Path) -> None:
    split = np.array([SPLITS[i % 3] for i in range(ROWS)])
    data = load(saved(tmp_path, arrays(split=split, target=np.arange(ROWS) % 2)), CLASSIFIER, Task.CLASSIFICATION)
    assert np.array_equal(data.test.inputs["x"][:, 0], arrays()["x"][2::3, 0])


def test_source_in_two_splits_is_refused(tmp_path: Path) -> None:
    split = np.array([SPLITS[i % 3] for i in range(ROWS)])
    path = saved(tmp_path, arrays(split=split, group=np.arange(ROWS) // 2))
    with pytest.raises(DataError, match="is in the splits calibration and selection"):
        load(path, CLASSIFIER, Task.CLASSIFICATION)


def test_labels_of_the_data_are_read_and_those_of_the_push_come_first(tmp_path: Path) -> None:
    path = saved(tmp_path, arrays(labels=np.array(["a", "b", "c"])))
    assert load(path, CLASSIFIER, Task.CLASSIFICATION).labels == ("a", "b", "c")
    assert load(path, CLASSIFIER, Task.CLASSIFICATION, labels=("x", "y", "z")).labels == ("x", "y", "z")


def test_rows_of_one_query_stay_together(tmp_path: Path) -> None:
    query = np.arange(ROWS) // 2
    ranker = PRICE
    path = saved(tmp_path, arrays(target=np.arange(ROWS) % 2, query=query))
    data = load(path, ranker, Task.RANKING)
    queries = [set(np.unique(part.group)) for part in (data.calibration, data.selection, data.test)]
    assert not queries[0] & queries[1]
    assert not queries[1] & queries[2]


def test_rows_of_one_query_stay_together_where_groups_are_finer(tmp_path: Path) -> None:
    rows = 400
    group, query = np.arange(rows) // 2, np.arange(rows) // 10
    group[10] = group[9]  # a group that two queries share holds both together
    content = {"x": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4), "target": np.arange(rows) % 2}
    data = load(saved(tmp_path, {**content, "group": group, "query": query}), PRICE, Task.RANKING)
    parts = (data.calibration, data.selection, data.test)
    for keys in (query, group):
        found = [set(keys[part.places].tolist()) for part in parts]
        assert sum(map(len, found)) == len(np.unique(keys))
    assert data.groups == rows // 10 - 1


def test_query_in_two_splits_is_refused_where_groups_are_finer(tmp_path: Path) -> None:
    split = np.array([SPLITS[i // 2 % 3] for i in range(ROWS)])
    content = arrays(target=np.arange(ROWS) % 2, split=split, group=np.arange(ROWS) // 2, query=np.arange(ROWS) // 4)
    with pytest.raises(DataError, match="is in the splits"):
        load(saved(tmp_path, content), PRICE, Task.RANKING)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.lists(st.integers(0, 60), min_size=150, max_size=200).filter(lambda found: len(set(found)) > 40),
    seed=st.integers(0, 2**16),
)
def test_splits_hold_every_row_once_never_share_a_source_and_ignore_the_order(
    tmp_path: Path, groups: list[int], seed: int
) -> None:
    rows = len(groups)
    x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)

    def rows_of(order: np.ndarray) -> list[set[float]]:
        content = {"x": x[order], "target": order % 2, "group": np.array(groups)[order]}
        data = load(saved(tmp_path, content), CLASSIFIER, Task.CLASSIFICATION)
        return [set(part.inputs["x"][:, 0].tolist()) for part in (data.calibration, data.selection, data.test)]

    parts = rows_of(np.arange(rows))
    assert sum(map(len, parts)) == rows
    assert set.union(*parts) == set(x[:, 0].tolist())
    sources = [{groups[int(value) // 4] for value in part} for part in parts]
    assert not sources[0] & sources[1]
    assert not sources[0] & sources[2]
    assert not sources[1] & sources[2]
    assert rows_of(np.random.default_rng(seed).permutation(rows)) == parts
