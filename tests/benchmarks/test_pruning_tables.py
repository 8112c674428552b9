"""The benchmark of pruning on tables: what it says, and how it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks import pruning_tables
from benchmarks.pruning_tables import Row, pooled, rows_of
from compressors.bootstrap import Estimate
from compressors.contract import Figure

if TYPE_CHECKING:
    from pathlib import Path


def test_mean_of_the_seeds_is_taken_on_each_draw() -> None:
    outputs = np.zeros((3, 1))
    first, second = (Estimate(value, np.array([value, value + 0.2]), outputs, 3) for value in (0.4, 0.8))
    both = pooled([first, second])
    assert both.value == pytest.approx(0.6)
    assert both.drawn.tolist() == pytest.approx([0.6, 0.8])


def test_phishing_is_trained_pruned_and_compared_on_the_same_rows(tmp_path: Path) -> None:
    weights, channels = rows_of("phishing", [0], tmp_path)
    assert (weights.what, channels.what) == ("80 % of the weights", "half of the channels' MACs")
    for row in (weights, channels):
        assert row.gain.value == pytest.approx(row.hessian - row.magnitude)
        assert row.gain.low is not None
        assert row.gain.high is not None
        assert row.gain.low <= row.gain.value <= row.gain.high
        assert row.hessian_snr_db > row.magnitude_snr_db + 10.0
    assert weights.float_value > 0.88


@pytest.mark.parametrize(("high", "code", "said"), [(0.01, 0, "met"), (-0.01, 1, "MISSED: the Hessian is below")])
def test_main_ends_with_1_where_the_hessian_is_certainly_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], high: float, code: int, said: str
) -> None:
    gain = Figure(value=-0.02, low=-0.05, high=high)
    row = Row("credit", "80 % of the weights", "accuracy", 0.7, 0.7, 0.68, gain, 3.0, 2.0)
    monkeypatch.setattr(pruning_tables, "rows_of", lambda *_: [row])
    monkeypatch.setattr("sys.argv", ["pruning_tables", "--applications", "credit"])
    assert pruning_tables.main() == code
    assert said in capsys.readouterr().out
