"""Operators, and who asks."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from edge_agent.protocol.base import Name
from server.api.ports import AskerOf, PortsOf
from server.operators import accounts
from server.schemas.operators import OperatorRequest, OperatorToken, OperatorView, Role, RotationRequest, WhoAmI

router = APIRouter(prefix="/v1", tags=["operators"])


@router.get("/whoami", operation_id="whoami")
def whoami(asker: AskerOf) -> WhoAmI:
    """Who asks, and what they may do."""
    return WhoAmI(who=asker.who, role=Role(asker.role), expires_at=asker.expires_at)


@router.post("/operators", operation_id="add_operator", status_code=HTTPStatus.CREATED)
def add_operator(operator: OperatorRequest, asker: AskerOf, ports: PortsOf) -> OperatorToken:
    """Make an operator; the token is shown this once."""
    return accounts.add_operator(ports.catalogue, operator, by=asker.who, now=ports.clock())


@router.get("/operators", operation_id="list_operators")
def list_operators(ports: PortsOf) -> list[OperatorView]:
    """All operators without their tokens; who logs in by the OpenID provider is not among them."""
    return accounts.list_operators(ports.catalogue)


@router.post("/operators/{name}/rotation", operation_id="rotate_operator")
def rotate_operator(name: Name, rotation: RotationRequest, ports: PortsOf) -> OperatorToken:
    """Give an operator a new token; the present one ends at once."""
    return accounts.rotate_operator(ports.catalogue, name, valid_s=rotation.valid_s, now=ports.clock())


@router.delete("/operators/{name}", operation_id="revoke_operator", status_code=HTTPStatus.NO_CONTENT)
def revoke_operator(name: Name, ports: PortsOf) -> Response:
    """Make an operator's token worthless, at once."""
    accounts.revoke_operator(ports.catalogue, name, now=ports.clock())
    return Response(status_code=HTTPStatus.NO_CONTENT)
