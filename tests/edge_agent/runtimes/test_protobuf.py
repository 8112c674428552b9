from __future__ import annotations

import pytest

from edge_agent.runtimes.protobuf import DELIMITED, FIXED32, FIXED64, VARINT, ProtobufError, WireField, fields, varint


def read(content: bytes) -> list[WireField]:
    return list(fields(memoryview(content), 0, len(content), "message"))


def test_fields_of_every_kind_are_given_with_their_spans() -> None:
    content = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d" + b"4444" + b"\x21" + b"88888888"
    assert [one.wire for one in read(content)] == [VARINT, DELIMITED, FIXED32, FIXED64]
    assert [one.number for one in read(content)] == [1, 2, 3, 4]
    assert [content[one.start : one.end] for one in read(content)] == [b"\x96\x01", b"abc", b"4444", b"88888888"]
    assert read(content)[0].value == 150


def test_fields_of_a_part_stay_within_it() -> None:
    content = b"\xff\x08\x01\x08\x02\xff"
    assert [one.value for one in fields(memoryview(content), 1, 5, "message")] == [1, 2]


def test_varint_of_64_bits_is_read_whole() -> None:
    assert varint(memoryview(b"\xff" * 9 + b"\x01"), 0, 10, "message") == (2**64 - 1, 10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x08", "message.1 holds a number that does not end"),
        (b"\x08\x80", "message.1 holds a number that does not end"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "message.1 holds a number that does not end"),
        (b"\x80", "message holds a number that does not end"),
        (b"\x12\x04abc", "message.2 ends beyond its message"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "message.2 ends beyond its message"),
        (b"\x1d444", "message.3 ends beyond its message"),
        (b"\x0b\x0c", "message.1 is a group"),
        (b"\x88\x80\x80\x80\x10\x01", "a number that can't be"),
    ],
    ids=["none", "cut-number", "65-bits", "cut-tag", "cut-bytes", "huge-length", "cut-fixed", "group", "huge-tag"],
)
def test_fields_of_bytes_that_are_no_message_are_refused_with_the_place(content: bytes, said: str) -> None:
    with pytest.raises(ProtobufError, match=said):
        read(content)
