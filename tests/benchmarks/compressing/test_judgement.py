"""The comparison of compressed models: what counts as better, and what is noise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.compressing.judgement import Entrant, front, judge

OURS = Entrant("ours", metric=0.90, low=0.88, high=0.92, p50_ms=(1.0, 1.1, 1.05, 1.02, 1.2), wire_bytes=10_000)
THEIRS = replace(OURS, name="theirs")
FASTER = {"p50_ms": (0.5, 0.6, 0.55, 0.52, 0.99)}
RIGHTER = {"metric": 0.93, "low": 0.91, "high": 0.95}
SMALLER = {"wire_bytes": 9_000}


@pytest.mark.parametrize("gain", [FASTER, RIGHTER, SMALLER])
def test_judge_of_a_peer_that_gains_and_loses_nothing_says_dominated(gain: dict[str, object]) -> None:
    found = judge([OURS], [replace(THEIRS, **gain)])  # type: ignore[arg-type]
    assert found.dominated == (("theirs", "ours"),)
    assert not found.better


@pytest.mark.parametrize("gain", [FASTER, RIGHTER, SMALLER])
def test_judge_of_our_gain_that_loses_nothing_says_better(gain: dict[str, object]) -> None:
    found = judge([replace(OURS, **gain)], [THEIRS])  # type: ignore[arg-type]
    assert found.better == (("ours", "theirs"),)
    assert not found.dominated


@pytest.mark.parametrize(
    "noise",
    [
        pytest.param({"p50_ms": (0.9, 0.9, 0.9, 0.9, 1.01)}, id="one turn of theirs was as slow as one of ours"),
        pytest.param({"metric": 0.92, "low": 0.90, "high": 0.94}, id="within the interval of ours"),
        pytest.param({"wire_bytes": 9_901}, id="less than one per cent smaller"),
    ],
)
def test_judge_of_a_difference_within_the_noise_says_nothing(noise: dict[str, object]) -> None:
    found = judge([OURS], [replace(THEIRS, **noise)])  # type: ignore[arg-type]
    assert found.dominated == found.better == ()


@pytest.mark.parametrize(
    ("gain", "loss"),
    [
        (FASTER, {"metric": 0.87, "low": 0.85, "high": 0.89}),
        (FASTER, {"wire_bytes": 11_000}),
        (RIGHTER, {"p50_ms": (2.0, 2.1, 2.0, 2.0, 2.2)}),
        (SMALLER, {"p50_ms": (1.21, 1.3, 1.3, 1.3, 1.3)}),
    ],
)
def test_judge_of_a_trade_says_nothing(gain: dict[str, object], loss: dict[str, object]) -> None:
    found = judge([OURS], [replace(THEIRS, **gain, **loss)])  # type: ignore[arg-type]
    assert found.dominated == found.better == ()


def test_judge_of_a_worse_one_of_ours_that_another_of_ours_covers_says_not_dominated() -> None:
    worse = replace(OURS, name="worse", wire_bytes=40_000)
    assert judge([worse, OURS], [THEIRS]).dominated == ()
    assert judge([worse], [THEIRS]).dominated == (("theirs", "worse"),)


def test_judge_of_a_win_over_what_another_peer_beats_anyway_says_not_better() -> None:
    bad = replace(THEIRS, name="bad", wire_bytes=40_000)
    assert judge([OURS], [bad]).better == (("ours", "bad"),)
    assert judge([OURS], [bad, THEIRS]).better == ()


def test_judge_of_a_loss_outside_of_our_short_interval_alone_says_not_dominated() -> None:
    nearly_perfect = replace(OURS, metric=0.975, low=0.925, high=1.0)
    far_off = replace(THEIRS, metric=0.875, low=0.75, high=0.975, wire_bytes=8_000)
    assert not judge([nearly_perfect], [far_off]).dominated
    assert not judge([far_off], [nearly_perfect]).dominated


def test_front_keeps_trades_and_equals() -> None:
    fast = replace(OURS, name="fast", wire_bytes=20_000, p50_ms=(0.1,) * 5)
    slow = replace(OURS, name="slow", p50_ms=(3.0,) * 5)
    assert [one.name for one in front([slow, OURS, THEIRS, fast])] == ["ours", "theirs", "fast"]
