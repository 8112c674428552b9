"""A device that joined, and a delivery that asks it over a real broker."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from edge_agent.protocol.inquiry import AnswerPart, Inquiry, InquiryKind, parts_of
from edge_agent.protocol.messages import decode, encode
from edge_agent.protocol.topics import DeviceTopic, device_topic
from server.database import tables
from server.inquiries import inquirer as inquirers
from server.inquiries import requests
from server.inquiries.inquirer import Inquirer
from server.mqtt import BrokerConnection, Incoming, Subscription
from server.schemas.inquiries import InquiryForm, InquiryView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from server.database.connect import Database


@dataclass
class Desk:
    """The registry's side; its clock is the test's."""

    database: Database
    connection: BrokerConnection
    heard: list[Inquiry]
    device: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    now: float = 1e9

    def __post_init__(self) -> None:
        self.inquirer = Inquirer(self.database, self.connection, clock=lambda: self.now)

    def ask(self, kind: InquiryKind = InquiryKind.LOG, **options: object) -> str:
        form = InquiryForm.model_validate({"kind": kind, **options})
        return requests.ask(self.database, self.device, form, now=self.now)

    def view(self, inquiry_id: str) -> InquiryView:
        return requests.get(self.database, inquiry_id, now=self.now, interval_s=60.0)

    def tick(self, *, after_s: float = 1.0) -> None:
        self.now += after_s
        self.inquirer.tick()

    def expect_heard(self, count: int) -> list[Inquiry]:
        end_s = time.monotonic() + 10
        while len(self.heard) < count:
            assert time.monotonic() < end_s, f"{len(self.heard)} questions came"
            time.sleep(0.01)
        return self.heard

    def say(self, part: AnswerPart, *, device: str | None = None) -> str:
        """What a device says, as the broker brings it; what it was refused for, if it was."""
        refused = self.inquirer.take(device or self.device, encode(part))
        return "" if refused is None else refused.kind

    def answer(self, inquiry_id: str, packed: bytes) -> list[str]:
        return [self.say(part) for part in parts_of(inquiry_id, packed)]


@pytest.fixture
def desk(new_database: Callable[[str], Database], broker: str) -> Iterator[Desk]:
    """A desk with one device that listens."""
    database = new_database("registry")
    heard: list[Inquiry] = []

    def hear(message: Incoming) -> None:
        heard.append(decode(Inquiry, message.payload))
        message.ack()

    stop = threading.Event()
    with ExitStack() as stack:
        registry = BrokerConnection(broker, f"r-{uuid.uuid4().hex[:8]}", (), lambda _: None)
        made = Desk(database, registry, heard)
        topic = device_topic(made.device, DeviceTopic.INQUIRY)
        listener = BrokerConnection(broker, made.device, [Subscription(topic)], hear)
        for connection in (registry, listener):
            thread = threading.Thread(target=connection.run, args=(stop,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(connection.wake)
        stack.callback(stop.set)
        assert registry.wait_ready(10)
        assert listener.wait_ready(10)
        _add_device(database, made.device)
        yield made


@pytest.fixture
def again_s() -> float:
    """After so long a silent device is asked again."""
    return inquirers.AGAIN_S


def _add_device(database: Database, device: str) -> None:
    row = {"device_id": device, "profile": "pi", "labels": {}, "key_sha256": "0" * 64, "facts": {}, "joined_at": 0.0}
    with database.write() as connection:
        tables.catalogue.create_all(connection)
        connection.execute(sa.insert(tables.devices).values(row))
