"""Operators: who may do what to a registry."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from pydantic import Field

from edge_agent.protocol.base import Name
from server.schemas.common import Document, RequestDocument

DAY_S: Final = 86_400.0
VALID_S: Final = 90 * DAY_S
MAX_VALID_S: Final = 366 * DAY_S


class Role(StrEnum):
    """What an operator may do, each all that the one before it may."""

    VIEWER = "viewer"  # read
    OPERATOR = "operator"  # and change models, devices and rollouts
    ADMIN = "admin"  # and make operators, and read the audit log


class OperatorRequest(RequestDocument):
    """Ask for a new operator."""

    name: Name
    role: Role
    valid_s: float = Field(default=VALID_S, gt=0, le=MAX_VALID_S)


class RotationRequest(RequestDocument):
    """Ask for a new token in place of the present one."""

    valid_s: float = Field(default=VALID_S, gt=0, le=MAX_VALID_S)


class OperatorToken(Document):
    """The token of an operator; `token` is shown once."""

    name: Name
    role: Role
    token: str
    expires_at: float


class OperatorView(Document):
    """An operator as it is listed: without the token."""

    name: Name
    role: Role
    token_id: str
    created_at: float
    created_by: str
    expires_at: float
    revoked_at: float | None = None


class WhoAmI(Document):
    """Who asks, as the registry sees it."""

    who: str
    role: Role
    expires_at: float  # of the token
