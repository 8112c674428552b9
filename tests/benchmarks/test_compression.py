"""What the comparison prints: who is judged, and what is said of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from benchmarks import compression
from benchmarks.compressing.comparison import FLOAT, SHOAL, Contender
from benchmarks.compression import judged, show
from compressors.files.formats import Form

if TYPE_CHECKING:
    from pathlib import Path


def contender(side: str, recipe: str, *, p50_ms: float, wire_bytes: int) -> Contender:
    turns = [p50_ms, 1.01 * p50_ms, 1.02 * p50_ms, p50_ms, p50_ms]
    figures = {"metric": 0.9, "low": 0.88, "high": 0.92}
    return Contender(side, recipe, Form.LITERT, p50_ms=turns, raw_bytes=50_000, wire_bytes=wire_bytes, **figures)  # type: ignore[arg-type]


OURS = contender(SHOAL, "static", p50_ms=1.0, wire_bytes=10_000)
THEIRS = contender("peer", "static", p50_ms=2.0, wire_bytes=10_000)


def test_judged_leaves_the_float_file_and_refused_ones_out() -> None:
    reference = contender(FLOAT, "LiteRT", p50_ms=0.1, wire_bytes=1)
    refused = Contender("peer", "other", Form.LITERT, refusal="it does not load")
    judgement, fronts = judged([OURS, THEIRS, reference, refused])
    assert judgement.better == (("Shoal static", "peer static"),)
    assert not judgement.dominated
    assert fronts == {"Shoal static", "peer static"}


def test_show_of_a_dominated_front_says_which_file_by_which(capsys: pytest.CaptureFixture[str]) -> None:
    winner = contender("peer", "fast", p50_ms=0.5, wire_bytes=10_000)
    contenders = [OURS, winner, Contender("peer", "other", Form.LITERT, refusal="it does not load")]
    judgement, fronts = judged(contenders)
    show("price", "r2", contenders, judgement, fronts)
    said = capsys.readouterr().out
    assert "dominated: Shoal static by peer fast" in said
    assert "MISSED Shoal's front is dominated nowhere" in said
    assert "peer other" in said
    assert "it does not load" in said


FAST = contender("peer", "fast", p50_ms=0.5, wire_bytes=10_000)
ALIKE = contender("peer", "alike", p50_ms=1.0, wire_bytes=10_000)


@pytest.mark.parametrize(
    ("theirs", "code"), [(THEIRS, 0), (FAST, 1), (ALIKE, 1)], ids=["better", "dominated", "better-nowhere"]
)
def test_main_ends_with_1_unless_better_somewhere_and_dominated_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: Contender, code: int
) -> None:
    found = SimpleNamespace(contenders=[OURS, theirs], found=SimpleNamespace(metric="r2", trials=()))
    monkeypatch.setattr(compression, "compare", lambda *_: found)
    monkeypatch.setattr("sys.argv", ["x", "--models", "price", "--without-nncf", "--folder", str(tmp_path)])
    assert compression.main() == code
