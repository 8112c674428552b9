"""The chain: what a row's hash is made of, and which row breaks it. Pure; operators verify with it, too.

It shows that no row was changed, left out or put between. It can't show that the last rows were cut off, or that all
of it was written anew by somebody who may write the database: for that, an operator keeps a head (number and hash)
elsewhere and has it looked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from server.schemas.audit import AuditEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST: Final = "0" * 64  # what stands for the row before the first
LIMIT_BYTES: Final = 16 * 1024  # of `before` or `after`: a larger document stands for itself by its hash
HIDDEN: Final = "(hidden)"
# Names under which no document here holds anything but a secret. The rows give none; this is the second lock.
SECRETS: Final = frozenset({"token", "key", "secret", "password", "key_sha256", "token_sha256", "authorization"})


@dataclass(frozen=True, slots=True)
class Break:
    """The first row that does not fit."""

    sequence: int
    reason: str


class ChainCheck:
    """Rows in order go in; what stands at the end is the head, or the first break."""

    def __init__(self) -> None:
        self.sequence = 0
        self.sha256 = FIRST
        self.broken: Break | None = None

    def take(self, entries: Iterable[AuditEntry]) -> None:
        """Look at some more rows; after a break at none."""
        for entry in entries:
            if self.broken is not None:
                return
            if reason := self._wrong_with(entry):
                self.broken = Break(entry.sequence, reason)
                return
            self.sequence, self.sha256 = entry.sequence, entry.sha256

    def _wrong_with(self, entry: AuditEntry) -> str:
        if entry.sequence != self.sequence + 1:
            return f"row {self.sequence + 1} is missing before it"
        if entry.previous_sha256 != self.sha256:
            return "it does not hold the hash of the row before: one of the two was changed"
        if hash_of(entry) != entry.sha256:
            return "its hash is not that of what it says: it was changed"
        return ""


def linked(previous: tuple[int, str], content: Mapping[str, Any]) -> AuditEntry:
    """The row that follows another, given as its number and hash."""
    number, sha256 = previous
    entry = AuditEntry(**content, sequence=number + 1, previous_sha256=sha256, sha256="")
    return entry.model_copy(update={"sha256": hash_of(entry)})


def hash_of(entry: AuditEntry) -> str:
    """Over every field but the hash itself, by name, as JSON without blanks."""
    content = entry.model_dump(mode="json", exclude={"sha256"})
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def told(document: Mapping[str, Any] | None) -> str:
    """A document as it stands in the log: without secrets, and by its hash alone where it is too large."""
    if document is None:
        return ""
    text = json.dumps(_without_secrets(document), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    if len(text) <= LIMIT_BYTES:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"too_large_bytes": len(text), "sha256": digest}, separators=(",", ":"))


def _without_secrets(value: Any) -> Any:  # noqa: ANN401  whatever JSON can hold
    if isinstance(value, dict):
        return {
            name: HIDDEN if str(name).lower() in SECRETS else _without_secrets(content)
            for name, content in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value
