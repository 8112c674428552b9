"""Readings of the board."""

from __future__ import annotations

import pytest

from edge_agent.telemetry.board import parse_memory_available_bytes, parse_throttled


@pytest.mark.parametrize(
    ("text", "throttled"),
    [("throttled=0x0", False), ("throttled=0x50005", True), ("50000", False), ("4", True), ("", None), ("x", None)],
)
def test_throttled_tells_what_holds_now(text: str, throttled: bool | None) -> None:  # noqa: FBT001  a parameter of the test
    assert parse_throttled(text) is throttled


def test_memory_available_is_read_or_unknown() -> None:
    assert parse_memory_available_bytes("MemTotal: 9 kB\nMemAvailable:  2048 kB\n") == 2048 * 1024
    assert parse_memory_available_bytes("MemAvailable:\n") is None
