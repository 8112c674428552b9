"""The routes of tokens and devices, and those that a device asks, as methods of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from edge_agent.protocol.messages import Desired
from server.client.checking import checked
from server.client.paths import digest_segment, proof
from server.client.transport import given, segment
from server.schemas.fleet import (
    ClaimView,
    Device,
    Enrolled,
    EnrolmentPending,
    EnrolmentRequest,
    LabelsRequest,
    ObjectUrl,
    Token,
    TokenRequest,
    TokenView,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.client.transport import Transport

_TOKEN: Final = TypeAdapter(Token)
_TOKENS: Final = TypeAdapter(list[TokenView])
_ENROLLED: Final[TypeAdapter[Enrolled | EnrolmentPending]] = TypeAdapter(Enrolled | EnrolmentPending)
_CLAIMS: Final = TypeAdapter(list[ClaimView])
_DEVICE: Final = TypeAdapter(Device)
_DEVICES: Final = TypeAdapter(list[Device])
_DESIRED: Final = TypeAdapter(Desired)
_URL: Final = TypeAdapter(ObjectUrl)


class DeviceCalls:
    """A part of `RegistryClient`."""

    _transport: Transport

    def create_token(
        self,
        *,
        profile: str | None = None,
        labels: Mapping[str, str] | None = None,
        valid_s: float = 3600.0,
        **options: object,
    ) -> Token:
        """Make a one-time token; it is shown this once.

        `options` make another kind of it: `replaces` (a device whose place is taken), `max_uses`, `uses_per_hour` and
        `needs_approval` (a claim for a batch).
        """
        document = {"profile": profile, "labels": dict(labels or {}), "valid_s": valid_s, **options}
        body = checked(TokenRequest, document).model_dump(mode="json")
        return self._transport.ask("POST", "/v1/tokens", json=body, answer=_TOKEN)

    def list_tokens(self) -> list[TokenView]:
        """All tokens without their secrets."""
        return self._transport.ask("GET", "/v1/tokens", answer=_TOKENS)

    def revoke_token(self, token_id: str) -> None:
        """Make a token worthless."""
        self._transport.ask("DELETE", f"/v1/tokens/{segment(token_id, 'the token id')}")

    def enrol(self, request: EnrolmentRequest) -> Enrolled | EnrolmentPending:
        """Enrol as a device (agents do this themselves)."""
        body = request.model_dump(mode="json")
        return self._transport.ask("POST", "/v1/enrolment", json=body, answer=_ENROLLED)

    def list_devices(self, selector: str = "", *, retired: bool = False) -> list[Device]:
        """The devices that a selector means; without one, all; `retired`: those that were taken out of use."""
        parameters = given({"selector": selector, "retired": "true" if retired else None})
        return self._transport.ask("GET", "/v1/devices", params=parameters, answer=_DEVICES)

    def get_device(self, device_id: str) -> Device:
        """One device."""
        return self._transport.ask("GET", f"/v1/devices/{segment(device_id, 'the device')}", answer=_DEVICE)

    def label_device(self, device_id: str, labels: Mapping[str, str | None]) -> Device:
        """Set labels; None removes one."""
        body = checked(LabelsRequest, {"labels": dict(labels)}).model_dump(mode="json")
        path = f"/v1/devices/{segment(device_id, 'the device')}"
        return self._transport.ask("PATCH", path, json=body, answer=_DEVICE)

    def retire_device(self, device_id: str, *, force: bool = False) -> None:
        """Take a device's certificate away; `force`: also while a rollout is at work on it."""
        parameters = given({"force": "true" if force else None})
        self._transport.ask("DELETE", f"/v1/devices/{segment(device_id, 'the device')}", params=parameters)

    def get_desired(self, device_id: str, key: str) -> Desired:
        """What a device shall run."""
        return self._transport.ask("GET", "/v1/device/desired", headers=proof(device_id, key), answer=_DESIRED)

    def get_manifest(self, device_id: str, key: str, sha256: str) -> bytes:
        """A manifest, byte by byte."""
        path = f"/v1/device/manifests/{digest_segment(sha256)}"
        return self._transport.raw("GET", path, headers=proof(device_id, key))

    def get_object_url(self, device_id: str, key: str, sha256: str) -> ObjectUrl:
        """Where a device may fetch an object."""
        path = f"/v1/device/objects/{digest_segment(sha256)}"
        return self._transport.ask("GET", path, headers=proof(device_id, key), answer=_URL)

    def revoke_device(self, device_id: str) -> None:
        """Nothing of a device counts any more: it is lost, stolen or copied; its id stays taken for its successor."""
        self._transport.ask("POST", f"/v1/devices/{segment(device_id, 'the device')}/revocation")

    def list_claims(self) -> list[ClaimView]:
        """Devices that wait to be let in."""
        return self._transport.ask("GET", "/v1/claims", answer=_CLAIMS)

    def decide_claim(self, claim_id: str, *, approved: bool) -> None:
        """Let a device in that waits, or keep it out."""
        self._transport.ask("PUT" if approved else "DELETE", f"/v1/claims/{segment(claim_id, 'the claim')}")
