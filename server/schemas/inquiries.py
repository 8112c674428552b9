"""What a device is asked, and what became of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, StrictBool

from edge_agent.protocol.base import Count, Name
from edge_agent.protocol.inquiry import MAX_LINES, InquiryKind, LogLevel
from server.schemas.common import Document, RequestDocument

LONGEST_S: Final = 86_400.0


class InquiryForm(RequestDocument):
    """A question to a device."""

    kind: InquiryKind
    lines: Annotated[int, Field(ge=1, le=MAX_LINES)] = 200
    level: LogLevel = LogLevel.INFO
    since_s: Annotated[float | None, Field(gt=0, le=366 * 86_400.0)] = None  # lines of so long, by the device's clock
    after: Count = 0  # lines with a greater number
    even_metered: StrictBool = False  # a large answer also of a device on which every byte costs
    wait_s: Annotated[float, Field(gt=0, le=LONGEST_S)] = 30.0  # it is asked for so long


class InquiryState(StrEnum):
    """Where a question stands."""

    WAITING = "waiting"  # not asked yet
    ASKED = "asked"
    ANSWERED = "answered"
    REFUSED = "refused"
    EXPIRED = "expired"


class InquiryView(Document):
    """A question, and what became of it; `detail` is one sentence about a device that refuses or is silent."""

    inquiry_id: str
    device_id: Name
    kind: InquiryKind
    state: InquiryState
    detail: str = ""
    created_at: float
    expires_at: float
    presence: str  # online | offline | unknown | never
    last_seen_at: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether an answer may still come."""
        return self.state in (InquiryState.WAITING, InquiryState.ASKED)
