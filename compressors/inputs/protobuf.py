"""Protocol buffers read by tables: what no table names is refused, so that nothing unknown gets past a gate.

Stricter than the libraries on purpose: a field that may stand once and stands twice, a group, or a number longer than
it may be are errors, so that this reader and the library behind the gate can't understand a file differently.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

MAX_DEPTH = 24
MAX_FIELDS = 4_000_000
_VARINT_BYTES = 10
_BITS = 64


class ProtobufError(ValueError):
    """The bytes are no message of this kind; says where."""


class Kind(Enum):
    """What a field holds, where it is no message."""

    INTEGER = auto()  # signed, 64 bits
    FLOAT = auto()
    DOUBLE = auto()
    TEXT = auto()
    BYTES = auto()  # a view, not a copy; also packed numbers that nobody needs one by one
    IGNORED = auto()  # names for people; skipped unread


@dataclass(frozen=True)
class Field:
    """One field of a message."""

    name: str
    kind: Kind | dict[int, Field]
    repeated: bool = False


Table = dict[int, Field]
Message = dict[str, Any]  # values by field name; a list where the field is repeated

_WIRE = {Kind.INTEGER: 0, Kind.DOUBLE: 1, Kind.FLOAT: 5}  # everything else: 2
_DELIMITED = 2
_SIZES = {1: 8, 5: 4}
_FORMATS = {Kind.FLOAT: "<f", Kind.DOUBLE: "<d"}


def read(content: bytes | memoryview, table: Table, name: str) -> Message:
    """Read one message.

    Args:
        content: all of its bytes.
        table: its fields by number.
        name: of the message, for errors.

    Raises:
        ProtobufError: a field that the table does not know, or bytes that are no message.
    """
    return _Reader().message(memoryview(content), table, name, 0)


class _Reader:
    def __init__(self) -> None:
        self._fields = 0

    def message(self, view: memoryview, table: Table, name: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise ProtobufError(f"{name} lies more than {MAX_DEPTH} messages deep")
        found: Message = {}
        at = 0
        while at < len(view):
            tag, at = _varint(view, at, name)
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise ProtobufError(f"there are more than {MAX_FIELDS} fields")
            field = table.get(tag >> 3)
            if field is None:
                raise ProtobufError(f"{name} has a field {tag >> 3}, which is not known")
            at = self._field(view, at, tag & 7, field, found, f"{name}.{field.name}", depth)
        return found

    def _field(self, view: memoryview, at: int, wire: int, field: Field, found: Message, where: str, depth: int) -> int:
        piece, at, number = _piece(view, at, wire, where)
        if field.kind is Kind.IGNORED:
            return at
        value: Any
        if isinstance(field.kind, dict):
            if wire != _DELIMITED:
                raise ProtobufError(f"{where} is no message")
            value = self.message(piece, field.kind, where, depth + 1)
        elif wire == _DELIMITED and field.kind in _WIRE and field.repeated:
            self._fields += len(piece)
            if self._fields > MAX_FIELDS:
                raise ProtobufError(f"there are more than {MAX_FIELDS} fields")
            found.setdefault(field.name, []).extend(_unpack(piece, field.kind, where))
            return at
        else:
            value = _scalar(piece, number, wire, field.kind, where)
        if field.repeated:
            found.setdefault(field.name, []).append(value)
        elif field.name in found:
            raise ProtobufError(f"{where} stands twice")
        else:
            found[field.name] = value
        return at


def _piece(view: memoryview, at: int, wire: int, where: str) -> tuple[memoryview, int, int]:
    """The bytes of a field's value, where the next one begins, and the number that a varint is."""
    if wire == 0:
        number, end = _varint(view, at, where)
        return view[at:end], end, number
    if wire == _DELIMITED:
        length, at = _varint(view, at, where)
    elif wire in _SIZES:
        length = _SIZES[wire]
    else:
        raise ProtobufError(f"{where} is a group, which is no part of this format")
    if length > len(view) - at:
        raise ProtobufError(f"{where} ends beyond its message")
    return view[at : at + length], at + length, 0


def _varint(view: memoryview, at: int, where: str) -> tuple[int, int]:
    number = 0
    for count, byte in enumerate(view[at : at + _VARINT_BYTES]):
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:  # noqa: PLR2004  the top bit says that another byte follows
            if number >> _BITS:
                break
            return number, at + count + 1
    raise ProtobufError(f"{where} holds a number that does not end")


def _signed(number: int) -> int:
    return number - (1 << _BITS) if number >> (_BITS - 1) else number


def _scalar(piece: memoryview, number: int, wire: int, kind: Kind, where: str) -> Any:  # noqa: ANN401
    if wire != _WIRE.get(kind, _DELIMITED):
        raise ProtobufError(f"{where} is written as something else than it is")
    if kind is Kind.INTEGER:
        return _signed(number)
    if kind in _FORMATS:
        return struct.unpack(_FORMATS[kind], piece)[0]
    if kind is Kind.BYTES:
        return piece
    try:
        return str(piece, "utf-8")
    except UnicodeDecodeError as exc:
        raise ProtobufError(f"{where} is no text") from exc


def _unpack(piece: memoryview, kind: Kind, where: str) -> list[Any]:
    if kind in _FORMATS:
        size = struct.calcsize(_FORMATS[kind])
        if len(piece) % size:
            raise ProtobufError(f"{where} holds part of a number")
        return [value for (value,) in struct.iter_unpack(_FORMATS[kind], piece)]
    values, at = [], 0
    while at < len(piece):
        number, at = _varint(piece, at, where)
        values.append(_signed(number))
    return values
