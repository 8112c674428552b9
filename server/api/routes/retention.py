"""Retention."""

from fastapi import APIRouter

from server.api.ports import PortsOf
from server.retention.sweep import Sweep
from server.schemas.retention import SweepReport, SweepRequest

router = APIRouter(prefix="/v1/sweeps", tags=["retention"])


@router.post("", operation_id="sweep")
def sweep(request: SweepRequest, ports: PortsOf) -> SweepReport:
    """Delete what is kept no longer and what nobody names, or only say what that is."""
    one = Sweep(ports.catalogue, ports.telemetry, ports.objects, ports.settings)
    return one.run(now=ports.clock(), dry_run=request.dry_run)
