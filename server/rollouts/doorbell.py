"""Publishes wanted states, retained: the doorbell that tells a device to look. What it rang for is noted afterwards."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from edge_agent.protocol.messages import Desired, MalformedMessageError, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from server.database import tables
from server.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from server.mqtt import BrokerConnection, Publication

log = logging.getLogger(__name__)

BATCH = 500  # documents read at once; the rest follows when it is rung again
# An empty retained message clears what the broker keeps. `desired` last: a new one may follow it at once.
CLEARED = (DeviceTopic.PRESENCE, DeviceTopic.STATUS, DeviceTopic.DESIRED)


@dataclass(frozen=True, slots=True)
class _Rung:
    generation: int
    publications: tuple[Publication, ...]


class Doorbell:
    """Knows which publications are under way; called by one thread."""

    def __init__(self, connection: BrokerConnection) -> None:
        self._connection = connection
        self._under_way: dict[str, _Rung] = {}
        self._cut_short = False

    @property
    def is_busy(self) -> bool:
        """Whether there is more to do soon: not everybody was rung for, or the broker has not answered for all."""
        return self._cut_short or bool(self._under_way)

    def ring(self, connection: sa.Connection) -> None:
        """Publish what is unpublished and not under way, as much as the broker takes."""
        self._cut_short = False
        if not self._connection.is_ready:
            return
        new = self._unpublished(connection)
        for row in connection.execute(_documents(new)) if new else ():
            try:
                publications = self._publish(row.device_id, row.document, removed=row.removed_at is not None)
            except BrokerUnavailableError:
                self._cut_short = True
                return  # the next time goes on
            except MalformedMessageError:
                log.exception(
                    "the desired state of %s can't be published; the device can still ask for it", row.device_id
                )
                publications = ()
            self._under_way[row.device_id] = _Rung(row.generation, publications)

    def _unpublished(self, connection: sa.Connection) -> list[str]:
        """The next devices to ring for, those first that wait the longest; documents under way are not read again."""
        desired = tables.desired.c
        limit = BATCH + len(self._under_way)
        query = (
            sa.select(desired.device_id, desired.generation)
            .where(desired.published_generation < desired.generation)
            .order_by(desired.updated_at, desired.device_id)
            .limit(limit)
        )
        rows = connection.execute(query).all()
        self._cut_short = len(rows) == limit
        under_way = {device_id: rung.generation for device_id, rung in self._under_way.items()}
        return [row.device_id for row in rows if under_way.get(row.device_id, -1) < row.generation]

    def take_acknowledged(self) -> dict[str, int]:
        """Devices whose generation the broker has acknowledged, each told once; what failed will be rung again."""
        done = {device: rung for device, rung in self._under_way.items() if all(p.is_done for p in rung.publications)}
        for device in done:
            del self._under_way[device]
        return {
            device: rung.generation
            for device, rung in done.items()
            if all(publication.failure is None for publication in rung.publications)
        }

    def _publish(self, device_id: str, document: object, *, removed: bool) -> tuple[Publication, ...]:
        if removed:
            return tuple(
                self._connection.publish(device_topic(device_id, kind), b"", qos=1, retain=True) for kind in CLEARED
            )
        payload = encode(Desired.model_validate(document))
        topic = device_topic(device_id, DeviceTopic.DESIRED)
        return (self._connection.publish(topic, payload, qos=1, retain=True),)


def _documents(device_ids: list[str]) -> sa.Select[Any]:
    desired, devices = tables.desired.c, tables.devices.c
    return (
        sa.select(desired.device_id, desired.generation, desired.document, devices.removed_at)
        .outerjoin(tables.devices, devices.device_id == desired.device_id)
        .where(desired.device_id.in_(device_ids))
        .order_by(desired.updated_at, desired.device_id)
    )
