from __future__ import annotations

import pytest

from server.inquiries.wording import silence, span


@pytest.mark.parametrize(
    ("presence", "last_seen_at", "words"),
    [
        ("never", None, "was never heard"),
        ("offline", 1000.0, "is offline, last heard 2 h ago"),
        ("unknown", 8141.0, "is silent, last heard 59 s ago"),
        ("online", 8199.0, "An agent older than the registry does not know this question"),
    ],
)
def test_silence_says_what_is_known_and_what_to_do(presence: str, last_seen_at: float | None, words: str) -> None:
    sentence = silence("d1", presence, last_seen_at, now=8200.0, waited_s=30.0)
    assert words in sentence
    assert "nothing came within 30 s" in sentence


def test_span_is_in_its_largest_unit() -> None:
    assert [span(s) for s in (0.0, 59.0, 60.0, 7200.0, 259_200.0)] == ["0 s", "59 s", "1 min", "2 h", "3 d"]
