"""Evaluation data: an `.npz` with one array for each input, the target, and the split of its rows into three.

Calibration and selection are what compression may look at; test is read once, for the report. Rows of one source
(photo, user, subject: `group`) are never in two splits, or the test would measure memory.
"""

from __future__ import annotations

import hashlib
import tokenize
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compressors.contract import SplitCounts, Task
from compressors.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from edge_agent.protocol.signature import ModelSignature, TensorSpec

    Array = NDArray[np.generic]

TARGET = "target"
EXTRAS = {TARGET, "group", "split", "labels", "query"}
SPLITS = ("calibration", "selection", "test")
SHARES = (0.2, 0.3, 0.5)
MIN_ROWS = 8  # of each split: fewer say nothing
MAX_DATA_BYTES = 8 << 30


@dataclass(frozen=True)
class Split:
    """Some rows: inputs by name, targets, and what groups them."""

    inputs: dict[str, Array]
    target: Array
    group: NDArray[np.int64]
    query: NDArray[np.int64] | None
    places: NDArray[np.int64]  # where each row stands in the file

    @property
    def rows(self) -> int:
        """Samples in this split."""
        return len(self.target)


@dataclass(frozen=True)
class EvaluationData:
    """The three splits."""

    calibration: Split
    selection: Split
    test: Split
    labels: tuple[str, ...]
    groups: int
    sources: Array | None = None  # the array `group` as it stands in the file

    def counts(self) -> SplitCounts:
        """Rows of each split."""
        return SplitCounts(
            calibration=self.calibration.rows, selection=self.selection.rows, test=self.test.rows, groups=self.groups
        )


def load(path: Path, signature: ModelSignature, task: Task, *, labels: tuple[str, ...] = ()) -> EvaluationData:
    """Read and check evaluation data.

    Raises:
        DataError: they do not fit the signature or the task; one sentence says what and where.
    """
    arrays = read_arrays(path)
    _check_names(arrays, signature)
    rows = _check_rows(arrays, {spec.name for spec in signature.inputs})
    for spec in signature.inputs:
        arrays[spec.name] = checked_input(arrays[spec.name], spec)
    target = checked_target(arrays[TARGET], task, signature)
    extras = {name: arrays[name] for name in EXTRAS & arrays.keys() if name not in {i.name for i in signature.inputs}}
    group = codes(extras["group"], "group") if "group" in extras else np.arange(rows)
    query = codes(extras["query"], "query") if "query" in extras else None
    if query is not None:  # the items of one query belong together: a part of them has no rank
        group = joined(group, query) if "group" in extras else query
    split = _splits_given(extras["split"]) if "split" in extras else _splits_made(group)
    _check_splits(split, group)
    groups = len(np.unique(group))
    if groups < min(len(SPLITS), rows):
        raise DataError(
            f"all rows are of {groups} group{'' if groups == 1 else 's'}, and a group is in one split alone: name at "
            f"least {len(SPLITS)} sources in group (or query), or leave it out"
        )
    parts = []
    for number, name in enumerate(SPLITS):
        chosen = split == number
        if chosen.sum() < MIN_ROWS:
            raise DataError(f"the {name} split has {chosen.sum()} rows, at least {MIN_ROWS} are needed: add data")
        parts.append(
            Split(
                inputs={spec.name: arrays[spec.name][chosen] for spec in signature.inputs},
                target=target[chosen],
                group=group[chosen],
                query=None if query is None else query[chosen],
                places=np.flatnonzero(chosen),
            )
        )
        if name != SPLITS[0]:
            _check_varies(parts[-1], name)
    names = labels or _labels(extras.get("labels", np.array([])))
    _check_labels(names, task, signature)
    return EvaluationData(parts[0], parts[1], parts[2], names, groups, extras.get("group"))


def _check_varies(split: Split, name: str) -> None:
    """A model that always answers the same would be as good as any other."""
    if (split.target == split.target[0]).all():
        raise DataError(
            f"{TARGET} is {split.target[0].ravel()[0]:g} in all {split.rows} rows of the {name} split, so that no "
            "metric tells a model from a constant: add rows with other answers"
        )


