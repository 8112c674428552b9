"""What a sweep deletes or merges, or would."""

from __future__ import annotations

from typing import Literal

from pydantic import StrictBool

from server.schemas.common import Document, RequestDocument


class SweepRequest(RequestDocument):
    """Sweep now; `dry_run`: only say what would go."""

    dry_run: StrictBool = False


class Swept(Document):
    """One kind of thing: how many go, and by which rule."""

    kind: Literal["reports", "merged", "decisions", "objects", "cache"]
    count: int
    size_bytes: int = 0  # 0: not counted
    rule: str
    names: tuple[str, ...] = ()  # the sha256 of objects


class SweepReport(Document):
    """All that goes; unless it is a dry run, the processes that own it were asked to delete it."""

    dry_run: bool
    swept: tuple[Swept, ...]
