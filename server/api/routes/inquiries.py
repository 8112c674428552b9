"""Questions to devices: their logs, and diagnostic bundles."""

from http import HTTPStatus
from typing import Final

from fastapi import APIRouter, Response

from edge_agent.protocol.base import Name
from edge_agent.protocol.inquiry import LogTail
from server.api.ports import Ports, PortsOf
from server.inquiries import requests
from server.inquiries.bundle import bundle
from server.schemas.inquiries import InquiryForm, InquiryView

GZIP: Final = "application/gzip"

router = APIRouter(prefix="/v1", tags=["inquiries"])


@router.post("/devices/{device_id}/inquiries", operation_id="ask_device", status_code=HTTPStatus.ACCEPTED)
def ask_device(device_id: Name, form: InquiryForm, ports: PortsOf) -> InquiryView:
    """Ask a device for its log or a diagnosis; it is asked until it answers or the time is over."""
    return _view(requests.ask(ports.catalogue, device_id, form, now=ports.clock()), ports)


@router.get("/inquiries/{inquiry_id}", operation_id="get_inquiry")
def get_inquiry(inquiry_id: Name, ports: PortsOf) -> InquiryView:
    """Where a question stands."""
    return _view(inquiry_id, ports)


@router.get("/inquiries/{inquiry_id}/log", operation_id="get_device_log")
def get_device_log(inquiry_id: Name, ports: PortsOf) -> LogTail:
    """The lines that a device has answered."""
    return requests.read_answer(ports.catalogue, _view(inquiry_id, ports), LogTail)


@router.get(
    "/inquiries/{inquiry_id}/bundle",
    operation_id="get_bundle",
    response_class=Response,
    responses={
        200: {"content": {GZIP: {}}, "description": "A .tar.gz of JSON and text; its README.txt says what is in it"}
    },
)
def get_bundle(inquiry_id: Name, ports: PortsOf) -> Response:
    """The diagnostic bundle: what the device says, if it has answered, and what the registry knows."""
    content = bundle(ports.catalogue, ports.telemetry, _view(inquiry_id, ports), now=ports.clock())
    return Response(content, media_type=GZIP)


def _view(inquiry_id: str, ports: Ports) -> InquiryView:
    interval_s = ports.settings.presence_interval_s
    return requests.get(ports.catalogue, inquiry_id, now=ports.clock(), interval_s=interval_s)
