"""What the registry asks of a device beyond its wanted state: its log, or all that helps to find out what is wrong.

An inquiry goes to `inquiry`; the answer, one JSON document, is compressed, cut into parts and sent to `answer`. Every
size is capped before anything is unpacked, and what comes out is validated: a device names no file and no path.
"""

from __future__ import annotations

import hashlib
import zlib
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from edge_agent.protocol.base import Count, Detail, Name, Seconds, Sha256, Wire
from edge_agent.protocol.messages import MalformedMessageError, Message, UnixTime
from edge_agent.protocol.topics import DeviceTopic

if TYPE_CHECKING:
    from collections.abc import Iterator

PART_BYTES: Final = 48 << 10  # 64 KiB as base64
MAX_PARTS: Final = 16
MAX_PACKED_BYTES: Final = PART_BYTES * MAX_PARTS
MAX_DOCUMENT_BYTES: Final = 8 << 20
MAX_LINES: Final = 5000
MAX_TEXT: Final = 4096

InquiryId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class InquiryKind(StrEnum):
    """What is asked for."""

    LOG = "log"
    DIAGNOSIS = "diagnosis"


class LogLevel(StrEnum):
    """How grave a line is, from the least."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """Its place in the order."""
        return list(LogLevel).index(self)


class Inquiry(Message):
    """A question of the registry's, asked again until it is answered; the same id is the same question.

    `since_s`: lines of so many seconds before now, by the device's own clock. `after`: lines with a greater number.
    `even_metered`: a device that pays for every byte sends a large answer all the same.
    """

    topic = DeviceTopic.INQUIRY
    inquiry_id: InquiryId
    kind: InquiryKind
    lines: Annotated[int, Field(ge=1, le=MAX_LINES)] = 200
    level: LogLevel = LogLevel.INFO
    since_s: Seconds | None = None
    after: Count = 0
    even_metered: bool = False


class AnswerStatus(StrEnum):
    """How an inquiry ended on the device."""

    OK = "ok"
    REFUSED = "refused"  # `detail` is the sentence for the operator


class AnswerPart(Message):
    """One part of an answer; `sha256` is that of all parts together, so that two answers are never mixed."""

    topic = DeviceTopic.ANSWER
    inquiry_id: InquiryId
    status: AnswerStatus
    detail: Detail = ""
    sha256: Sha256 | None = None
    part: Annotated[int, Field(ge=0, lt=MAX_PARTS)] = 0
    parts: Annotated[int, Field(ge=1, le=MAX_PARTS)] = 1
    data: Annotated[bytes, Field(max_length=PART_BYTES)] = b""


def one_line(text: str) -> str:
    """A text without what would move a terminal's cursor or end a line; a line's own end stays."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


class LogLine(Wire):
    """One entry of a device's log; its text may have several lines. Numbers only grow, clocks may not."""

    number: Count
    at: UnixTime
    level: LogLevel
    text: Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(one_line)]


class LogTail(Wire):
    """The latest lines that an inquiry means, oldest first."""

    lines: Annotated[tuple[LogLine, ...], Field(max_length=MAX_LINES)] = ()
    last_number: Count = 0  # of the newest line that is there, whether it is meant or not
    left_out: Count = 0  # older lines that are meant, too, and are kept


class Diagnosis(Wire):
    """All that a device knows of itself; nothing in it is secret. Each section is one file of the bundle."""

    device_id: Name | None = None  # None: it has not joined
    taken_at: UnixTime = 0.0
    agent: dict[str, JsonValue] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    machine: dict[str, JsonValue] = Field(default_factory=dict)
    runtimes: dict[str, JsonValue] = Field(default_factory=dict)
    deployments: dict[str, JsonValue] = Field(default_factory=dict)
    variants: dict[str, JsonValue] = Field(default_factory=dict)
    transfers: dict[str, JsonValue] = Field(default_factory=dict)
    telemetry: dict[str, JsonValue] = Field(default_factory=dict)
    log: LogTail = LogTail()


DocumentT = TypeVar("DocumentT", LogTail, Diagnosis)


def pack(document: LogTail | Diagnosis) -> bytes:
    """A document as it travels: JSON, deflated."""
    return zlib.compress(document.model_dump_json().encode(), 9)


def unpack(kind: type[DocumentT], packed: bytes) -> DocumentT:
    """Read a document that came from a device.

    Raises:
        MalformedMessageError: it is too large, packed or unpacked, damaged, or does not fit.
    """
    if len(packed) > MAX_PACKED_BYTES:
        raise MalformedMessageError(f"an answer may have {MAX_PACKED_BYTES} bytes, this one has {len(packed)}")
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(packed, MAX_DOCUMENT_BYTES + 1)
    except zlib.error as exc:
        raise MalformedMessageError(f"the answer can't be inflated: {exc}") from exc
    if len(text) > MAX_DOCUMENT_BYTES:
        raise MalformedMessageError(f"the answer has more than {MAX_DOCUMENT_BYTES} bytes when it is inflated")
    if not inflater.eof:
        raise MalformedMessageError("the answer is cut off")
    try:
        return kind.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MalformedMessageError(f"the answer does not fit: {where}: {first['msg']}") from exc


def parts_of(inquiry_id: str, packed: bytes) -> Iterator[AnswerPart]:
    """Cut an answer into the messages that carry it. `packed` has at most `MAX_PACKED_BYTES` bytes, and at least 1."""
    count, sha256 = -(-len(packed) // PART_BYTES), hashlib.sha256(packed).hexdigest()
    for part in range(count):
        data = packed[part * PART_BYTES : (part + 1) * PART_BYTES]
        yield AnswerPart(
            inquiry_id=inquiry_id, status=AnswerStatus.OK, sha256=sha256, part=part, parts=count, data=data
        )
