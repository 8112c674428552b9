"""What a search learns of a real, small network before it tries anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import SearchError
from compressors.files.formats import Form
from compressors.inputs import loading, program
from compressors.searching.facts import Facts, affordable_epochs, facts_of
from tests.compressors.steps.applying import context_of

if TYPE_CHECKING:
    from pathlib import Path

    from compressors.step import Context

LITERT = (Form.LITERT,)


@pytest.fixture(scope="module")
def network(uploads: Path) -> program.FloatModel:
    return program.load(uploads / "shapes.pt2")


@pytest.fixture(scope="module")
def context(uploads: Path, network: program.FloatModel) -> Context:
    evaluation = evaluation_rows.load(uploads / "shapes.npz", network.signature, Task.CLASSIFICATION)
    return context_of(evaluation, Task.CLASSIFICATION)


def test_convnet_can_be_narrowed_and_its_layers_are_known(network: program.FloatModel, context: Context) -> None:
    facts = facts_of(network, context, LITERT)
    assert set(facts.sensitive) == {"layers.0", "layers.2", "layers.4", "layers.8"}
    assert facts.narrowest_percent in range(25, 81)
    assert not facts.has_tables
    assert facts == facts_of(network, context, LITERT)


def test_without_training_rows_nothing_trains(network: program.FloatModel, context: Context) -> None:
    facts = facts_of(network, context, LITERT)
    assert facts.epochs == 0
    assert facts.student_percent == {}


def test_training_rows_are_taught_as_long_as_time_allows(network: program.FloatModel, context: Context) -> None:
    taught = replace(context, train=context.calibration)
    assert facts_of(network, taught, LITERT).epochs == 20
    assert affordable_epochs(taught, macs=10**12) == 0  # an epoch of hours is no step of a search


def test_model_that_was_pushed_as_a_file_has_no_layers(uploads: Path, tmp_path: Path) -> None:
    network = loading.load(uploads / "logarithm.tflite")
    with np.load(uploads / "price.npz") as rows:
        np.savez(tmp_path / "rows.npz", args_0=rows["features"], target=rows["target"])
    evaluation = evaluation_rows.load(tmp_path / "rows.npz", network.signature, Task.REGRESSION)
    context = context_of(evaluation, Task.REGRESSION)
    assert facts_of(network, context, (Form.ONNX, Form.LITERT)) == Facts(has_layers=False, forms=LITERT)
    with pytest.raises(SearchError, match=r"pushed as a \.tflite file, and no runtime that loads one"):
        facts_of(network, context, (Form.ONNX,))


@pytest.mark.parametrize(("entries", "has_tables"), [(64, True), (256, False)])
def test_tables_are_seen_where_they_are_large_enough(
    uploads: Path, monkeypatch: pytest.MonkeyPatch, entries: int, *, has_tables: bool
) -> None:
    monkeypatch.setattr("compressors.searching.facts.TABLE_ENTRIES", entries)
    network = program.load(uploads / "films.pt2")  # of 50 and 70 entries
    rows = evaluation_rows.load(uploads / "films.npz", network.signature, Task.RANKING)
    assert facts_of(network, context_of(rows, Task.RANKING), LITERT).has_tables is has_tables
