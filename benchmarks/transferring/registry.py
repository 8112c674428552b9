"""What of a registry a transfer needs, as processes: Mosquitto, SeaweedFS, API, delivery; and what devices want."""

from __future__ import annotations

import hashlib
import os
import random
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from pydantic import SecretStr

from benchmarks.transferring.wire import Cuts, HttpMeter, NoObjects, Wire, object_in_path
from edge_agent.protocol.manifest import (
    Encoding,
    FileRole,
    ObjectDescriptor,
    PayloadFile,
    TensorBinding,
    VariantManifest,
)
from edge_agent.protocol.messages import Desired, DesiredDeployment, encode
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from edge_agent.protocol.topics import DeviceTopic, device_topic
from server.database import tables
from server.database.connect import Database
from server.database.migrate import upgrade
from server.fleet.enrol import registry_epoch
from server.fleet.secrets import hash_of
from server.settings import RegistrySettings
from server.stack.broker import broker_command
from server.stack.child import Child
from server.stack.commands import Command
from server.stack.objects import INTERNAL_PORTS, S3Keys, remove_sockets, weed_command
from server.stack.ports import LOOPBACK, choose_ports
from server.stack.probes import http_answers, mqtt_answers
from server.storage import S3ObjectStore
from server.storage.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from pathlib import Path

KEY = "ab" * 32
# without encryption: what is counted on the wire is what is read there
OPEN_LISTENER = "listener {port} 127.0.0.1\nallow_anonymous true\n"
KEYS = S3Keys(access_key="benchmark", secret_key="benchmark-secret")  # noqa: S106  of a store that lives for a minute
RANGE = re.compile(rb"^GET (\S+) .*?\r\nRange: bytes=(\d+)-(\d+)\r\n", re.DOTALL | re.IGNORECASE)
_TENSOR = TensorSpec(name="x", shape=(-1, 4))
_BINDING = TensorBinding(name="x", index=0, datatype=Datatype.FP32, shape=(1, 4))


@dataclass(frozen=True)
class Variant:
    """An object in the registry's store, and its manifest."""

    manifest: VariantManifest
    manifest_sha256: str
    manifest_bytes: int

    @property
    def object(self) -> ObjectDescriptor:
        """The bytes that travel."""
        return self.manifest.object


