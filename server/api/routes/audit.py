"""The audit log."""

from typing import Annotated

from fastapi import APIRouter, Query

from server.api.ports import PortsOf
from server.audit.trail import MAX_LISTED, read_entries
from server.schemas.audit import AuditEntry

router = APIRouter(prefix="/v1/audit", tags=["operators"])


@router.get("", operation_id="read_audit")
def read_audit(
    ports: PortsOf,
    after: Annotated[int, Query(ge=0, le=2**62, description="only rows with a higher number")] = 0,
    since: Annotated[float | None, Query(ge=0, le=1e11, description="seconds since 1970")] = None,
    newest: Annotated[int | None, Query(ge=1, le=MAX_LISTED, description="only so many, the last ones")] = None,
) -> list[AuditEntry]:
    """Rows in their order, at most 1,000 at once: go on after the last one's number."""
    with ports.catalogue.read() as connection:
        return list(read_entries(connection, after=after, since=since, newest=newest))
