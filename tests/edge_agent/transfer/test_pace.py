"""A device's limit: kept on the average, whatever fetches."""

from __future__ import annotations

import pytest

from edge_agent.transfer.pace import Pace


@pytest.mark.parametrize("rate_bytes_s", [1024, 50_000, 3_000_000])
@pytest.mark.parametrize("piece_bytes", [500, 65_536])
def test_pace_lets_come_no_more_than_its_rate_and_one_second_ahead(rate_bytes_s: int, piece_bytes: int) -> None:
    pace, now_s, fetched_bytes = Pace(rate_bytes_s), 1000.0, 0
    for _ in range(200):
        now_s += pace.wait_s(now_s)
        assert fetched_bytes <= rate_bytes_s * (now_s - 1000.0 + 1.0) + 1.0, "before the next piece"
        pace.charge(piece_bytes, now_s)
        fetched_bytes += piece_bytes
    assert fetched_bytes == 200 * piece_bytes
    assert now_s - 1000.0 <= fetched_bytes / rate_bytes_s, "and no less"


def test_pace_that_was_idle_saves_nothing_up() -> None:
    pace = Pace(1000)
    pace.charge(1000, 0.0)
    assert pace.wait_s(0.0) == 0.0
    pace.charge(2000, 3600.0)
    assert pace.wait_s(3600.0) == pytest.approx(1.0)


def test_pace_without_a_limit_never_waits() -> None:
    pace = Pace(None)
    pace.charge(1 << 40, 0.0)
    assert pace.wait_s(0.0) == 0.0
    assert not pace.limited
    assert pace.at_once_bytes is None
