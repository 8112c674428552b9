"""Which route wants which role: one table, by the operation's id in the OpenAPI document. Pure.

What is not in the table is refused to everybody, so that a new route is closed until somebody has thought about it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from server.schemas.operators import Role


class Beside(StrEnum):
    """Routes that no operator is needed for."""

    NOBODY = "nobody"  # health tells whether the registry works, and nothing that is in it
    JOINING = "joining"  # the body holds a one-time token
    DEVICE = "device"  # `Authorization: Device ID:KEY`, looked at by the route itself


Wanted = Role | Beside

ROLES: Final[dict[str, Wanted]] = {
    "get_health": Beside.NOBODY,
    "join": Beside.JOINING,
    "get_desired": Beside.DEVICE,
    "get_manifest": Beside.DEVICE,
    "get_object_url": Beside.DEVICE,
    # what there is
    "get_openapi": Role.VIEWER,
    "whoami": Role.VIEWER,
    "list_profiles": Role.VIEWER,
    "get_profile": Role.VIEWER,
    "list_models": Role.VIEWER,
    "list_versions": Role.VIEWER,
    "get_version": Role.VIEWER,
    "get_recipes": Role.VIEWER,
    "list_variants": Role.VIEWER,
    "list_choices": Role.VIEWER,
    "get_search": Role.VIEWER,
    "list_jobs": Role.VIEWER,
    "get_job": Role.VIEWER,
    "get_report": Role.VIEWER,
    "get_report_files": Role.VIEWER,
    "list_tokens": Role.VIEWER,  # without their secrets
    "list_devices": Role.VIEWER,
    "get_device": Role.VIEWER,
    "get_inquiry": Role.VIEWER,
    "forecast_rollout": Role.VIEWER,  # writes nothing
    "list_rollouts": Role.VIEWER,
    "get_rollout": Role.VIEWER,
    "get_telemetry": Role.VIEWER,
    "get_webhook": Role.VIEWER,
    # what changes something, and what a device says of its surroundings
    "add_profile": Role.OPERATOR,
    "push_version": Role.OPERATOR,
    "build_variants": Role.OPERATOR,
    "start_search": Role.OPERATOR,
    "start_report": Role.OPERATOR,
    "cancel_job": Role.OPERATOR,
    "create_token": Role.OPERATOR,
    "revoke_token": Role.OPERATOR,
    "label_device": Role.OPERATOR,
    "retire_device": Role.OPERATOR,
    "ask_device": Role.OPERATOR,
    "get_device_log": Role.OPERATOR,
    "get_bundle": Role.OPERATOR,
    "start_rollout": Role.OPERATOR,
    "command_rollout": Role.OPERATOR,
    "retire_model": Role.OPERATOR,
    "bring_model_back": Role.OPERATOR,
    "retire_version": Role.OPERATOR,
    "bring_version_back": Role.OPERATOR,
    "sweep": Role.OPERATOR,
    # who may do that, and who did
    "add_operator": Role.ADMIN,
    "list_operators": Role.ADMIN,
    "rotate_operator": Role.ADMIN,
    "revoke_operator": Role.ADMIN,
    "read_audit": Role.ADMIN,
}
_ORDER: Final = tuple(Role)


def suffices(role: Role, wanted: Role) -> bool:
    """Whether a role may do what another may.

    >>> suffices(Role.ADMIN, Role.OPERATOR), suffices(Role.VIEWER, Role.OPERATOR)
    (True, False)
    """
    return _ORDER.index(role) >= _ORDER.index(wanted)
