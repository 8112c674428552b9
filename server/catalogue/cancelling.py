"""What is said of a job that was cancelled: by whom, how far it had come, and how to have it after all. Pure."""

from __future__ import annotations

from typing import Final

from server.schemas.work import JobKind

_AGAIN: Final = {
    JobKind.INSPECT: "push the version again to have it",
    JobKind.BUILD: "ask for the build again to have it",
    JobKind.SEARCH: "the same search asked for again goes on from the recipes that it had tried",
    JobKind.REPORT: "ask for the report again to have it",
    JobKind.DELTA: "devices fetch whole objects instead",
}


def how_cancelled(kind: str, cancelled_by: str, *, had_begun: bool) -> str:
    """The end of a sentence about the job, for whoever waits for it.

    >>> how_cancelled("build", "anna@desk", had_begun=False)
    'cancelled by anna@desk before it began; ask for the build again to have it.'
    """
    who = f" by {cancelled_by}" if cancelled_by else ""
    when = "while it was being done" if had_begun else "before it began"
    return f"cancelled{who} {when}; {_AGAIN[JobKind(kind)]}."
