"""Publishes wanted states, retained: the doorbell that tells a device to look. What it rang for is noted afterwards."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from edge_agent.protocol.messages import Desired, MalformedMessageError, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from server.database import tables
from server.errors import BrokerUnavailableError

if TYPE_CHECKING:
    from server.mqtt import BrokerConnection, Publication

log = logging.getLogger(__name__)

BATCH = 500  # documents read at once; the rest follows in the next tick
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

    def ring(self, connection: sa.Connection) -> None:
        """Publish what is unpublished and not under way, as much as the broker takes."""
        if not self._connection.is_ready:
            return
        desired, devices = tables.desired.c, tables.devices.c
        query = (
            sa.select(desired.device_id, desired.generation, desired.document, devices.removed_at)
            .outerjoin(tables.devices, devices.device_id == desired.device_id)
            .where(desired.published_generation < desired.generation)
            .order_by(desired.updated_at, desired.device_id)
            .limit(BATCH + len(self._under_way))
        )
        for row in connection.execute(query):
            under_way = self._under_way.get(row.device_id)
            if under_way is not None and under_way.generation >= row.generation:
                continue
            try:
                publications = self._publish(row.device_id, row.document, removed=row.removed_at is not None)
            except BrokerUnavailableError:
                return  # the next tick goes on
            except MalformedMessageError:
                log.exception(
                    "the desired state of %s can't be published; the device can still ask for it", row.device_id
                )
                publications = ()
            self._under_way[row.device_id] = _Rung(row.generation, publications)

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
