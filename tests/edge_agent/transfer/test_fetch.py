"""When a device asks for blocks, and which."""

from __future__ import annotations

import pytest

from edge_agent.protocol.messages import Reply, ReplyStatus
from edge_agent.transfer.fetch import BlockFetch
from edge_agent.transfer.http_fetch import runs


def test_block_fetch_without_answers_asks_less_and_less_often() -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=2.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.5)
    waits, now_s = [], 0.0
    for _ in range(10):
        waits.append(fetch.ask_at_s - now_s)
        now_s = fetch.ask_at_s
        assert fetch.due(now_s)
        fetch.asked(now_s)
    assert waits[0] < 2
    assert waits[1:] == sorted(waits[1:])
    assert waits[-1] <= 130


@pytest.mark.parametrize(
    ("status", "failed"),
    [("ok", False), ("slow_down", False), ("unavailable", False), ("not_found", True), ("gone", True)],
)
def test_block_fetch_answered_waits_or_fails(status: str, failed: bool) -> None:  # noqa: FBT001  a parameter of the test
    fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.0)
    fetch.asked(0.0)
    fetch.answered(1.0, Reply.model_validate({"kind": "blocks", "status": ReplyStatus(status), "retry_after_s": 3.0}))
    assert (fetch.failure is not None) == failed
    assert failed or fetch.ask_at_s >= 4.0


def ask_again(fetch: BlockFetch, *, new: int, wrong: int) -> bool:
    """Go on until the next question and let blocks come; whether there was a question."""
    now_s = fetch.ask_at_s
    if not fetch.due(now_s):
        return False
    fetch.asked(now_s)
    for _ in range(wrong):
        fetch.block_arrived(now_s, new=False, wrong=True)
    for _ in range(new):
        fetch.block_arrived(now_s, new=True)
    return True


def test_block_fetch_whose_blocks_are_always_wrong_gives_up() -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.0)
    questions = 0
    while questions < 50 and ask_again(fetch, new=0, wrong=3):
        questions += 1
    assert questions == 5
    assert fetch.failure is not None
    assert fetch.failure.reason == "transfer_failed"


@pytest.mark.parametrize(("new", "wrong"), [(0, 0), (1, 3)], ids=["silence", "some are right"])
def test_block_fetch_that_hears_nothing_or_something_right_asks_on(new: int, wrong: int) -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.0)
    assert all(ask_again(fetch, new=new, wrong=wrong) for _ in range(50))


def test_runs_of_blocks_are_one_range_each() -> None:
    assert list(runs([])) == []
    assert list(runs([0])) == [(0, 0)]
    assert list(runs([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]
