from typing import Any

import pytest

from edge_agent.protocol.messages import Presence, Status
from server.ingest.presence import DeviceState, in_this_life, merge_presence, merge_status, presence_of

A, B = "a" * 32, "b" * 32


def presence(counter: int, session: str = A, *, online: bool = True) -> Presence:
    return Presence(session_id=session, session_counter=counter, online=online)


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (None, "never"),
        ({"session_id": None, "online": None, "last_seen_at": None}, "never"),
        ({"session_id": A, "online": True, "last_seen_at": 940.0}, "online"),
        ({"session_id": A, "online": True, "last_seen_at": 939.9}, "unknown"),
        ({"session_id": A, "online": False, "last_seen_at": 999.0}, "offline"),
        ({"session_id": A, "online": False, "last_seen_at": 1.0}, "offline"),
        ({"session_id": None, "online": False, "last_seen_at": 999.0}, "online"),
        ({"session_id": A, "online": True, "last_seen_at": 2000.0}, "online"),
    ],
)
def test_presence_of_a_row_is(row: dict[str, Any] | None, word: str) -> None:
    assert presence_of(row, now=1000.0, interval=30.0) == word


@pytest.mark.parametrize(
    ("story", "online", "counter"),
    [
        ([presence(1)], True, 1),
        ([presence(1), presence(1, online=False)], False, 1),
        ([presence(1), presence(1, online=False), presence(1)], False, 1),  # the birth, repeated after the will
        ([presence(1), presence(2, B), presence(1, online=False)], True, 2),  # the old will, late
        ([presence(2, B), presence(1)], True, 2),
        ([presence(1, A), presence(1, B, online=False)], False, 1),
        ([presence(1, B), presence(1, A, online=False)], True, 1),
    ],
)
def test_merge_presence_only_the_newer_session_counts(story: list[Presence], online: bool, counter: int) -> None:  # noqa: FBT001  a table of outcomes
    state = DeviceState(device_id="d")
    for message in story:
        state = merge_presence(state, message)
    assert (state.online, state.session_counter) == (online, counter)


def test_merge_status_only_a_higher_sequence_counts() -> None:
    newer = Status(session_id=A, sequence=5, observed_epoch=1, observed_generation=7)
    older = Status(session_id=A, sequence=4, observed_epoch=1, observed_generation=6)
    state = merge_status(DeviceState(device_id="d"), newer)
    assert merge_status(state, older) is state
    assert merge_status(state, newer) is state
    assert (state.status_sequence, state.observed_generation) == (5, 7)


def test_in_this_life_a_device_that_joined_again_starts_anew() -> None:
    before = DeviceState(device_id="d", session_counter=900, status_sequence=5000, last_seen_at=100.0)
    assert in_this_life(before, joined_at=99.0) is before
    assert in_this_life(before, joined_at=101.0) == DeviceState(device_id="d")
