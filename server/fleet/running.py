"""What devices have said that they run, by what they were wanted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from edge_agent.protocol.messages import Desired, Status
from edge_agent.protocol.states import DeploymentState
from server.database.tables import desired, device_states, devices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def running_manifests(
    connection: sa.Connection, model: str, *, profiles: Iterable[str] | None = None
) -> Iterator[tuple[str, str]]:
    """By device: the manifest of what it is wanted to run of a model, where it has said that it runs it."""
    query = sa.select(desired.c.device_id, desired.c.document, device_states.c.status).join(
        device_states, device_states.c.device_id == desired.c.device_id
    )
    if profiles is not None:
        query = query.join(devices, devices.c.device_id == desired.c.device_id)
        query = query.where(devices.c.profile.in_(sorted(profiles)), devices.c.removed_at.is_(None))
    for row in connection.execute(query):
        entries = Desired.model_validate(row.document).deployments
        wanted = next((entry for entry in entries if entry.model == model), None)
        if wanted is None or row.status is None:
            continue
        told = Status.model_validate(row.status).deployments
        if any(one.deployment_id == wanted.deployment_id and one.state == DeploymentState.ACTIVE for one in told):
            yield row.device_id, wanted.manifest_sha256
