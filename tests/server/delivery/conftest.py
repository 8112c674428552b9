"""A registry that wants some devices to run one object, and devices that fetch it over a real broker."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import pytest
import sqlalchemy as sa

from edge_agent.protocol import bitmap
from edge_agent.protocol.messages import Ask, AskKind, Desired, DesiredDeployment, Reply, decode, encode
from edge_agent.protocol.topics import (
    DeviceTopic,
    ParsedBlockTopic,
    broadcast_blocks,
    device_topic,
    parse,
    private_blocks,
)
from server.database import tables
from server.mqtt import BrokerConnection, Incoming, Subscription
from tests.server.manifests import manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_agent.protocol.manifest import ObjectDescriptor, VariantManifest
    from server.database.connect import Database
    from server.storage import S3ObjectStore


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


@dataclass
class Shelf:
    """One object of random bytes in S3, with its manifest, and devices that are to run it."""

    database: Database
    store: S3ObjectStore
    broker: str
    data: bytes
    salt: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    manifest: VariantManifest = field(init=False)
    manifest_sha256: str = ""
    also_wanted: tuple[str, ...] = ()  # manifests of other models

    def __post_init__(self) -> None:
        self.manifest = manifest_of(self.data)
        self.store.put_bytes(self.data)
        text = self.manifest.model_dump_json().encode()
        self.manifest_sha256 = self.store.put_bytes(text).sha256
        variant = {
            "model": "m",
            "version": "1",
            "profile": "pi",
            "variant_id": "v1",
            "recipe": "float32",
            "runtime": "litert",
            "delegate": "xnnpack",
            "verdict": "fits",
            "chosen": True,
            "manifest_sha256": self.manifest_sha256,
            "manifest_bytes": len(text),
            "object_sha256": self.manifest.object.sha256,
            "object_bytes": len(self.data),
            "document": {},
            "created_at": 0.0,
        }
        with self.database.write() as connection:
            tables.catalogue.create_all(connection)
            connection.execute(sa.insert(tables.registry).values(registry_id="r", epoch=7, created_at=0.0))
            connection.execute(sa.insert(tables.variants).values(variant))

    def build_again(self) -> None:
        """The same object gets another manifest, and the table of variants knows the newest only."""
        text = manifest_of(self.data, recipe="built-again").model_dump_json().encode()
        newest = {"manifest_sha256": self.store.put_bytes(text).sha256, "manifest_bytes": len(text)}
        with self.database.write() as connection:
            connection.execute(sa.update(tables.variants).values(newest))

    @property
    def object(self) -> ObjectDescriptor:
        return self.manifest.object

    def add_device(self, number: int, *, wanted: bool = True, removed: bool = False) -> str:
        device = f"{self.salt}-{number}"
        entries = tuple(
            DesiredDeployment(
                deployment_id=f"dep-{number}-{place}",
                model=f"m{place}",
                version="1",
                variant_id="v1",
                manifest_sha256=sha256,
                manifest_bytes=100,
            )
            for place, sha256 in enumerate((*self.also_wanted, self.manifest_sha256))
        )
        desired = Desired(epoch=7, generation=1, deployments=entries)
        row = {
            "device_id": device,
            "profile": "pi",
            "labels": {},
            "key_sha256": "0" * 64,
            "facts": {},
            "joined_at": 0.0,
            "removed_at": 1.0 if removed else None,
        }
        with self.database.write() as connection:
            connection.execute(sa.insert(tables.devices).values(row))
            if wanted:
                values = {
                    "device_id": device,
                    "epoch": 7,
                    "generation": 1,
                    "document": desired.model_dump(mode="json"),
                    "published_generation": 1,
                    "updated_at": 0.0,
                }
                connection.execute(sa.insert(tables.desired).values(values))
        return device


class FakeDevice:
    """Asks and collects, over a connection of its own."""

    def __init__(
        self, shelf: Shelf, device: str, *, listens: bool = True, deaf_to: frozenset[int] = frozenset()
    ) -> None:
        self.shelf, self.device, self.deaf_to = shelf, device, deaf_to
        self.blocks: dict[int, bytes] = {}
        self.broadcast: list[int] = []
        self.private: list[int] = []
        self.replies: dict[bytes, Reply] = {}
        self.raw: list[bytes] = []
        topics = [device_topic(device, DeviceTopic.REPLY), private_blocks(device)]
        topics += [broadcast_blocks(shelf.object.sha256)] if listens else []
        self.connection = BrokerConnection(
            shelf.broker, device, [Subscription(topic) for topic in topics], self._on_message
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.connection.run, args=(self._stop,))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self.connection.wait_ready(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.connection.wake()
        self._thread.join()

    def _on_message(self, message: Incoming) -> None:
        parsed = parse(message.topic)
        if isinstance(parsed, ParsedBlockTopic):
            assert parsed.sha256 == self.shelf.object.sha256
            (self.private if parsed.device else self.broadcast).append(parsed.block)
            if parsed.device or parsed.block not in self.deaf_to:
                self.blocks[parsed.block] = message.payload
        else:
            assert message.correlation is not None
            self.replies[message.correlation] = decode(Reply, message.payload)
        if message.qos:
            message.ack()

    @property
    def complete(self) -> bool:
        return len(self.blocks) == self.shelf.object.block_count

    @property
    def data(self) -> bytes:
        return b"".join(self.blocks[block] for block in sorted(self.blocks))

    def send(self, payload: bytes, correlation: bytes | None = b"c") -> None:
        self.connection.publish(device_topic(self.device, DeviceTopic.ASK), payload, correlation=correlation)

    def ask(self, kind: AskKind, *, timeout_s: float = 20.0, **fields: object) -> Reply:
        correlation = random.randbytes(8)
        self.send(encode(Ask.model_validate({"kind": kind, **fields})), correlation)
        wait_until(lambda: correlation in self.replies, timeout_s)
        return self.replies[correlation]

    def ask_blocks(self, *, listening: bool = True) -> Reply:
        count = self.shelf.object.block_count
        missing = bitmap.pack(set(range(count)) - set(self.blocks), count=count)
        return self.ask(AskKind.BLOCKS, sha256=self.shelf.object.sha256, missing=missing, listening=listening)


@pytest.fixture
def make_shelf(
    new_database: Callable[[str], Database], broker: str, object_store: S3ObjectStore
) -> Callable[[int], Shelf]:
    """An object of so many bytes."""
    database = new_database("registry")

    def make(size_bytes: int) -> Shelf:
        return Shelf(database, object_store, broker, random.randbytes(size_bytes))

    return make


@pytest.fixture
def make_device() -> Callable[..., FakeDevice]:
    """A device's connection."""
    return FakeDevice
