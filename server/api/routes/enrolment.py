"""How a device gets and keeps its certificate: the root, enrolling, the next one. And who waits to be let in."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from edge_agent.protocol.base import Name
from server.api.peer import PeerSerial
from server.api.ports import PortsOf
from server.fleet import certificates, claims
from server.fleet.enrol import Issuing, enrol
from server.schemas.fleet import (
    ClaimView,
    DeviceCertificate,
    Enrolled,
    EnrolmentPending,
    EnrolmentRequest,
    RenewalRequest,
)

router = APIRouter(prefix="/v1", tags=["enrolment"])


@router.get(
    "/enrolment/root",
    operation_id="get_root",
    response_class=Response,
    responses={200: {"content": {"application/x-pem-file": {}}, "description": "The root's certificate (PEM)"}},
)
def get_root(ports: PortsOf) -> Response:
    """The root's certificate; whoever fetches it has its fingerprint from elsewhere, and compares."""
    return Response(ports.trust.root_pem(), media_type="application/x-pem-file")


@router.post(
    "/enrolment",
    operation_id="enrol",
    status_code=HTTPStatus.CREATED,
    responses={HTTPStatus.ACCEPTED: {"model": EnrolmentPending, "description": "An operator must say yes first"}},
)
def enrol_device(device: EnrolmentRequest, ports: PortsOf, response: Response) -> Enrolled | EnrolmentPending:
    """A device enrols with its token and a certificate request for its own key."""
    issuing = Issuing(ports.trust.authority(), ports.addresses, ports.settings.device_certificate_days)
    answer = enrol(ports.catalogue, device, issuing, now=ports.clock())
    if isinstance(answer, EnrolmentPending):
        response.status_code = HTTPStatus.ACCEPTED
    else:
        # who took another's place may be let in now, and the other no more
        certificates.tell_broker(ports.catalogue, ports.trust, now=ports.clock())
    return answer


@router.post("/device/certificate", operation_id="renew_certificate", status_code=HTTPStatus.CREATED)
def renew(renewal: RenewalRequest, peer: PeerSerial, ports: PortsOf) -> DeviceCertificate:
    """The next certificate of the device that shows its present one."""
    days = ports.settings.device_certificate_days
    authority = ports.trust.authority()
    return certificates.renew(ports.catalogue, authority, peer, renewal.request, now=ports.clock(), days=days)


@router.post("/device/certificate/confirmation", operation_id="confirm_certificate", status_code=HTTPStatus.NO_CONTENT)
def confirm(peer: PeerSerial, ports: PortsOf) -> Response:
    """The certificate that is shown works: the device's others count no more."""
    if certificates.confirm(ports.catalogue, peer, now=ports.clock()):
        certificates.tell_broker(ports.catalogue, ports.trust, now=ports.clock())
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.post("/devices/{device_id}/revocation", operation_id="revoke_device", status_code=HTTPStatus.NO_CONTENT)
def revoke(device_id: Name, ports: PortsOf) -> Response:
    """Nothing of a device counts any more; its id stays taken for its successor."""
    certificates.revoke(ports.catalogue, device_id, now=ports.clock())
    certificates.tell_broker(ports.catalogue, ports.trust, now=ports.clock())
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.get("/claims", operation_id="list_claims")
def list_claims(ports: PortsOf) -> list[ClaimView]:
    """Devices that wait to be let in."""
    return claims.list_claims(ports.catalogue)


@router.put("/claims/{claim_id}", operation_id="approve_claim", status_code=HTTPStatus.NO_CONTENT)
def approve(claim_id: Name, ports: PortsOf) -> Response:
    """Let a device in that waits."""
    claims.decide(ports.catalogue, claim_id, approved=True, now=ports.clock())
    return Response(status_code=HTTPStatus.NO_CONTENT)


@router.delete("/claims/{claim_id}", operation_id="refuse_claim", status_code=HTTPStatus.NO_CONTENT)
def refuse(claim_id: Name, ports: PortsOf) -> Response:
    """Keep a device out that waits."""
    claims.decide(ports.catalogue, claim_id, approved=False, now=ports.clock())
    return Response(status_code=HTTPStatus.NO_CONTENT)
