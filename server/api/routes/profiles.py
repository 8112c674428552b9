"""Profiles."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from edge_agent.protocol.base import Name
from edge_agent.protocol.profile import DeviceProfile
from server.api.ports import PortsOf
from server.catalogue import profiles

router = APIRouter(prefix="/v1/profiles", tags=["profiles"])


@router.post("", operation_id="add_profile", status_code=HTTPStatus.CREATED, responses={200: {"model": DeviceProfile}})
def add_profile(profile: DeviceProfile, ports: PortsOf, response: Response) -> DeviceProfile:
    """Register a profile: 201 if it is new, 200 if the same document is there already."""
    if not profiles.add_profile(ports.catalogue, profile, now=ports.clock()):
        response.status_code = HTTPStatus.OK
    return profile


@router.get("", operation_id="list_profiles")
def list_profiles(ports: PortsOf) -> list[DeviceProfile]:
    """All profiles by name."""
    return profiles.list_profiles(ports.catalogue)


@router.get("/{name}", operation_id="get_profile")
def get_profile(name: Name, ports: PortsOf) -> DeviceProfile:
    """One profile."""
    return profiles.get_profile(ports.catalogue, name)
