"""The routes of rollouts, as methods of the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pydantic import TypeAdapter

from server.client.checking import checked
from server.client.transport import segment
from server.schemas.rollouts import ActionRequest, Rollout, RolloutAction, RolloutForecast, RolloutRequest
from server.schemas.webhook import WebhookStatus

if TYPE_CHECKING:
    from server.client.transport import Transport

_ROLLOUT: Final = TypeAdapter(Rollout)
_FORECAST: Final = TypeAdapter(RolloutForecast)
_ROLLOUTS: Final = TypeAdapter(list[Rollout])
_WEBHOOK: Final = TypeAdapter(WebhookStatus)


class RolloutCalls:
    """A part of `RegistryClient`."""

    _transport: Transport

    def start_rollout(self, request: RolloutRequest) -> Rollout:
        """Start a rollout; missing variants are built first."""
        return self._transport.ask("POST", "/v1/rollouts", json=request.model_dump(mode="json"), answer=_ROLLOUT)

    def forecast_rollout(self, request: RolloutRequest) -> RolloutForecast:
        """What `start_rollout` would do; writes nothing."""
        body = request.model_dump(mode="json")
        return self._transport.ask("POST", "/v1/rollouts/dry-run", json=body, answer=_FORECAST)

    def list_rollouts(self) -> list[Rollout]:
        """All rollouts, newest first, without their devices."""
        return self._transport.ask("GET", "/v1/rollouts", answer=_ROLLOUTS)

    def get_rollout(self, rollout_id: str) -> Rollout:
        """One rollout with its waves, devices and decisions."""
        return self._transport.ask("GET", f"/v1/rollouts/{segment(rollout_id, 'the rollout')}", answer=_ROLLOUT)

    def command_rollout(self, rollout_id: str, action: RolloutAction | str, *, profile: str | None = None) -> Rollout:
        """Pause, resume, abort, roll back, retry or approve; `profile`: that lane alone."""
        body = checked(ActionRequest, {"action": action, "profile": profile}).model_dump(mode="json")
        path = f"/v1/rollouts/{segment(rollout_id, 'the rollout')}/actions"
        return self._transport.ask("POST", path, json=body, answer=_ROLLOUT)

    def get_webhook(self) -> WebhookStatus:
        """What was posted to the operator's webhook last, what waits, and when the next try comes."""
        return self._transport.ask("GET", "/v1/webhook", answer=_WEBHOOK)
