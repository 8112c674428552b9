"""Taking versions of models out of use, and back."""

from fastapi import APIRouter

from edge_agent.protocol.base import Name
from server.api.ports import Ports, PortsOf
from server.retiring import versions
from server.schemas.catalogue import ModelVersion

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.put("/{model}/retirement", operation_id="retire_model")
def retire_model(model: Name, ports: PortsOf) -> list[ModelVersion]:
    """Take every version of a model out of use: nothing new is built or rolled out of it, its files are freed later."""
    return versions.retire(ports.catalogue, model, None, now=ports.clock())


@router.delete("/{model}/retirement", operation_id="bring_model_back")
def bring_model_back(model: Name, ports: PortsOf) -> list[ModelVersion]:
    """Take the retired versions of a model back into use, as long as their files are there."""
    return _back(model, None, ports)


@router.put("/{model}/versions/{version}/retirement", operation_id="retire_version")
def retire_version(model: Name, version: Name, ports: PortsOf) -> list[ModelVersion]:
    """Take a version out of use."""
    return versions.retire(ports.catalogue, model, version, now=ports.clock())


@router.delete("/{model}/versions/{version}/retirement", operation_id="bring_version_back")
def bring_version_back(model: Name, version: Name, ports: PortsOf) -> list[ModelVersion]:
    """Take a version back into use."""
    return _back(model, version, ports)


def _back(model: str, version: str | None, ports: Ports) -> list[ModelVersion]:
    grace_days = ports.settings.objects_grace_days
    return versions.bring_back(ports.catalogue, model, version, now=ports.clock(), grace_days=grace_days)
