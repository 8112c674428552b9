"""What the registry itself knows of a device, as documents for the bundle; no key and no secret is among it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.database.tables import decisions, deployments, desired, device_states, devices, reports
from server.telemetry.codec import unpack
from server.telemetry.merge import SketchSum

if TYPE_CHECKING:
    from edge_agent.protocol.messages import LatencySketch
    from server.database.connect import Database
    from server.schemas.inquiries import InquiryView

DEPLOYMENTS: Final = 50
DECISIONS: Final = 100
WINDOWS: Final = 100


def knowledge(catalogue: Database, telemetry: Database, view: InquiryView) -> dict[str, object]:
    """The documents, by the names of `edge_agent.protocol.bundle.REGISTRY_FILES`.

    Raises:
        DatabaseUnavailableError: a database does not answer.
        BadSketchError: a stored sketch is damaged.
    """
    device_id = view.device_id
    with catalogue.read() as connection:
        device = _device(connection, device_id)
        wanted = connection.execute(sa.select(desired).where(desired.c.device_id == device_id)).first()
        of_device = sa.select(deployments).where(deployments.c.device_id == device_id)
        latest = connection.execute(of_device.order_by(deployments.c.updated_at.desc()).limit(DEPLOYMENTS)).all()
        told = _decisions(connection, {row.rollout_id for row in latest})
    return {
        "device": device,
        "desired": None if wanted is None else wanted._asdict(),
        "deployments": [row._asdict() for row in latest],
        "decisions": told,
        "telemetry": _windows(telemetry, device_id),
        "inquiry": view.model_dump(mode="json"),
    }


def _device(connection: sa.Connection, device_id: str) -> dict[str, Any]:
    columns = [column for column in devices.c if column.name != "key_sha256"]
    found = connection.execute(sa.select(*columns).where(devices.c.device_id == device_id)).first()
    state = connection.execute(sa.select(device_states).where(device_states.c.device_id == device_id)).first()
    return {
        "device": None if found is None else found._asdict(),
        "state": None if state is None else state._asdict(),
    }


def _decisions(connection: sa.Connection, rollout_ids: set[str]) -> list[dict[str, Any]]:
    query = sa.select(decisions).where(decisions.c.rollout_id.in_(rollout_ids))
    rows = connection.execute(query.order_by(decisions.c.decision_id.desc()).limit(DECISIONS)).all()
    return [row._asdict() for row in reversed(rows)]


def _windows(telemetry: Database, device_id: str) -> list[dict[str, Any]]:
    query = sa.select(reports).where(reports.c.device_id == device_id)
    with telemetry.read() as connection:
        rows = connection.execute(query.order_by(reports.c.received_at.desc()).limit(WINDOWS)).all()
    return [_window(row) for row in reversed(rows)]


def _window(row: sa.Row[Any]) -> dict[str, Any]:
    document = row._asdict()
    sketches = unpack(document.pop("sketches"))
    latencies = {"queue": sketches.queue, "preprocess": sketches.preprocess, "invoke": sketches.invoke}
    return {**document, **{name: _summary(sketch) for name, sketch in latencies.items()}}


def _summary(sketch: LatencySketch) -> dict[str, Any]:
    total = SketchSum()
    total.add(sketch)
    return total.summary().model_dump(mode="json", exclude_none=True)
