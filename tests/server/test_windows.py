"""Windows in time zones: over midnight, in the hour that spring leaves out and the one that comes twice in autumn."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.windows import check_zone, find_zone, is_open, next_opening, parse_window, zone_of

BERLIN = "Europe/Berlin"


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize("text", ["", "22-04", "24:00-01:00", "22:00-22:00", "22:00-04:60", "٢٢:00-04:00", "9" * 500])
def test_parse_window_bad_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"22:00-04:00|whole day") as caught:
        parse_window(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", ["", "Europe", "Europe/Berln", "../etc/passwd", "/etc/passwd", "a\0b", "x" * 500])
def test_zone_unknown_is_refused_and_never_a_crash(name: str) -> None:
    assert find_zone(name) is None
    assert zone_of(name, default=BERLIN) == BERLIN
    with pytest.raises(ValueError, match="is no time zone"):
        check_zone(name)


@pytest.mark.parametrize(
    ("now", "window", "opens"),
    [
        pytest.param("2026-11-26T20:59:59", "22:00-04:00", "2026-11-26T21:00:00", id="begins-at-22-local"),
        pytest.param("2026-11-27T02:59:59", "22:00-04:00", "2026-11-27T02:59:59", id="after-midnight"),
        pytest.param("2026-11-27T03:00:00", "22:00-04:00", "2026-11-27T21:00:00", id="its-end-is-outside"),
        pytest.param("2026-03-29T00:30:00", "02:30-04:00", "2026-03-29T01:00:00", id="its-beginning-is-missing"),
        pytest.param("2026-03-29T00:30:00", "02:10-02:50", "2026-03-30T00:10:00", id="all-of-it-is-missing"),
        pytest.param("2026-10-25T00:40:00", "02:10-02:50", "2026-10-25T00:40:00", id="the-first-of-two"),
        pytest.param("2026-10-25T00:55:00", "02:10-02:50", "2026-10-25T01:10:00", id="the-second-of-two"),
    ],
)
def test_next_opening_in_berlin_is_what_the_clock_on_the_wall_says(now: str, window: str, opens: str) -> None:
    assert next_opening(parse_window(window), BERLIN, now=at(now)) == at(opens)


@given(
    st.floats(min_value=1.6e9, max_value=2.0e9),
    st.sampled_from([BERLIN, "UTC", "Australia/Lord_Howe", "America/St_Johns", "Asia/Kathmandu", "Pacific/Apia"]),
    st.times(),
    st.times(),
)
def test_next_opening_any_window_is_open_then_and_not_a_minute_before(
    now: float, zone: str, begins: object, ends: object
) -> None:
    text = f"{begins:%H:%M}-{ends:%H:%M}"
    if text[:5] == text[6:]:
        return
    window = parse_window(text)
    opens = next_opening(window, zone, now=now)
    assert is_open(window, zone, now=opens)
    assert now <= opens <= now + 2.1 * 86400
    assert not any(is_open(window, zone, now=now + step) for step in range(0, int(opens - now), 60))
