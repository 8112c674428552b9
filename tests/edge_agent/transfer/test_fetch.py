"""When a device asks for blocks, and which."""

from __future__ import annotations

import pytest

from edge_agent.protocol.messages import Reply, ReplyStatus
from edge_agent.transfer.fetch import BlockFetch
from edge_agent.transfer.http_fetch import runs


def test_block_fetch_without_answers_asks_less_and_less_often() -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=2.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.5)
    waits, now_s = [], 0.0
    while fetch.failure is None:
        waits.append(fetch.ask_at_s - now_s)
        now_s = fetch.ask_at_s
        if fetch.due(now_s):
            fetch.asked(now_s)
    assert waits[0] < 2
    assert waits[1:] == sorted(waits[1:])
    assert waits[-1] <= 130
    assert len(waits) - 1 == 8, "then it is told"
    assert fetch.failure.reason == "transfer_failed"
    assert fetch.failure.again
    assert "8 questions in a row brought no block: the registry does not answer" in fetch.failure.detail


def test_block_fetch_told_to_wait_again_and_again_says_so_in_the_end() -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.5)
    busy = Reply.model_validate({"kind": "blocks", "status": "unavailable", "retry_after_s": 30.0, "detail": "no S3"})
    while fetch.due(fetch.ask_at_s):
        now_s = fetch.ask_at_s
        fetch.asked(now_s)
        fetch.answered(now_s, busy)
        assert fetch.ask_at_s - now_s >= 30.0
    assert fetch.failure is not None
    assert fetch.failure.detail.endswith("the registry answers unavailable. no S3")


def test_block_fetch_that_has_all_the_blocks_of_an_answer_asks_for_the_next_at_once() -> None:
    sent = Reply.model_validate({"kind": "blocks", "status": "ok", "blocks_sent": 3})
    for answer_after in (0, 2, 3):  # two threads of the registry: blocks and answer may overtake one another
        fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.5)
        fetch.asked(0.0)
        for came in range(4):
            if came == answer_after:
                fetch.answered(1.0 + came, sent)
            if came < 3:
                assert not fetch.due(1.0 + came), "some are still on their way"
                fetch.block_arrived(1.0 + came, new=True, private=True)
        assert fetch.due(4.0)


def test_block_fetch_hearing_the_pass_for_all_does_not_take_its_blocks_for_its_own() -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.5)
    fetch.asked(0.0)
    fetch.answered(1.0, Reply.model_validate({"kind": "blocks", "status": "ok", "blocks_sent": 1}))
    fetch.block_arrived(1.0, new=True)
    assert not fetch.due(1.1)
    fetch.block_arrived(1.2, new=True, private=True)
    assert fetch.due(1.2)


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
    assert fetch.failure is None or not fetch.failure.again


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


def test_block_fetch_that_hears_something_right_asks_on() -> None:
    fetch = BlockFetch(now_s=0.0, listen_s=0.0, quiet_s=1.0, answer_s=10.0, chance=lambda: 0.0)
    assert all(ask_again(fetch, new=1, wrong=3) for _ in range(50))


def test_runs_of_blocks_are_one_range_each() -> None:
    assert list(runs([])) == []
    assert list(runs([0])) == [(0, 0)]
    assert list(runs([0, 1, 2, 5, 7, 8])) == [(0, 2), (5, 5), (7, 8)]
