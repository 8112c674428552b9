"""Reports on variants: what is asked for, and what is known of one beside its pages."""

from __future__ import annotations

import re
from typing import Final

from pydantic import Field, StrictBool

from edge_agent.protocol.base import Name, Sha256
from server.schemas.common import Document, RequestDocument

PAGE: Final = "report.html"  # needs none of the other files
PAGE_NAME: Final = re.compile(r"[a-z]{1,32}\.(html|md|json|svg)")  # no folder, nothing that a system would run
MAX_PAGES_BYTES: Final = 32 * 1024 * 1024  # of all files of a report


class ReportForm(RequestDocument):
    """Ask for a report on what a profile gets, or on another of its variants."""

    profile: Name
    variant_id: Name | None = Field(default=None, description="without it, the chosen one")
    again: StrictBool = Field(
        default=False, description="even if there is one already; both files are measured again, too"
    )


class Report(Document):
    """A report that is there; its files come as one zip archive."""

    model: Name
    version: Name
    profile: Name
    variant_id: Name
    label: str  # faster | smaller | download only | not worth it | the float model
    sentence: str  # the figure that earned it, of a latency with the CPU that it was measured on
    loses_points: bool  # more than one point of the metric
    files: tuple[str, ...]
    shifted_sha256: Sha256 | None = None  # of the second set, where the user sent one
    archive_sha256: Sha256
    archive_bytes: int
    created_at: float