def load_second(path: Path, signature: ModelSignature, task: Task, *, queries: bool) -> Split:
    """Read and check rows that are none of the three splits: how a model behaves elsewhere.

    Args:
        path: an `.npz` as the evaluation data are; a `split` in it says nothing here.
        signature: of the model.
        task: decides what a target is.
        queries: whether the metric needs to know which rows are ranked together.

    Raises:
        DataError: they do not fit the signature or the task.
    """
    arrays = read_arrays(path)
    _check_names(arrays, signature)
    rows = _check_rows(arrays, {spec.name for spec in signature.inputs})
    if rows < MIN_ROWS:
        raise DataError(f"there are {rows} rows, at least {MIN_ROWS} are needed: add data")
    if queries and "query" not in arrays:
        raise DataError("there is no array 'query': it says which rows are ranked together")
    return Split(
        inputs={spec.name: checked_input(arrays[spec.name], spec) for spec in signature.inputs},
        target=checked_target(arrays[TARGET], task, signature),
        group=np.arange(rows),
        query=codes(arrays["query"], "query") if queries else None,
        places=np.arange(rows),
    )


def read_arrays(path: Path) -> dict[str, Array]:
    """Every array of the file; object arrays would be unpickled, so they are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(info.file_size for info in archive.infolist())
        if total > MAX_DATA_BYTES:
            raise DataError(f"the data unpack to {total} bytes, at most {MAX_DATA_BYTES} are allowed: use fewer rows")
        with np.load(path, allow_pickle=False) as archive_arrays:
            arrays = {name: archive_arrays[name] for name in archive_arrays.files}
    except MemoryError as exc:
        raise DataError("the data do not fit into memory: use fewer rows") from exc
    except (ValueError, SyntaxError, tokenize.TokenError) as exc:
        if "pickle" in str(exc).lower():
            raise DataError(
                "the data hold an array of Python objects: save numbers, np.savez(path, name=array)"
            ) from exc
        raise DataError(f"the data can't be read ({exc}): save them with np.savez(path, name=array)") from exc
    except (zipfile.BadZipFile, OSError, EOFError, KeyError) as exc:
        raise DataError(
            "the data are no .npz file, or a damaged one: save them with np.savez(path, name=array)"
        ) from exc
    foreign = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
    if foreign is not None:  # numpy hands out the bytes of a member that does not begin as its arrays do
        raise DataError(
            f"the data hold a file {foreign!r} that is no numpy array: save them with np.savez(path, name=array)"
        )
    return arrays


def _check_names(arrays: Mapping[str, Array], signature: ModelSignature) -> None:
    inputs = [spec.name for spec in signature.inputs]
    if TARGET in inputs:
        raise DataError(f"an input of the model is called {TARGET}, as the answers are: rename it and export again")
    missing = [name for name in [*inputs, TARGET] if name not in arrays]
    if missing:
        raise DataError(f"the data have no array {missing[0]!r}; they need {', '.join(inputs)} and {TARGET}")
    extra = sorted(set(arrays) - set(inputs) - EXTRAS)
    if extra:
        raise DataError(
            f"the data have an array {extra[0]!r} that the model does not take; it takes {', '.join(inputs)}, "
            f"and beside them {', '.join(sorted(EXTRAS))} are known"
        )


def _check_rows(arrays: Mapping[str, Array], inputs: set[str]) -> int:
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if "labels" not in inputs:
        counts.pop("labels", None)
    rows = counts[TARGET]
    different = [name for name, count in counts.items() if count != rows]
    if different:
        raise DataError(f"{TARGET} has {rows} rows, but {different[0]} has {counts[different[0]]}")
    if rows == 0:
        raise DataError("the data have no rows")
    return rows


def checked_input(array: Array, spec: TensorSpec) -> Array:
    """An input's rows in the type that the model takes.

    Raises:
        DataError: their shape, type or values do not fit.
    """
    if array.shape[1:] != spec.sample_shape:
        raise DataError(f"{spec.name} has samples of the shape {array.shape[1:]}, the model takes {spec.sample_shape}")
    wanted = np.dtype(spec.datatype.numpy_name)
    if not np.can_cast(array.dtype, wanted, casting="same_kind"):
        raise DataError(f"{spec.name} is {array.dtype}, the model takes {wanted}")
    if np.issubdtype(wanted, np.integer) and array.size and not _holds(wanted, array):
        raise DataError(f"{spec.name} holds values that {wanted} can't hold")
    with np.errstate(over="ignore"):
        converted = array.astype(wanted, copy=False)
    if np.issubdtype(wanted, np.floating):
        _check_finite(converted, spec.name)
    return converted


def _holds(wanted: np.dtype[Any], array: Array) -> bool:
    bounds = np.iinfo(wanted)
    return bool(array.min() >= bounds.min and array.max() <= bounds.max)


def _check_finite(array: Array, name: str) -> None:
    wrong = ~np.isfinite(array)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise DataError(f"{name} holds {wrong.sum()} values that are NaN or infinite, the first in row {row}")


def checked_target(target: Array, task: Task, signature: ModelSignature) -> Array:
    """The answers: int64 classes, float64 relevances, or float64 numbers of the shape (rows, values).

    Raises:
        DataError: they do not fit the task or the first output.
    """
    if not any(np.issubdtype(target.dtype, kind) for kind in (np.integer, np.floating, np.bool_)):
        raise DataError(f"{TARGET} is {target.dtype}; it must be numbers")
    if np.issubdtype(target.dtype, np.floating):
        _check_finite(target, TARGET)
    flat = target.reshape(len(target), -1)
    if task is Task.REGRESSION:
        width = signature.outputs[0].sample_elements
        if flat.shape[1] != width:
            raise DataError(f"{TARGET} has {flat.shape[1]} values a row, the model gives {width}")
        return flat.astype(np.float64)
    if flat.shape[1] != 1:
        raise DataError(f"{TARGET} has {flat.shape[1]} values a row; {task} needs one class or relevance a row")
    return _check_classes(flat[:, 0], task, signature)


def _check_classes(values: Array, task: Task, signature: ModelSignature) -> Array:
    whole = values.astype(np.float64)
    if task is Task.RANKING:
        return whole
    if (whole != np.rint(whole)).any():
        raise DataError(f"{TARGET} holds {whole[whole != np.rint(whole)][0]}, which is no class number")
    classes = _classes(signature)
    outside = (whole < 0) | (whole >= classes)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(f"{TARGET} is {whole[row]:g} in row {row}, but the model knows the classes 0 to {classes - 1}")
    return whole.astype(np.int64)


def _labels(array: Array) -> tuple[str, ...]:
    if array.ndim != 1:
        raise DataError(f"labels must be a list of names, one for each class; it has the shape {array.shape}")
    return tuple(str(label) for label in array)


def _check_labels(names: tuple[str, ...], task: Task, signature: ModelSignature) -> None:
    classes = _classes(signature)
    if names and task is Task.CLASSIFICATION and len(names) != classes:
        raise DataError(f"labels names {len(names)} classes, but the model knows {classes}")


def _classes(signature: ModelSignature) -> int:
    """What the first output tells apart; a single value says yes or no."""
    return max(2, signature.outputs[0].sample_elements)


def codes(array: Array, name: str) -> NDArray[np.int64]:
    """Names or numbers of groups as numbers from 0.

    Raises:
        DataError: it is not one value a row.
    """
    if array.ndim != 1:
        raise DataError(f"{name} must have one value a row, it has the shape {array.shape}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def joined(group: NDArray[np.int64], query: NDArray[np.int64]) -> NDArray[np.int64]:
    """The finest grouping that tears neither a group nor a query apart; each is named by its least group.

    Names travel along shared queries and groups until none changes: as many rounds as the longest such chain has links.
    """
    name = group.copy()
    while True:
        before = name.copy()
        for key in (query, group):
            least = np.full(int(key.max()) + 1, np.iinfo(np.int64).max)
            np.minimum.at(least, key, name)
            name = least[key]
        if np.array_equal(before, name):
            return name


def _splits_given(array: Array) -> NDArray[np.int64]:
    names = [str(value) for value in array]
    unknown = sorted(set(names) - set(SPLITS))
    if unknown:
        raise DataError(f"split holds {unknown[0]!r}; the splits are {', '.join(SPLITS)}")
    return np.array([SPLITS.index(name) for name in names])


def _splits_made(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Share out whole groups by a hash of their number: the same file gives the same splits.

    Where the data name their groups (`group`, `query`), that holds in any order of rows; else each row is a group,
    numbered by its place.
    """
    groups = np.unique(group)
    order = sorted(groups, key=lambda g: hashlib.sha256(f"shoal-split-{g}".encode()).digest())
    bounds = np.cumsum(SHARES) * len(order)
    split_of = {int(g): int(np.searchsorted(bounds, i, side="right")) for i, g in enumerate(order)}
    return np.array([min(split_of[int(g)], len(SPLITS) - 1) for g in group])


def _check_splits(split: NDArray[np.int64], group: NDArray[np.int64]) -> None:
    first: dict[int, int] = {}
    for number, source in zip(split.tolist(), group.tolist(), strict=True):
        if first.setdefault(source, number) != number:
            raise DataError(
                f"one source (group {source}) is in the splits {SPLITS[first[source]]} and {SPLITS[number]}: "
                "keep all its rows in one, or leave split out"
            )
