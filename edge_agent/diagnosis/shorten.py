"""Makes an answer fit: the log is what may be long, so its oldest lines go first. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.protocol.inquiry import pack

if TYPE_CHECKING:
    from edge_agent.protocol.inquiry import Diagnosis, LogTail


def tail_within(log: LogTail, limit_bytes: int) -> bytes:
    """The packed lines, as many of the last as fit; none may be left."""
    while len(packed := pack(log)) > limit_bytes and log.lines:
        log = _later_half(log)
    return packed


def diagnosis_within(diagnosis: Diagnosis, limit_bytes: int) -> bytes:
    """The packed document, with as many of the log's last lines as fit; none may be left."""
    while len(packed := pack(diagnosis)) > limit_bytes and diagnosis.log.lines:
        diagnosis = diagnosis.model_copy(update={"log": _later_half(diagnosis.log)})
    return packed


def _later_half(log: LogTail) -> LogTail:
    kept = log.lines[(len(log.lines) + 1) // 2 :]
    return log.model_copy(update={"lines": kept, "left_out": log.left_out + len(log.lines) - len(kept)})
