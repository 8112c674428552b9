"""The wire format of protocol buffers: where each field of a message lies. It knows no message, and copies nothing.

Stricter than the libraries on purpose: groups, tags of more than 32 bits and numbers of more than 64 are errors, so
that this reader and the library behind it can't understand a file differently.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
_SIZES = {FIXED64: 8, FIXED32: 4}
_VARINT_BYTES = 10
_VARINT_BITS, _TAG_BITS = 64, 32


class ProtobufError(ValueError):
    """The bytes are no message; says where."""


class WireField(NamedTuple):
    """One field as it is written."""

    number: int
    wire: int  # VARINT, FIXED64, DELIMITED or FIXED32
    start: int  # of its value, in the bytes that were read
    end: int
    value: int  # of a varint, unsigned; otherwise 0


def fields(content: memoryview, start: int, end: int, name: str) -> Iterator[WireField]:
    """The fields of a message, in their order.

    Spans are given rather than views, which would keep a mapped file open as long as an error's traceback lives.

    Args:
        content: all bytes of the file.
        start: where the message begins in them.
        end: where it ends.
        name: of the message, for errors.

    Raises:
        ProtobufError: the bytes are no message.
    """
    at = start
    while at < end:
        tag, at = varint(content, at, end, name)
        number, wire = tag >> 3, tag & 7
        if tag >> _TAG_BITS:
            raise ProtobufError(f"{name} has a field of a number that can't be")
        if wire == VARINT:
            value, stop = varint(content, at, end, f"{name}.{number}")
            yield WireField(number, wire, at, stop, value)
            at = stop
            continue
        if wire == DELIMITED:
            length, at = varint(content, at, end, f"{name}.{number}")
        elif wire in _SIZES:
            length = _SIZES[wire]
        else:
            raise ProtobufError(f"{name}.{number} is a group, which is no part of this format")
        if length > end - at:
            raise ProtobufError(f"{name}.{number} ends beyond its message")
        yield WireField(number, wire, at, at + length, 0)
        at += length


def varint(content: memoryview, start: int, end: int, name: str) -> tuple[int, int]:
    """A number of at most 64 bits, unsigned, and where it ends.

    Raises:
        ProtobufError: it is longer, or the bytes end before it does.
    """
    number = 0
    for count, byte in enumerate(content[start : min(start + _VARINT_BYTES, end)]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:  # noqa: PLR2004  the top bit says that another byte follows
            if number >> _VARINT_BITS:
                break
            return number, start + count + 1
    raise ProtobufError(f"{name} holds a number that does not end")
