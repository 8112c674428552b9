"""Training data: the `.npz` of `--train`, without the rows by which a variant is chosen or reported.

It holds the inputs as the evaluation data do, and `target` where there are answers: -1 (a class) or NaN (a number)
leaves a row unlabelled, no `target` leaves them all so. Such rows are for a teacher to answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressors.contract import Task, TrainingCounts
from compressors.data.evaluation_rows import TARGET, Split, checked_input, checked_target, codes, read_arrays
from compressors.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from compressors.data.evaluation_rows import Array, EvaluationData
    from edge_agent.protocol.signature import ModelSignature

EXTRAS = ("group", "query", "labels")
UNLABELLED_CLASS = -1


@dataclass(frozen=True)
class TrainingRows:
    """What may be trained on."""

    split: Split
    counts: TrainingCounts


def load(path: Path, signature: ModelSignature, task: Task, evaluation: EvaluationData) -> TrainingRows:
    """Read and check training data, and leave out what the evaluation data hold back.

    A row is held back if its inputs are those of a row of the selection or test split, or if both files name groups
    and its group is in one of these splits.

    Raises:
        DataError: they do not fit the signature or the task, or nothing is left.
    """
    arrays = read_arrays(path)
    names = [spec.name for spec in signature.inputs]
    rows = _check_names(arrays, names)
    inputs = {spec.name: checked_input(arrays[spec.name], spec) for spec in signature.inputs}
    target, labelled = _target(arrays.get(TARGET), rows, task, signature)
    extras = {name: arrays[name] for name in EXTRAS if name in arrays and name not in inputs}
    kept = ~_held_back(inputs, extras.get("group"), evaluation)
    if not kept.any():
        raise DataError(
            f"all {rows} training rows, or their groups, are in the selection or test split too: train on other rows"
        )
    split = Split(
        inputs={name: array[kept] for name, array in inputs.items()},
        target=target[kept],
        group=(codes(extras["group"], "group") if "group" in extras else np.arange(rows))[kept],
        query=codes(extras["query"], "query")[kept] if "query" in extras else None,
        places=np.flatnonzero(kept),
    )
    counts = TrainingCounts(rows=split.rows, labelled=int(labelled[kept].sum()), left_out=int((~kept).sum()))
    return TrainingRows(split, counts)


def _check_names(arrays: Mapping[str, Array], inputs: Sequence[str]) -> int:
    """Whether the arrays are those of training data; how many rows they have."""
    missing = next((name for name in inputs if name not in arrays), None)
    if missing is not None:
        raise DataError(f"the training data have no array {missing!r}; they need {', '.join(inputs)}")
    known = {*inputs, TARGET, *EXTRAS}
    extra = next((name for name in sorted(arrays) if name not in known), None)
    if extra is not None:
        raise DataError(f"the training data have an array {extra!r}; known are {', '.join(sorted(known))}")
    counts = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if "labels" not in inputs:
        counts.pop("labels", None)
    rows = counts[inputs[0]]
    different = next((name for name, count in counts.items() if count != rows), None)
    if different is not None:
        raise DataError(f"in the training data {inputs[0]} has {rows} rows, but {different} has {counts[different]}")
    if rows == 0:
        raise DataError("the training data have no rows")
    return rows


def _target(given: Array | None, rows: int, task: Task, signature: ModelSignature) -> tuple[Array, NDArray[np.bool_]]:
    """The checked answers, unlabelled ones as -1 or NaN, and which rows are labelled."""
    is_class = task is Task.CLASSIFICATION
    width = signature.outputs[0].sample_elements if task is Task.REGRESSION else 1
    if given is None:
        given = np.full((rows, width), np.nan)
    if not (np.issubdtype(given.dtype, np.number) or np.issubdtype(given.dtype, np.bool_)):
        raise DataError(f"{TARGET} of the training data is {given.dtype}; it must be numbers")
    flat = given.reshape(rows, -1).astype(np.float64)
    unlabelled: NDArray[np.bool_] = np.asarray(np.isnan(flat).any(axis=1))
    if is_class:
        unlabelled = unlabelled | (flat[:, 0] == UNLABELLED_CLASS)
    checked = checked_target(np.where(unlabelled[:, None], 0.0, flat), task, signature)
    checked[unlabelled] = UNLABELLED_CLASS if is_class else np.nan
    return checked, ~unlabelled


def _held_back(inputs: Mapping[str, Array], group: Array | None, evaluation: EvaluationData) -> NDArray[np.bool_]:
    """Which training rows are in the selection or test split, by their inputs or their group."""
    hidden = (evaluation.selection, evaluation.test)
    seen = {digest for split in hidden for digest in _digests(split.inputs)}
    held_back = np.fromiter((digest in seen for digest in _digests(inputs)), np.bool_)
    if group is not None and evaluation.sources is not None:
        sources = evaluation.sources[np.concatenate([split.places for split in hidden])]
        held_back |= np.isin(group.astype(str), sources.astype(str))
    return held_back


def _digests(inputs: Mapping[str, Array]) -> Iterator[bytes]:
    """One for each row, over all its inputs."""
    arrays = [np.ascontiguousarray(array) for array in inputs.values()]
    for row in range(len(arrays[0])):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[row].tobytes())
        yield digest.digest()
