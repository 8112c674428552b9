"""What a device asks over HTTPS, with `Authorization: Device ID:KEY`."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Response

from edge_agent.protocol.base import Sha256
from edge_agent.protocol.messages import Desired
from server.api.ports import PortsOf
from server.fleet import entitlements
from server.schemas.fleet import ObjectUrl

router = APIRouter(prefix="/v1/device", tags=["device"])


def _caller(ports: PortsOf, authorization: Annotated[str | None, Header(max_length=512)] = None) -> str:
    return entitlements.authenticate(ports.catalogue, authorization)


Caller = Annotated[str, Depends(_caller)]


@router.get("/desired", operation_id="get_desired")
def get_desired(device_id: Caller, ports: PortsOf) -> Desired:
    """What this device shall run."""
    return entitlements.desired_of(ports.catalogue, device_id)


@router.get(
    "/manifests/{sha256}",
    operation_id="get_manifest",
    response_class=Response,
    responses={200: {"content": {"application/json": {}}, "description": "The manifest, byte by byte"}},
)
def get_manifest(sha256: Sha256, device_id: Caller, ports: PortsOf) -> Response:
    """A manifest of this device's desired state, verbatim."""
    content = entitlements.manifest_of(ports.catalogue, ports.manifests, device_id, sha256)
    return Response(content, media_type="application/json")


@router.get("/objects/{sha256}", operation_id="get_object_url")
def get_object_url(sha256: Sha256, device_id: Caller, ports: PortsOf) -> ObjectUrl:
    """Where to fetch an object of this device's desired state."""
    entitlements.require_entitled(ports.catalogue, ports.manifests, device_id, sha256)
    expires_s = ports.settings.presign_expiry_s
    return ObjectUrl(url=ports.objects.presign_get(sha256, expires_s), expires_at=ports.clock() + expires_s)
