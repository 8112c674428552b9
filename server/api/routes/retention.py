"""Retention."""

from fastapi import APIRouter

from server.api.ports import PortsOf
from server.retention.requests import ask_for_sweep
from server.retention.sweep import preview
from server.schemas.retention import SweepReport, SweepRequest

router = APIRouter(prefix="/v1/sweeps", tags=["retention"])


@router.post("", operation_id="sweep")
def sweep(request: SweepRequest, ports: PortsOf) -> SweepReport:
    """Say what is kept no longer and what nobody names; unless `dry_run`, have it deleted by those who own it."""
    now = ports.clock()
    swept = preview(ports.catalogue, ports.telemetry, ports.objects, ports.settings, now=now)
    if not request.dry_run:
        ask_for_sweep(ports.catalogue, now=now)
    return SweepReport(dry_run=request.dry_run, swept=swept)
