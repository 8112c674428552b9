"""Rollouts."""

from http import HTTPStatus

from fastapi import APIRouter

from edge_agent.protocol.base import Name
from server.api.ports import PortsOf
from server.catalogue.searches import check_seconds
from server.rollouts import preview, requests, views
from server.schemas.rollouts import ActionRequest, Rollout, RolloutForecast, RolloutRequest

router = APIRouter(prefix="/v1/rollouts", tags=["rollouts"])


@router.post("", operation_id="start_rollout", status_code=HTTPStatus.CREATED)
def start_rollout(rollout: RolloutRequest, ports: PortsOf) -> Rollout:
    """Start a rollout; missing variants are built first."""
    check_seconds(rollout.options.ask_compressor_s, job_timeout_s=ports.settings.job_timeout_s)
    rollout_id = requests.start_rollout(ports.catalogue, rollout, now=ports.clock())
    return views.get_rollout(ports.catalogue, rollout_id)


@router.post("/dry-run", operation_id="forecast_rollout")
def forecast_rollout(rollout: RolloutRequest, ports: PortsOf) -> RolloutForecast:
    """What a rollout would do: who would get what, when at the earliest, how many bytes. Writes nothing."""
    check_seconds(rollout.options.ask_compressor_s, job_timeout_s=ports.settings.job_timeout_s)
    return preview.forecast_rollout(ports.catalogue, rollout, now=ports.clock())


@router.get("", operation_id="list_rollouts")
def list_rollouts(ports: PortsOf) -> list[Rollout]:
    """All rollouts, newest first, without their devices."""
    return views.list_rollouts(ports.catalogue)


@router.get("/{rollout_id}", operation_id="get_rollout")
def get_rollout(rollout_id: Name, ports: PortsOf) -> Rollout:
    """One rollout with its waves, devices and decisions."""
    return views.get_rollout(ports.catalogue, rollout_id)


@router.post("/{rollout_id}/actions", operation_id="command_rollout", status_code=HTTPStatus.ACCEPTED)
def command_rollout(rollout_id: Name, command: ActionRequest, ports: PortsOf) -> Rollout:
    """Pause, resume, abort, roll back, retry or approve, all of it or a lane; the controller obeys in order."""
    requests.command_rollout(ports.catalogue, rollout_id, command.action, profile=command.profile, now=ports.clock())
    return views.get_rollout(ports.catalogue, rollout_id)
