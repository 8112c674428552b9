"""The applications: what they write can be pushed, and their recipes can work."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from compressors.recipes import check
from examples.applications import APPLICATIONS, recipes_for
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
