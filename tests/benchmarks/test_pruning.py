"""How the benchmark of pruning ends."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import pruning

WAYS = {
    "float": (0.914, 1.0),
    "magnitude channels": (0.2, 0.66),
    "magnitude channels, fine-tuned": (0.912, 0.6),
    "hessian channels": (0.9, 0.66),
    "hessian channels, fine-tuned": (0.914, 0.6),
}


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [({}, 0, "met "), ({"hessian channels": (0.1, 0.66)}, 1, "MISSED hessian below magnitude before fine-tuning")],
    ids=["met", "missed"],
)
def test_main_ends_with_1_where_a_goal_is_missed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, tuple[float, float]],
    code: int,
    said: str,
) -> None:
    ways = {**WAYS, **changed}
    sizes = {"macs": 1.0, "bytes": 1.0, "wire_bytes": 1.0}
    figures: list[dict[str, Any]] = [{"way": way, "top1": top1, **sizes} for way, (top1, _) in ways.items()]
    ratios = [{way: ratio for way, (_, ratio) in ways.items()}]
    monkeypatch.setattr(pruning.Rows, "read", lambda: None)
    monkeypatch.setattr(pruning, "run", lambda _options, _rows: (figures, ratios))
    monkeypatch.setattr("sys.argv", ["pruning"])
    assert pruning.main() == code
    assert said in capsys.readouterr().out
