"""Devices: joining, listing, labelling."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from edge_agent.protocol.base import Name
from edge_agent.protocol.messages import Status
from server.schemas.common import Document, RequestDocument
from server.windows import ZONE_LABEL, check_zone

LABEL_KEY_PATTERN: Final = r"^[A-Za-z][A-Za-z0-9_.-]{0,31}$"
LABEL_VALUE_PATTERN: Final = r"^[A-Za-z0-9_.+/-]{1,63}$"
LabelKey = Annotated[str, Field(pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE_PATTERN)]


def _check_zone_label(labels: dict[str, str | None]) -> dict[str, str | None]:
    if (zone := labels.get(ZONE_LABEL)) is not None:
        check_zone(zone)
    return labels


Labels = Annotated[dict[LabelKey, LabelValue], Field(max_length=32), AfterValidator(_check_zone_label)]


class TokenRequest(RequestDocument):
    """Ask for a one-time token."""

    profile: Name | None = None
    labels: Labels = Field(default_factory=dict)
    valid_s: float = Field(default=3600.0, gt=0, le=30 * 86400)


class Token(Document):
    """A one-time token; `token` is shown once."""

    token_id: str
    token: str
    expires_at: float


class TokenView(Document):
    """A token as it is listed: without its secret."""

    token_id: str
    profile: Name | None = None
    labels: dict[str, str]
    created_at: float
    expires_at: float
    used_at: float | None = None
    device_id: Name | None = None


class ObjectUrl(Document):
    """Where a device may fetch an object, with ranges, until it expires."""

    url: str
    expires_at: float


class JoinRequest(RequestDocument):
    """What an agent sends to join."""

    token: str = Field(min_length=8, max_length=256)
    device_id: Name | None = None
    profile: Name | None = None
    labels: Labels = Field(default_factory=dict)
    agent_version: str = Field(default="", max_length=64)
    # names of the agent's, which may be newer and know more of them
    runtimes: dict[Name, Annotated[str, Field(max_length=64)]] = Field(default_factory=dict, max_length=32)
    facts: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict, max_length=32
    )


class Joined(Document):
    """The identity of a device. `key` is its secret for HTTPS, kept on the device, hashed in the registry."""

    device_id: Name
    profile: Name
    key: str
    mqtt_url: str
    registry_url: str
    epoch: int
    storage_bytes: int | None = None  # the budget of the profile
    ram_bytes: int | None = None


class Device(Document):
    """A device as the registry knows it."""

    device_id: Name
    profile: Name
    labels: dict[str, str]
    presence: str  # online | offline | unknown | never
    last_seen_at: float | None = None
    joined_at: float
    retired_at: float | None = None
    observed_generation: int | None = None
    wanted_generation: int | None = None
    status: Status | None = None


class LabelsRequest(RequestDocument):
    """Labels to set; a None value removes a label."""

    labels: Annotated[dict[LabelKey, LabelValue | None], Field(max_length=32), AfterValidator(_check_zone_label)]
