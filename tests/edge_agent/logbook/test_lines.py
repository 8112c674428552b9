from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.logbook.lines import entries, entry, hide, tail
from edge_agent.protocol.inquiry import Inquiry, InquiryKind, LogLevel, LogLine

NOW = 1_700_000_000.0


def line(number: int, text: str = "hello", level: LogLevel = LogLevel.INFO, at: float = NOW) -> LogLine:
    return LogLine(number=number, at=at, level=level, text=text)


def inquiry(**options: object) -> Inquiry:
    return Inquiry.model_validate({"inquiry_id": "a" * 32, "kind": InquiryKind.LOG, **options})


@given(st.lists(st.text(max_size=300), max_size=5))
def test_entries_of_any_texts_come_back_as_many_and_none_looks_like_another(texts: list[str]) -> None:
    written = "".join(entry(line(number, text)) for number, text in enumerate(texts))
    assert [one.number for one in entries(written)] == list(range(len(texts)))


def test_entry_of_a_traceback_comes_back_whole() -> None:
    text = "it failed\nTraceback:\n  File x\n17 2026-01-01T00:00:00.000Z ERROR forged"
    (back,) = entries(entry(line(3, text, LogLevel.ERROR)))
    assert back == line(3, text, LogLevel.ERROR)


def test_entry_with_control_characters_moves_no_cursor() -> None:
    assert "\x1b" not in entry(line(1, "\x1b[2Jgone\r"))


@pytest.mark.parametrize(
    "damage", ["\0\0\0\0", "17 2026-13-01T00:00:00.000Z INFO x", "\tan end without a beginning", "x INFO", "9" * 40]
)
def test_entries_damaged_by_a_power_cut_are_left_out(damage: str) -> None:
    assert [one.number for one in entries(f"{damage}\n{entry(line(5))}")] == [5]


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("key is 0123abcd.", "key is ***."),
        ("GET http://s3:8333/b/x?X-Amz-Signature=1f2e&a=b failed", "GET http://s3:8333/b/x?*** failed"),
        ("mqtt://joe:pass@broker:1883", "mqtt://***@broker:1883"),
        ("what? nothing", "what? nothing"),
    ],
)
def test_hide_takes_out_what_is_secret(text: str, hidden: str) -> None:
    assert hide(text, ("0123abcd", "")) == hidden


def test_tail_gives_the_latest_that_are_meant_and_counts_the_rest() -> None:
    found = [line(n, level=LogLevel.WARNING if n % 2 else LogLevel.INFO, at=NOW - 100 + n) for n in range(1, 11)]

    meant = tail(found, inquiry(lines=3, level="warning"), now=NOW)
    assert [one.number for one in meant.lines] == [5, 7, 9]
    assert (meant.last_number, meant.left_out) == (10, 2)

    assert [one.number for one in tail(found, inquiry(since_s=92), now=NOW).lines] == [8, 9, 10]
    assert [one.number for one in tail(found, inquiry(after=8), now=NOW).lines] == [9, 10]
    assert tail(found, inquiry(after=10), now=NOW).lines == ()


def test_tail_after_a_line_of_a_log_that_is_lost_gives_all() -> None:
    assert [one.number for one in tail([line(1), line(2)], inquiry(after=900), now=NOW).lines] == [1, 2]


def test_tail_of_nothing_is_empty() -> None:
    assert tail([], inquiry(after=7), now=NOW).last_number == 0
