"""Devices as operators see them: who is there, what they are called, whether they were heard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from edge_agent.protocol.messages import Status
from server.database.tables import certificates, desired, device_states, devices
from server.errors import InvalidError, NotFoundError
from server.ingest.presence import presence_of
from server.schemas.fleet import CertificateView, Device

if TYPE_CHECKING:
    from collections.abc import Mapping

    from server.database.connect import Database
    from server.fleet.selector import Selector

MAX_LABELS: Final = 32
SHOWN: Final = 10  # of a device's certificates, the latest
_ALL: Final = devices.outerjoin(device_states, devices.c.device_id == device_states.c.device_id).outerjoin(
    desired, devices.c.device_id == desired.c.device_id
)
_COLUMNS: Final[tuple[sa.ColumnElement[Any], ...]] = (
    devices.c.device_id,
    devices.c.profile,
    devices.c.labels,
    devices.c.joined_at,
    devices.c.removed_at,
    devices.c.revoked_at,
    device_states.c.clones,
    device_states.c.clone_seen_at,
    device_states.c.session_id,
    device_states.c.online,
    device_states.c.last_seen_at,
    device_states.c.status,
    device_states.c.observed_generation,
    desired.c.generation,
)


def list_devices(
    database: Database, selector: Selector, *, now: float, interval_s: float, retired: bool = False
) -> list[Device]:
    """The devices that a selector means, by id; `retired`: those that were taken out of use."""
    meant = devices.c.removed_at.is_not(None) if retired else devices.c.removed_at.is_(None)
    query = sa.select(*_COLUMNS).select_from(_ALL).where(meant).order_by(devices.c.device_id)
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [
        _view(row, now=now, interval_s=interval_s)
        for row in rows
        if selector.matches(row.labels, row.profile, row.device_id)
    ]


def get_device(database: Database, device_id: str, *, now: float, interval_s: float) -> Device:
    """One device.

    Raises:
        NotFoundError: there is none with this id, or it is retired.
    """
    query = sa.select(*_COLUMNS).select_from(_ALL)
    with database.read() as connection:
        row = connection.execute(query.where(devices.c.device_id == device_id, devices.c.removed_at.is_(None))).first()
        if row is None:
            raise unknown_device(connection, device_id)
        issued = sa.select(certificates).where(certificates.c.device_id == device_id)
        found = connection.execute(issued.order_by(certificates.c.issued_at.desc()).limit(SHOWN)).mappings().all()
    held = [CertificateView.model_validate(dict(one)) for one in found]
    return _view(row, now=now, interval_s=interval_s).model_copy(update={"certificates": held})


def change_labels(database: Database, device_id: str, changes: Mapping[str, str | None]) -> None:
    """Set labels; None removes one.

    Raises:
        NotFoundError: no such device.
        InvalidError: it would have too many.
    """
    with database.write() as connection:
        query = sa.select(devices.c.labels).where(devices.c.device_id == device_id, devices.c.removed_at.is_(None))
        row = connection.execute(query).first()
        if row is None:
            raise unknown_device(connection, device_id)
        merged = {**row.labels, **changes}
        labels = {key: value for key, value in merged.items() if value is not None}
        if len(labels) > MAX_LABELS:
            raise InvalidError(f"A device has at most {MAX_LABELS} labels, {device_id} would have {len(labels)}.")
        connection.execute(sa.update(devices).where(devices.c.device_id == device_id).values(labels=labels))


def matching(connection: sa.Connection, selector: Selector) -> list[tuple[str, str, dict[str, str]]]:
    """(device id, profile, labels) of the devices that a selector means."""
    query = sa.select(devices.c.device_id, devices.c.profile, devices.c.labels).where(devices.c.removed_at.is_(None))
    rows = connection.execute(query.order_by(devices.c.device_id)).all()
    return [tuple(row) for row in rows if selector.matches(row.labels, row.profile, row.device_id)]


def unknown_device(connection: sa.Connection, device_id: str) -> NotFoundError:
    """No device has this id, or it is retired."""
    retired = sa.select(devices.c.removed_at).where(devices.c.device_id == device_id)
    if connection.execute(retired).first() is not None:
        return NotFoundError(
            f"Device {device_id} is retired (`edge-registry device list --retired`): to come back it joins with a new "
            "token."
        )
    return NotFoundError(f"There is no device {device_id}: `edge-registry device list` shows those that joined.")


def _view(row: sa.Row[Any], *, now: float, interval_s: float) -> Device:
    return Device(
        device_id=row.device_id,
        profile=row.profile,
        labels=row.labels,
        presence=presence_of(row._asdict(), now=now, interval=interval_s),
        last_seen_at=row.last_seen_at,
        joined_at=row.joined_at,
        retired_at=row.removed_at,
        revoked_at=row.revoked_at,
        clones=row.clones or 0,
        clone_seen_at=row.clone_seen_at,
        observed_generation=row.observed_generation,
        wanted_generation=row.generation,
        status=Status.model_validate(row.status) if row.status else None,
    )
