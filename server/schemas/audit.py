"""The audit log, as it is read."""

from __future__ import annotations

from enum import StrEnum

from server.schemas.common import Document


class Outcome(StrEnum):
    """What became of an attempt."""

    DONE = "done"
    REFUSED = "refused"


class AuditEntry(Document):
    """One row. `before` and `after` are JSON in the very bytes that were hashed; empty: there is nothing to say."""

    sequence: int  # from 1, without a gap
    at: float
    who: str  # an operator's name, `oidc:SUBJECT`, `join-token:ID`, `local:USER` or `nobody`
    role: str
    address: str
    request_id: str
    operation: str  # of the HTTP API, by its id in the OpenAPI document
    change: str  # what was changed, such as `device.retire`; empty: nothing was
    subject: str
    outcome: Outcome
    before: str
    after: str
    previous_sha256: str  # of the row before; 64 zeros in the first
    sha256: str
