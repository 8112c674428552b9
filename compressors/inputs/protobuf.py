"""Protocol buffers read by tables: what no table names is refused, so that nothing unknown gets past a gate.

Stricter than the libraries on purpose, beyond what `edge_agent.runtimes.protobuf` refuses: a field that may stand once
and stands twice is an error, too.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from edge_agent.runtimes.protobuf import DELIMITED, FIXED32, FIXED64, VARINT, ProtobufError, WireField, fields, varint

MAX_DEPTH = 24
MAX_FIELDS = 4_000_000
_BITS = 64


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

_WIRE = {Kind.INTEGER: VARINT, Kind.DOUBLE: FIXED64, Kind.FLOAT: FIXED32}  # everything else: DELIMITED
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
    view = memoryview(content)
    return _Reader(view).message(0, len(view), table, name, 0)


class _Reader:
    def __init__(self, content: memoryview) -> None:
        self._content, self._fields = content, 0

    def message(self, start: int, end: int, table: Table, name: str, depth: int) -> Message:
        if depth > MAX_DEPTH:
            raise ProtobufError(f"{name} lies more than {MAX_DEPTH} messages deep")
        found: Message = {}
        for written in fields(self._content, start, end, name):
            self._count(1)
            field = table.get(written.number)
            if field is None:
                raise ProtobufError(f"{name} has a field {written.number}, which is not known")
            if field.kind is not Kind.IGNORED:
                self._field(written, field, found, f"{name}.{field.name}", depth)
        return found

    def _field(self, written: WireField, field: Field, found: Message, where: str, depth: int) -> None:
        piece = self._content[written.start : written.end]
        value: Any
        if isinstance(field.kind, dict):
            if written.wire != DELIMITED:
                raise ProtobufError(f"{where} is no message")
            value = self.message(written.start, written.end, field.kind, where, depth + 1)
        elif written.wire == DELIMITED and field.kind in _WIRE and field.repeated:
            self._count(len(piece))
            found.setdefault(field.name, []).extend(_unpack(piece, field.kind, where))
            return
        else:
            value = _scalar(piece, written, field.kind, where)
        if field.repeated:
            found.setdefault(field.name, []).append(value)
        elif field.name in found:
            raise ProtobufError(f"{where} stands twice")
        else:
            found[field.name] = value

    def _count(self, fields_read: int) -> None:
        self._fields += fields_read
        if self._fields > MAX_FIELDS:
            raise ProtobufError(f"there are more than {MAX_FIELDS} fields")


def _signed(number: int) -> int:
    return number - (1 << _BITS) if number >> (_BITS - 1) else number


def _scalar(piece: memoryview, written: WireField, kind: Kind, where: str) -> Any:  # noqa: ANN401
    if written.wire != _WIRE.get(kind, DELIMITED):
        raise ProtobufError(f"{where} is written as something else than it is")
    if kind is Kind.INTEGER:
        return _signed(written.value)
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
        number, at = varint(piece, at, len(piece), where)
        values.append(_signed(number))
    return values
