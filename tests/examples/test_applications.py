"""The applications: what they write can be pushed, and their recipes can work."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from compressors.contract import BuildResult, BuiltVariant, Figure, StepRecord, Verdict
from compressors.inputs.program import from_exported
from compressors.metrics import METRICS
from compressors.network.macs import layer_macs
from compressors.recipes import RECIPES, check
from compressors.students import Architecture, build
from edge_agent.protocol.profile import Delegate, RuntimeName
from examples.applications import APPLICATIONS, STUDENTS, recipes_for
from examples.compress import gains, markdown
from examples.fashion import cnn
from examples.recommendation import ITEMS, UNSEEN, USERS, load, write_ranking_data
from examples.risk import credit, phishing

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", APPLICATIONS)
def test_every_recipe_of_an_application_can_work(name: str) -> None:
    recipes = recipes_for(APPLICATIONS[name])
    assert len({recipe.name for recipe in recipes}) == len(recipes)
    for recipe in recipes:
        check(recipe)


def test_risk_tables_hold_both_classes_and_finite_features() -> None:
    for table, rows, base in ((phishing(), 1250, 0.438), (credit(), 1000, 0.3)):
        assert len(table.features) == len(table.target) == rows
        assert table.target.mean() == pytest.approx(base, abs=0.001)
        assert np.isfinite(table.features).all()


def test_ranking_data_hold_one_wanted_film_a_user_and_never_teach_it(tmp_path: Path) -> None:
    write_ranking_data(tmp_path, load())
    with np.load(tmp_path / "films.npz") as held, np.load(tmp_path / "films-train.npz") as taught:
        assert held["target"].reshape(USERS, UNSEEN + 1).sum(axis=1).tolist() == [1.0] * USERS
        wanted = held["target"] > 0
        secret = set(held["user"][wanted] * ITEMS + held["item"][wanted])
        liked = taught["target"] > 0
        assert secret.isdisjoint(taught["user"][liked] * ITEMS + taught["item"][liked])


def built(recipe: str, metric: float, drop: float, raw_bytes: int) -> BuiltVariant:
    return BuiltVariant(
        profile="here",
        variant_id=f"{recipe}-litert-xnnpack-0123456789ab",
        recipe=recipe,
        runtime=RuntimeName.LITERT,
        delegate=Delegate.XNNPACK,
        verdict=Verdict.FITS,
        chosen=False,
        raw_bytes=raw_bytes,
        wire_bytes=raw_bytes,
        latency_p50_ms=Figure(value=1.0),
        metric=Figure(value=metric),
        metric_drop=Figure(value=drop),
    )


@pytest.mark.parametrize(
    ("metric", "before", "after", "lost"),
    [
        ("rmse", 0.5, 0.509, "1.8"),
        ("rmse", 50.0, 50.9, "1.8"),
        ("accuracy", 0.7, 0.684, "1.6"),
        ("top1", 0.7, 0.71, "-1.0"),
    ],
)
def test_table_says_what_is_lost_in_points_of_the_metric(metric: str, before: float, after: float, lost: str) -> None:
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    variants = (built("float32", before, 0.0, 1000), built("static-int8", after, sign * (before - after), 300))
    result = BuildResult(float_metric=Figure(value=before), variants=variants, choices=())
    rows = gains(result, (RECIPES["float32"], RECIPES["static-int8"]), "here", METRICS[metric])
    assert ("it loses" in rows[1].sentence) is (float(lost) > 1)
    header, _, _, row = markdown("net", metric, rows).splitlines()
    assert dict(zip(header.split(" | "), row.split(" | "), strict=True))["points lost"] == lost


def test_table_of_a_recipe_that_is_refused_has_as_many_columns() -> None:
    variants = (built("float32", 0.7, 0.0, 1000),)
    result = BuildResult(float_metric=Figure(value=0.7), variants=variants, choices=())
    rows = gains(result, (RECIPES["float32"], RECIPES["static-int8"]), "here", METRICS["top1"])
    assert len({line.count("|") for line in markdown("net", "top1", rows).splitlines()}) == 1


def test_table_says_which_step_made_nothing_better() -> None:
    step = StepRecord(step="train-quantized", seconds=1.0, summary="left out: 0.9 -> 0.9, which is no gain")
    same = built("static-int8", 0.7, 0.0, 300).model_copy(update={"steps": (step,)})
    variants = (built("float32", 0.7, 0.0, 1000), same)
    result = BuildResult(float_metric=Figure(value=0.7), variants=variants, choices=())
    rows = gains(result, (RECIPES["float32"], RECIPES["static-int8"]), "here", METRICS["top1"])
    last = markdown("net", "top1", rows).splitlines()[-1]
    assert last.endswith("| smaller; train-quantized made nothing better, left out |")
    assert "left out" not in markdown("net", "top1", rows[:1])


def test_table_refuses_a_file_that_no_step_has_changed() -> None:
    same = {"object_sha256": "ab" * 32}
    variants = tuple(built(name, 0.7, 0.0, 1000).model_copy(update=same) for name in ("float32", "static-int8"))
    result = BuildResult(float_metric=Figure(value=0.7), variants=variants, choices=())
    plain, refused = gains(result, (RECIPES["float32"], RECIPES["static-int8"]), "here", METRICS["top1"])
    assert plain.refusal == ""
    assert refused.refusal == "its file is that of float32: no step changed anything"


def test_every_student_of_the_clothes_network_has_a_quarter_of_its_multiplications_at_most() -> None:
    network = from_exported(torch.export.export(cnn().eval(), (torch.zeros(1, 1, 28, 28),)))
    whole = sum(layer_macs(network).values())
    for name, student in STUDENTS.items():
        size = {"width": student["width"], "resolution": student.get("resolution", 1.0)}
        module = build(Architecture(student["architecture"]), network.signature, **size, seed=0).eval()
        assert sum(layer_macs(replace(network, module=module)).values()) < 0.25 * whole, name


@pytest.mark.slow
def test_application_is_compressed_and_told_with_one_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.compress", "phishing", "--folder", str(tmp_path)]
    done = subprocess.run(
        [*command, "--only", "static-int8", "weights-80-magnitude"],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["recipe"]: row for row in json.loads((tmp_path / "phishing.json").read_text())}
    assert list(rows) == ["float32", "static-int8", "weights-80-magnitude"]
    assert abs(rows["static-int8"]["after"] - rows["float32"]["before"]) <= 0.005
    assert rows["static-int8"]["raw_share"] < 0.7
    assert rows["weights-80-magnitude"]["wire_share"] < 0.5
    assert "pi-zero-2w gets" in done.stdout
