"""A day of telemetry of one real agent, a window a minute, in seconds: everything that can die does, more than once."""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.protocol.topics import DeviceTopic, device_topic
from tests.edge_agent.surroundings.device import DEVICE, TOY_RUNNER, Device
from tests.edge_agent.surroundings.mqtt_registry import MqttRegistry
from tests.edge_agent.surroundings.toy_variant import make_variant
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    import sqlalchemy as sa

    from server.stack.child import Child

    StartIngest = Callable[..., subprocess.Popen[bytes]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BUSY_RUNNER = TOY_RUNNER.with_name("busy_runner.py")
WINDOWS = 24 * 60
AGENT_DIES = (150, 420, 640, 1010, 1300)  # windows
BROKER_DIES = (260, 700, 1150)
INGEST_DIES = (530, 900)
RUNNER_DIES = (340, 820)
EVERY_THIRD = 3  # report comes twice
PATIENCE_S = 60.0


class Databases(Protocol):
    folder: Path

    def add_device(self, device_id: str) -> str: ...
    def reports(self, device_id: str = ...) -> list[sa.RowMapping]: ...


class Repeater:
    """A network that delivers some packets twice, the second time late."""

    def __init__(self, url: str) -> None:
        self.repeated = self._heard = 0
        self._topic = device_topic(DEVICE, DeviceTopic.TELEMETRY)
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="repeater", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._on_message
        self._client.on_connect = self._on_connect
        self._client.connect(urlsplit(url).hostname or "", urlsplit(url).port or 1883)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Client, *_: object) -> None:
        client.subscribe(self._topic, options=SubscribeOptions(qos=1, noLocal=True))

    def _on_message(self, client: Client, _: object, message: MQTTMessage) -> None:
        self._heard += 1
        if self._heard % EVERY_THIRD == 0:
            client.publish(self._topic, message.payload, qos=1)
            self.repeated += 1


class Day:
    """An agent whose runner is busy all day, its registry, and the diary of what really happened."""

    def __init__(self, folder: Path, url: str) -> None:
        self.diary = folder / "diary"
        self.device = Device(folder / "agent", url)
        self.registry = MqttRegistry(url)
        self.registry.acknowledge = False  # that is the ingest's business
        self.registry.client.reconnect_delay_set(1, 1)

    def start(self, *settings: str) -> None:
        program = f"{sys.executable} {BUSY_RUNNER} --diary {self.diary} --windows {WINDOWS}"
        deaths = " ".join(map(str, RUNNER_DIES))
        values = (f"runner_command={program} --dies-after {deaths}", *settings)
        self.device.flags = [part for value in values for part in ("--set", value)]
        self.device.join()
        self.registry.want(1, {"d1": make_variant()})
        self.device.start()

    @property
    def windows(self) -> list[int]:
        """The requests of each window so far."""
        return [int(line) for line in self.diary.read_text().split()] if self.diary.exists() else []

    def close(self) -> None:
        with suppress(Exception):
            self.device.stop()
        self.device.kill()
        self.registry.close()


@pytest.fixture
def day(own_broker: tuple[str, Child], databases: Databases) -> Iterator[Day]:
    url, _ = own_broker
    databases.add_device(DEVICE)
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:  # short: Unix socket paths end at 107 bytes
        day = Day(Path(folder), url)
        yield day
        day.close()


def totals(rows: list[sa.RowMapping]) -> tuple[int, int]:
    return len(rows), sum(row["inferences"] for row in rows)


def test_day_of_reports_with_every_part_killed_and_packets_repeated_is_counted_exactly_once(
    day: Day, own_broker: tuple[str, Child], databases: Databases, start_ingest: StartIngest
) -> None:
    url, broker = own_broker
    ingest = start_ingest(url, name="the-same")
    repeater = Repeater(url)
    day.start()
    due: list[tuple[int, str]] = sorted(
        [(at, "agent") for at in AGENT_DIES]
        + [(at, "broker") for at in BROKER_DIES]
        + [(at, "in") for at in INGEST_DIES]
    )
    for at, who in due:
        until(lambda at=at: len(day.windows) >= at, timeout_s=PATIENCE_S, what=f"window {at}")  # type: ignore[misc]
        if who == "agent":
            day.device.kill()
            day.device.start()
        elif who == "broker":
            broker.finish(time.monotonic())
            broker.start()
        else:
            ingest.send_signal(signal.SIGKILL)
            ingest.wait()
            ingest = start_ingest(url, name="the-same")
    until(lambda: len(day.windows) == WINDOWS, timeout_s=PATIENCE_S, what="the end of the day")
    until(lambda: day.device.status()["spool"]["reports"] == 0, timeout_s=PATIENCE_S, what="an empty spool")
    repeater.close()
    rows = databases.reports(DEVICE)
    assert totals(rows) == (WINDOWS, sum(day.windows))
    assert {row["dropped_reports"] for row in rows} == {0}
    assert repeater.repeated > WINDOWS // (2 * EVERY_THIRD)


def test_day_without_a_broker_keeps_the_newest_reports_and_counts_those_that_found_no_room(
    day: Day, own_broker: tuple[str, Child], databases: Databases, start_ingest: StartIngest
) -> None:
    url, broker = own_broker
    day.start("spool_limit_bytes=200000")
    until(lambda: len(day.windows) >= 1, timeout_s=PATIENCE_S, what="the first window")
    broker.finish(time.monotonic())
    for at in AGENT_DIES:
        until(lambda at=at: len(day.windows) >= at, timeout_s=PATIENCE_S, what=f"window {at}")  # type: ignore[misc]
        day.device.kill()
        day.device.start()
    until(lambda: len(day.windows) == WINDOWS, timeout_s=PATIENCE_S, what="the end of the day")
    broker.start()
    until(day.registry.client.is_connected, timeout_s=PATIENCE_S, what="the broker")
    start_ingest(url)
    until(lambda: day.device.status()["spool"]["reports"] == 0, timeout_s=PATIENCE_S, what="an empty spool")
    rows = sorted(databases.reports(DEVICE), key=lambda row: row["sequence"])
    assert 0 < len(rows) < WINDOWS
    assert sum(row["inferences"] for row in rows) == sum(day.windows[-len(rows) :])
    told = {row["spool_id"]: row["dropped_reports"] for row in rows}  # by the last of each start
    told[rows[-1]["spool_id"]] = day.device.status()["spool"]["dropped"]  # those that no report tells yet among them
    assert len(rows) + sum(told.values()) == WINDOWS
