"""Devices: enrolling, listing, labelling."""

from __future__ import annotations

from typing import Annotated, Final, Literal

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
    replaces: Name | None = None  # the device whose place is taken
    max_uses: int = Field(default=1, ge=1, le=1_000_000)  # more than one: a claim, as a factory holds
    uses_per_hour: int | None = Field(default=None, ge=1, le=1_000_000)
    needs_approval: bool = False


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
    replaces: Name | None = None
    max_uses: int = 1
    uses: int = 0
    uses_per_hour: int | None = None
    needs_approval: bool = False


class ClaimView(Document):
    """A device that waits for an operator to let it in."""

    claim_id: str
    device_id: Name
    token_id: str
    asked_at: float
    profile: Name | None = None
    facts: dict[str, str]


class ObjectUrl(Document):
    """Where a device may fetch an object, with ranges, until it expires."""

    url: str
    expires_at: float


class EnrolmentRequest(RequestDocument):
    """What an agent sends to enrol. `request`: a certificate request (PKCS#10, PEM) for the device's own key."""

    token: str = Field(min_length=8, max_length=256)
    request: str = Field(min_length=1, max_length=4096)
    device_id: Name | None = None
    profile: Name | None = None
    labels: Labels = Field(default_factory=dict)
    agent_version: str = Field(default="", max_length=64)
    # names of the agent's, which may be newer and know more of them
    runtimes: dict[Name, Annotated[str, Field(max_length=64)]] = Field(default_factory=dict, max_length=32)
    facts: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=256)]] = Field(
        default_factory=dict, max_length=32
    )


class RenewalRequest(RequestDocument):
    """A certificate request for a new key."""

    request: str = Field(min_length=1, max_length=4096)


class DeviceCertificate(Document):
    """A device's certificate with the intermediate behind it (PEM)."""

    certificate: str
    serial: str
    expires_at: float
    renew_at: float


class Enrolled(DeviceCertificate):
    """The identity of a device. `key` is its secret for the device's HTTP addresses, hashed in the registry."""

    device_id: Name
    profile: Name
    key: str
    mqtt_url: str
    registry_url: str
    epoch: int
    storage_bytes: int | None = None  # the budget of the profile
    ram_bytes: int | None = None


class EnrolmentPending(Document):
    """An operator must say yes first: ask again, with the same key."""

    pending: Literal[True] = True
    claim_id: str
    retry_after_s: float


class CertificateView(Document):
    """A certificate as operators see it."""

    serial: str
    issued_at: float
    expires_at: float
    used_at: float | None = None
    revoked_at: float | None = None
    reason: str | None = None


class Device(Document):
    """A device as the registry knows it."""

    device_id: Name
    profile: Name
    labels: dict[str, str]
    presence: str  # online | offline | unknown | never
    last_seen_at: float | None = None
    joined_at: float
    retired_at: float | None = None
    revoked_at: float | None = None
    clones: int = 0  # how often two sessions went on from the same one
    clone_seen_at: float | None = None
    certificates: list[CertificateView] = Field(default_factory=list)  # of one device; not in lists
    observed_generation: int | None = None
    wanted_generation: int | None = None
    status: Status | None = None


class LabelsRequest(RequestDocument):
    """Labels to set; a None value removes a label."""

    labels: Annotated[dict[LabelKey, LabelValue | None], Field(max_length=32), AfterValidator(_check_zone_label)]
