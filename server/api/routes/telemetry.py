"""Telemetry."""

from typing import Annotated

from fastapi import APIRouter, Query

from edge_agent.protocol.base import Name
from server.api.ports import PortsOf
from server.errors import InvalidError
from server.schemas.telemetry import GroupBy, TelemetryRow
from server.telemetry.query import summarize

router = APIRouter(prefix="/v1/telemetry", tags=["telemetry"])


@router.get("", operation_id="get_telemetry")
def get_telemetry(
    ports: PortsOf,
    by: Annotated[str, Query(max_length=64, description="for example profile,variant")] = "profile,variant",
    model: Name | None = None,
    version: Name | None = None,
    since: Annotated[float | None, Query(ge=0, le=1e11, description="seconds since 1970")] = None,
) -> list[TelemetryRow]:
    """Merged telemetry, one row for each group."""
    return summarize(ports.telemetry, by=_groups(by), model=model, version=version, since=since)


def _groups(text: str) -> tuple[GroupBy, ...]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    known = ", ".join(GroupBy)
    for name in names:
        if name not in set(GroupBy):
            raise InvalidError(f"Telemetry can't be grouped by {name!r}: possible are {known}.")
    return tuple(dict.fromkeys(GroupBy(name) for name in names))
