"""What is said of a decision, how it is signed, and what an answer means. Pure."""

from __future__ import annotations

import hashlib
import hmac
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from server.schemas.rollouts import DecisionNotice

SIGNATURE_HEADER: Final = "X-Shoal-Signature-256"
# News, not an archive: whoever is away for longer reads `rollout explain`, and is not told what was long ago.
KEPT_S: Final = 86_400.0
_TRANSIENT: Final = frozenset({408, 429})


class Fate(StrEnum):
    """What becomes of a decision after an attempt to tell it."""

    TAKEN = "taken"
    REFUSED = "refused"  # told no more: the same bytes would be refused again
    LATER = "later"  # told again, before any that came after it
    SKIPPED = "skipped"  # not told any more: too old


def fate_of(status: int) -> Fate:
    """What an HTTP status says. A redirect is not followed: the address was set by hand, and is mended there."""
    if 200 <= status < 300:  # noqa: PLR2004  the class of success, RFC 9110 section 15.3
        return Fate.TAKEN
    if 400 <= status < 500 and status not in _TRANSIENT:  # noqa: PLR2004  the client's fault, section 15.5
        return Fate.REFUSED
    return Fate.LATER


def body_of(notice: DecisionNotice) -> bytes:
    """The bytes that are sent and signed: one JSON document, the same each time this decision is told."""
    return notice.model_dump_json().encode()


def signature_of(body: bytes, secret: str) -> str:
    """Value of the signature's header: `sha256=` and HMAC-SHA256 in hexadecimal, as GitHub's webhooks have it."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
