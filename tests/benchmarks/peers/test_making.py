"""What the scripts of all peers share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.peers.making import main, single

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_single_gives_each_row_as_a_batch_of_one() -> None:
    rows = {"a": np.arange(6.0).reshape(3, 2), "b": np.arange(3)}
    found = list(single(rows))
    assert [one["a"].shape for one in found] == [(1, 2)] * 3
    assert [int(one["b"][0]) for one in found] == [0, 1, 2]


def test_main_with_a_recipe_that_fails_writes_the_others_and_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, calibration = tmp_path / "float", tmp_path / "calibration.npz"
    source.write_bytes(b"float")
    np.savez(calibration, features=np.zeros((4, 2), np.float32))
    monkeypatch.setattr("sys.argv", ["peer", str(source), str(calibration), str(tmp_path)])

    def refuse() -> bytes:
        raise ValueError("no\n operator")

    main(lambda path, rows: {"whole": lambda: path.read_bytes() * len(rows["features"]), "broken": refuse})
    made = json.loads((tmp_path / "made.json").read_text())
    assert (tmp_path / "whole").read_bytes() == b"float" * 4
    assert made["broken"] == {"refusal": "ValueError: no operator"}
    assert "seconds" in made["whole"]
    assert not (tmp_path / "broken").exists()
