"""Tokens and devices."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response

from edge_agent.protocol.base import Name
from server.api.ports import PortsOf
from server.fleet import certificates, devices, tokens
from server.fleet.selector import MAX_LENGTH, parse
from server.retiring.devices import retire_device
from server.schemas.fleet import Device, LabelsRequest, Token, TokenRequest, TokenView

router = APIRouter(prefix="/v1", tags=["devices"])


@router.post("/tokens", operation_id="create_token", status_code=HTTPStatus.CREATED, tags=["tokens"])
def create_token(token: TokenRequest, ports: PortsOf) -> Token:
    """Make a one-time token; it is shown this once."""
    return tokens.create_token(ports.catalogue, token, root_sha256=ports.trust.root_fingerprint(), now=ports.clock())


@router.get("/tokens", operation_id="list_tokens", tags=["tokens"])
def list_tokens(ports: PortsOf) -> list[TokenView]:
    """All tokens without their secrets."""
    return tokens.list_tokens(ports.catalogue)


@router.delete("/tokens/{token_id}", operation_id="revoke_token", status_code=HTTPStatus.NO_CONTENT, tags=["tokens"])
def revoke_token(token_id: Name, ports: PortsOf) -> Response:
    """Make a token worthless."""
    tokens.revoke_token(ports.catalogue, token_id)
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get("/devices", operation_id="list_devices")
def list_devices(
    ports: PortsOf, selector: Annotated[str, Query(max_length=MAX_LENGTH)] = "", *, retired: bool = False
) -> list[Device]:
    """The devices that a selector means; without one, all; `retired`: those that were taken out of use."""
    interval_s = ports.settings.presence_interval_s
    meant = parse(selector)
    return devices.list_devices(ports.catalogue, meant, now=ports.clock(), interval_s=interval_s, retired=retired)


@router.get("/devices/{device_id}", operation_id="get_device")
def get_device(device_id: Name, ports: PortsOf) -> Device:
    """One device."""
    interval_s = ports.settings.presence_interval_s
    return devices.get_device(ports.catalogue, device_id, now=ports.clock(), interval_s=interval_s)


@router.patch("/devices/{device_id}", operation_id="label_device")
def label_device(device_id: Name, labels: LabelsRequest, ports: PortsOf) -> Device:
    """Set labels; null removes one."""
    devices.change_labels(ports.catalogue, device_id, labels.labels)
    return get_device(device_id, ports)


@router.delete("/devices/{device_id}", operation_id="retire_device", status_code=HTTPStatus.NO_CONTENT)
def retire(device_id: Name, ports: PortsOf, *, force: bool = False) -> Response:
    """Take a device out of use, `force`: also while a rollout is at work on it; its retained topics are cleared."""
    retire_device(ports.catalogue, device_id, force=force, now=ports.clock())
    certificates.tell_broker(ports.catalogue, ports.trust, now=ports.clock())
    return Response(status_code=HTTPStatus.NO_CONTENT)
