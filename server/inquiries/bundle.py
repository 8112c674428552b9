"""The diagnostic bundle of a device: what it says, if it says anything, and what the registry knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_agent.protocol.bundle import archive, device_files, registry_files
from edge_agent.protocol.inquiry import Diagnosis
from server.errors import ConflictError
from server.inquiries.knowledge import knowledge
from server.inquiries.requests import BadAnswerError, read_answer

if TYPE_CHECKING:
    from server.database.connect import Database
    from server.schemas.inquiries import InquiryView

UNANSWERED = "device/unanswered.txt"


def bundle(catalogue: Database, telemetry: Database, view: InquiryView, *, now: float) -> bytes:
    """The bytes of a .tar.gz. A device that does not answer leaves its part empty, with a sentence that says why.

    Raises:
        ConflictError: it was asked for its log, or may still answer.
        DatabaseUnavailableError: a database does not answer.
    """
    if view.is_open:
        raise ConflictError(f"Device {view.device_id} has not answered yet: ask again in a moment.")
    files = registry_files(knowledge(catalogue, telemetry, view))
    try:
        files |= device_files(read_answer(catalogue, view, Diagnosis))
    except (ConflictError, BadAnswerError) as exc:
        if view.kind != "diagnosis":
            raise
        files[UNANSWERED] = f"{exc}\n".encode()
    return archive(files, device_id=view.device_id, taken_at=now)
