"""When the device asks, minute by minute, without a broker: time comes in."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from edge_agent.deployments.events import Moment
from edge_agent.deployments.records import Accepted
from edge_agent.layout import Layout
from edge_agent.link.asks import Asks
from edge_agent.link.connection import Connection
from edge_agent.link.inbox import Inbox
from edge_agent.link.mqtt import MqttLink, parse_url
from edge_agent.link.tls import Tls
from edge_agent.settings import AgentSettings
from edge_agent.storage.store import StateStore
from edge_agent.telemetry.spool import Spool
from tests.edge_agent.surroundings.device import DEVICE, KEY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from edge_agent.protocol.messages import Ask


class CountedAsks(Asks):
    """Counts the questions instead of sending them."""

    sent = 0

    def send(self, ask: Ask) -> bool:  # noqa: ARG002  only that it is asked matters
        self.sent += 1
        return True


@pytest.fixture
def asks(tmp_path: Path) -> Iterator[tuple[CountedAsks, Connection]]:
    inbox = Inbox()
    address = parse_url("mqtt://localhost")
    link = MqttLink(
        address,
        device_id=DEVICE,
        key=KEY,
        tls=Tls(Layout(tmp_path)).own,
        keepalive_s=60,
        session_expiry_s=60,
        inbox=inbox,
    )
    store = StateStore(tmp_path / "state.db")
    spool = Spool(tmp_path / "spool.db", limit_bytes=1 << 20, limit_age_s=1e6)
    asks = CountedAsks(link, DEVICE)
    asks.connected = True
    yield (
        asks,
        Connection(
            AgentSettings(data_dir=tmp_path),
            device_id=DEVICE,
            link=link,
            asks=asks,
            store=store,
            spool=spool,
            runtimes={},
            chance=lambda: 0.5,
        ),
    )
    spool.close()
    store.close()
    inbox.close()


def asked_at(asks: CountedAsks, connection: Connection, seconds: range) -> list[int]:
    times = []
    for second in seconds:
        before = asks.sent
        connection.ask_desired(Accepted(), Moment(now_s=float(second)))
        if asks.sent > before:
            times.append(second)
    return times


def test_connection_without_answers_asks_less_and_less_often_and_at_once_when_heard_again(
    asks: tuple[CountedAsks, Connection],
) -> None:
    times = asked_at(*asks, range(3600))
    waits = [after - before for before, after in pairwise(times)]
    assert waits[0] <= 20
    assert waits == sorted(waits)
    assert waits[-1] <= 320
    assert len(times) < 25, "an hour of silence"

    asks[1].heard(Moment(now_s=3600.0))
    after = asked_at(*asks, range(3600, 4200))
    assert after[1] - after[0] <= 20


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.999])
def test_connection_that_heard_nothing_for_an_interval_has_asked_by_then(
    asks: tuple[CountedAsks, Connection], chance: float
) -> None:
    connection = asks[1]
    connection._chance = lambda: chance
    connection.heard(Moment(now_s=1000.0))
    interval_s = int(AgentSettings().ask_interval_s)
    assert asked_at(asks[0], connection, range(1000, 1000 + interval_s + 1))
