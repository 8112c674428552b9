"""A device is asked until it answers; what a hostile one sends is refused, and never fills the database."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from edge_agent.protocol.inquiry import (
    AnswerPart,
    AnswerStatus,
    InquiryKind,
    LogLevel,
    LogLine,
    LogTail,
    pack,
    parts_of,
)
from server.database.tables import inquiry_answers, inquiry_parts
from server.errors import BusyError, ConflictError, NotFoundError
from server.inquiries import requests
from server.inquiries.inquirer import SWEEP_S, Inquirer
from server.inquiries.requests import KEPT_S, OPEN_LIMIT, BadAnswerError, read_answer

if TYPE_CHECKING:
    from server.database.connect import Database

# The class behind this fixture lives in a conftest, which a test can't import.
Desk = Any

TAIL = LogTail(lines=(LogLine(number=7, at=1.0, level=LogLevel.INFO, text="hello"),), last_number=7)


def count(database: Database, table: sa.Table) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0


def test_question_reaches_the_device_and_its_answer_is_read(desk: Desk) -> None:
    inquiry_id = desk.ask(lines=5, level="warning", since_s=60)
    assert desk.view(inquiry_id).state == "waiting"
    desk.tick()
    (heard,) = desk.expect_heard(1)
    assert (heard.inquiry_id, heard.lines, heard.level, heard.since_s) == (inquiry_id, 5, "warning", 60)
    assert desk.view(inquiry_id).state == "asked"
    with pytest.raises(ConflictError, match="has not answered yet"):
        read_answer(desk.database, desk.view(inquiry_id), LogTail)

    assert desk.answer(inquiry_id, pack(TAIL)) == [""]

    assert desk.view(inquiry_id).state == "answered"
    assert read_answer(desk.database, desk.view(inquiry_id), LogTail) == TAIL
    desk.tick(after_s=100)
    assert len(desk.heard) == 1, "nobody asks what is answered"


def test_device_that_is_silent_is_asked_again_until_the_time_is_over(desk: Desk, again_s: float) -> None:
    inquiry_id = desk.ask(wait_s=5 * again_s)
    desk.tick()
    desk.tick()  # too soon
    desk.expect_heard(1)
    desk.tick(after_s=again_s)
    assert {one.inquiry_id for one in desk.expect_heard(2)} == {inquiry_id}
    desk.tick(after_s=5 * again_s)
    assert desk.view(inquiry_id).state == "expired"
    assert "was never heard" in desk.view(inquiry_id).detail
    assert desk.answer(inquiry_id, pack(TAIL)) == ["answer to no open question"]
    assert len(desk.heard) == 2


def test_two_deliveries_ask_once(desk: Desk) -> None:
    other = Inquirer(desk.database, desk.connection, clock=lambda: desk.now)
    desk.ask()
    desk.tick()
    other.tick()
    desk.expect_heard(1)
    desk.ask()
    desk.now += 1
    other.tick()
    desk.tick(after_s=0.0)
    assert len({one.inquiry_id for one in desk.expect_heard(2)}) == 2


def test_answer_in_parts_out_of_order_twice_and_mixed_with_an_older_one_is_whole(desk: Desk) -> None:
    lines = tuple(LogLine(number=n, at=0, level=LogLevel.INFO, text=os.urandom(900).hex()) for n in range(200))
    old, new = LogTail(lines=lines[:150], last_number=1), LogTail(lines=lines, last_number=2)
    inquiry_id = desk.ask()
    desk.tick()
    first, *_ = parts_of(inquiry_id, pack(old))
    parts = list(parts_of(inquiry_id, pack(new)))
    assert len(parts) > 2
    for part in [first, *parts[:0:-1], parts[1]]:
        assert desk.say(part) == ""
        assert desk.view(inquiry_id).state == "asked"
    assert desk.say(parts[0]) == ""
    assert read_answer(desk.database, desk.view(inquiry_id), LogTail) == new
    assert count(desk.database, inquiry_parts) == 0


def test_device_that_refuses_is_quoted(desk: Desk) -> None:
    inquiry_id = desk.ask()
    desk.tick()
    refusal = AnswerPart(inquiry_id=inquiry_id, status=AnswerStatus.REFUSED, detail="every byte costs here")
    assert desk.say(refusal) == ""
    assert desk.view(inquiry_id).state == "refused"
    with pytest.raises(ConflictError, match="refuses: every byte costs here"):
        read_answer(desk.database, desk.view(inquiry_id), LogTail)


def test_hostile_answers_are_refused_and_leave_nothing(desk: Desk) -> None:
    inquiry_id = desk.ask()
    (part,) = parts_of(inquiry_id, pack(TAIL))
    assert desk.say(part) == "answer to no open question", "it was not asked yet"
    desk.tick()

    assert desk.say(part, device="somebody-else") == "answer to no open question"
    assert desk.say(part.model_copy(update={"inquiry_id": "f" * 32})) == "answer to no open question"
    assert desk.say(part.model_copy(update={"part": 3})) == "malformed answer"
    assert desk.say(part.model_copy(update={"data": b""})) == "malformed answer"
    assert desk.inquirer.take(desk.device, b"x" * 200_000).kind == "malformed answer"
    assert desk.inquirer.take(desk.device, b'{"v": 9, "inquiry_id": "a"}').kind == "unsupported_version answer"
    assert count(desk.database, inquiry_parts) == 0

    assert desk.say(part.model_copy(update={"sha256": "0" * 64})) == ""
    assert desk.view(inquiry_id).detail == "its parts together are not what their sha256 says"


def test_answer_that_does_not_unpack_is_a_bad_answer(desk: Desk) -> None:
    inquiry_id = desk.ask()
    desk.tick()
    desk.answer(inquiry_id, b"no deflated document")
    with pytest.raises(BadAnswerError, match="can't be used: the answer can't be inflated"):
        read_answer(desk.database, desk.view(inquiry_id), LogTail)


def test_device_has_a_limit_of_open_questions(desk: Desk) -> None:
    asked = [desk.ask(wait_s=60) for _ in range(OPEN_LIMIT)]
    with pytest.raises(BusyError, match="8 open questions"):
        desk.ask()
    desk.tick()
    desk.answer(asked[0], pack(TAIL))
    desk.ask()
    desk.now += 61
    desk.ask()


def test_nobody_asks_a_device_that_is_unknown(desk: Desk) -> None:
    desk.device = "nobody"
    with pytest.raises(NotFoundError, match="There is no device nobody"):
        desk.ask()
    with pytest.raises(NotFoundError, match="There is no inquiry"):
        desk.view("0" * 32)


def test_question_is_forgotten_with_its_answer(desk: Desk) -> None:
    old = desk.ask(InquiryKind.DIAGNOSIS)
    desk.tick()
    desk.answer(old, b"x")
    desk.now += KEPT_S + SWEEP_S
    new = desk.ask()
    desk.tick()
    assert count(desk.database, inquiry_answers) == 1
    assert desk.view(new).state == "asked"
    with pytest.raises(NotFoundError, match="is forgotten after 2 days"):
        requests.get(desk.database, old, now=desk.now, interval_s=60)
