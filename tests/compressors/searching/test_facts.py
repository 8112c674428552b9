"""What a search learns of a real, small network before it tries anything."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.contract import Task
from compressors.data import evaluation_rows
from compressors.errors import ModelRunError, SearchError
from compressors.files.formats import Form
from compressors.inputs import loading, program
from compressors.searching.facts import Facts, affordable_epochs, facts_of
from compressors.sensitivity.sharpness import sharpness
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


def test_curvature_is_looked_at_where_it_costs_little_and_rows_have_labels(
    network: program.FloatModel, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = replace(context, cache_dir=tmp_path / "cache")
    facts = facts_of(network, kept, LITERT)
    assert facts.curved == tuple(sharpness(network, context))
    assert set(facts.curved) == set(facts.sensitive)
    assert len(list((tmp_path / "cache").glob("*.curvature.json"))) == 1
    monkeypatch.setattr("compressors.sensitivity.sharpness.curvature_of", None)
    assert facts_of(network, kept, LITERT) == facts, "computed once for a network and its rows"
    unlabelled = replace(context.calibration, target=np.full_like(context.calibration.target, -1))
    assert facts_of(network, replace(kept, calibration=unlabelled), LITERT).curved == ()
    monkeypatch.setattr("compressors.sensitivity.sharpness.AFFORDABLE_LAYERS", 3)
    assert facts_of(network, kept, LITERT).curved == ()
    monkeypatch.setattr("compressors.sensitivity.sharpness.AFFORDABLE_LAYERS", 32)
    monkeypatch.setattr("compressors.sensitivity.sharpness.AFFORDABLE_MACS", 1e6)
    assert facts_of(network, kept, LITERT) == facts.model_copy(update={"curved": ()})


def test_curvature_that_an_operator_does_not_have_is_done_without(
    network: program.FloatModel, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise ModelRunError("the Hessian can't be computed")

    monkeypatch.setattr("compressors.sensitivity.sharpness.curvature_of", refuse)
    assert facts_of(network, context, LITERT).curved == ()


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