@dataclass
class ReadBlocks:
    """How often the registry has read each block from S3: its own requests, not those by presigned URL."""

    block_bytes: int
    times: Counter[tuple[str, int]] = field(default_factory=Counter)

    def see(self, request: bytes) -> None:
        """A request on its way to the store."""
        found = RANGE.match(request)
        if found is None or b"X-Amz-Signature=" in found[1]:
            return
        sha256 = object_in_path(request)
        for block in range(int(found[2]) // self.block_bytes, int(found[3]) // self.block_bytes + 1):
            self.times[sha256, block] += 1


class Registry:
    """Runs until the stack is closed.

    Args:
        cuts: when devices are cut off while they fetch over HTTPS.
    """

    def __init__(self, folder: Path, stack: ExitStack, *, block_bytes: int, cuts: Cuts) -> None:
        names = ("mqtt", "api", "s3", *INTERNAL_PORTS)
        ports = choose_ports(names, fixed={}, addresses=[LOOPBACK], chance=random.SystemRandom())
        self._folder, self._stack = folder, stack
        self.mqtt, self.api = (LOOPBACK, ports["mqtt"]), (LOOPBACK, ports["api"])
        store = (LOOPBACK, ports["s3"])
        self.reads = ReadBlocks(block_bytes)
        self._own_wire = Wire(store, meter=NoObjects, on_request=self.reads.see)
        self.device_wire = Wire(store, meter=HttpMeter, cuts=cuts, account_of=object_in_path)
        for wire in (self._own_wire, self.device_wire):
            stack.callback(wire.close)
        self._start(broker_command(folder / "mosquitto", listener=OPEN_LISTENER.format(port=ports["mqtt"])))
        stack.callback(remove_sockets, ports)
        self._start(weed_command(folder / "s3", address=LOOPBACK, ports=ports, keys=KEYS))
        settings = self._settings(ports["api"])
        upgrade(settings)
        self._store = S3ObjectStore.from_settings(settings)
        prepare(self._store)
        self._database = Database(settings.database_url)
        with self._database.read() as connection:
            self._epoch = registry_epoch(connection)
        # the API signs addresses at the wire that is cut; delivery reads through the one that counts
        self._start(self._process("delivery", settings))
        api = settings.with_values(s3_endpoint=f"http://{LOOPBACK}:{self.device_wire.port}")
        self._start(self._process("api", api))
        self._signing = S3ObjectStore.from_settings(api)
        _wait(lambda: mqtt_answers(*self.mqtt) and http_answers(*self.api, "/v1/health"), "the registry")
        self._bell = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._bell.connect(*self.mqtt)
        self._bell.loop_start()
        stack.callback(self._bell.loop_stop)
        stack.callback(self._bell.disconnect)

    def store(self, payload: bytes, *, name: str) -> Variant:
        """Put an object and its manifest where devices can have them."""
        sha256 = hashlib.sha256(payload).hexdigest()
        manifest = VariantManifest(
            variant_id=name,
            model="m",
            version=name,
            profile="bench",
            recipe="none",
            runtime=RuntimeName.LITERT,
            delegate=Delegate.XNNPACK,
            signature=ModelSignature(inputs=(_TENSOR,), outputs=(_TENSOR,)),
            inputs=(_BINDING,),
            outputs=(_BINDING,),
            files=(PayloadFile(role=FileRole.MODEL, sha256=sha256, size_bytes=len(payload)),),
            payload_sha256=sha256,
            object=ObjectDescriptor.describe(payload, encoding=Encoding.IDENTITY, block_bytes=self.reads.block_bytes),
        )
        text = manifest.model_dump_json().encode()
        self._store.put_bytes(payload)
        return Variant(manifest, self._store.put_bytes(text).sha256, len(text))

    def add_devices(self, devices: Iterable[str]) -> None:
        """As if they had joined."""
        rows = [
            {
                "device_id": device,
                "profile": "bench",
                "labels": {},
                "key_sha256": hash_of(KEY),
                "facts": {},
                "joined_at": time.time(),
            }
            for device in devices
        ]
        with self._database.write() as connection:
            connection.execute(sa.insert(tables.devices), rows)

    def want(self, wanted: dict[str, Variant], *, generation: int, ring: bool = True) -> dict[str, float]:
        """Say what devices shall run, in the database first; when it was said to each, on the monotonic clock."""
        messages = {device: self._desired(device, variant, generation) for device, variant in wanted.items()}
        rows = [
            {
                "device_id": device,
                "epoch": self._epoch,
                "generation": generation,
                "document": desired.model_dump(mode="json"),
                "published_generation": generation,
                "updated_at": time.time(),
            }
            for device, desired in messages.items()
        ]
        with self._database.write() as connection:
            connection.execute(sa.delete(tables.desired).where(tables.desired.c.device_id.in_(list(wanted))))
            connection.execute(sa.insert(tables.desired), rows)
        rung_s: dict[str, float] = {}
        for device, desired in messages.items():
            rung_s[device] = time.monotonic()
            if ring:
                self._bell.publish(device_topic(device, DeviceTopic.DESIRED), encode(desired), qos=1, retain=True)
        return rung_s

    def _desired(self, device: str, variant: Variant, generation: int) -> Desired:
        deployment = DesiredDeployment(
            deployment_id=f"{device}-{generation}",
            model="m",
            version=variant.manifest.version,
            variant_id=variant.manifest.variant_id,
            manifest_sha256=variant.manifest_sha256,
            manifest_bytes=variant.manifest_bytes,
        )
        return Desired(epoch=self._epoch, generation=generation, deployments=(deployment,))

    def address_of(self, variant: Variant) -> str:
        """A presigned address, through the wire that is cut."""
        return self._signing.presign_get(variant.object.sha256, 3600)

    def _settings(self, api_port: int) -> RegistrySettings:
        settings = RegistrySettings(data_dir=self._folder / "registry")
        settings.data_dir.mkdir()
        return settings.with_values(
            api_port=api_port,
            mqtt_url=f"mqtt://{self.mqtt[0]}:{self.mqtt[1]}",
            s3_endpoint=f"http://{LOOPBACK}:{self._own_wire.port}",
            s3_access_key=KEYS.access_key,
            s3_secret_key=SecretStr(KEYS.secret_key),
        )

    def _process(self, name: str, settings: RegistrySettings) -> Command:
        argv = (sys.executable, "-m", f"server.processes.{name}")
        return Command(name=name, argv=argv, environment=settings.child_environment())

    def _start(self, command: Command) -> None:
        child = Child(command, log_dir=self._folder, environment=dict(os.environ))
        child.start()
        self._stack.callback(_stop, child)


def _stop(child: Child) -> None:
    child.ask_to_stop()
    child.finish(time.monotonic() + child.command.stop_grace_s)


def _wait(condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end_s:
            raise TimeoutError(f"{what} did not come up within {timeout_s:.0f} s")
        time.sleep(0.05)
