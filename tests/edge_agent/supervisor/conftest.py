"""A device's surroundings: a real broker, a registry that answers on MQTT and HTTP, and the agent as a process."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest
import zstandard
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.layout import Layout
from edge_agent.protocol import bitmap, topics
from edge_agent.protocol.manifest import (
    Encoding,
    FileRole,
    ObjectDescriptor,
    PayloadFile,
    TensorBinding,
    VariantManifest,
)
from edge_agent.protocol.messages import (
    Ack,
    AckRange,
    Ask,
    AskKind,
    DeploymentStatus,
    Desired,
    DesiredDeployment,
    Presence,
    Reply,
    ReplyStatus,
    Status,
    TelemetryReport,
    decode,
    encode,
)
from edge_agent.protocol.profile import Delegate, RuntimeName
from edge_agent.protocol.signature import Datatype, ModelSignature, TensorSpec
from edge_agent.protocol.topics import DeviceTopic, device_topic
from edge_agent.supervisor import identity as identities

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOY_RUNNER = Path(__file__).parent / "toy_runner.py"
TOY_FRONT = Path(__file__).parent / "toy_front.py"
DEVICE, KEY = "dev-1", "ab" * 32
T = TypeVar("T")


def until(check: Callable[[], T], *, timeout_s: float = 20.0, what: str = "it") -> T:
    """Wait for something to become true; fails with what was awaited."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > give_up_at:
            pytest.fail(f"{what} did not happen within {timeout_s} s; last seen: {value!r}")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Broker:
    """Mosquitto on a free port; it can be killed and started again."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.folder / "mosquitto.conf"
        config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 100000\n")
        command = ["/usr/sbin/mosquitto", "-c", str(config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, what="the broker's start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = Broker(folder)
    broker.start()
    yield broker
    broker.kill()


@dataclass(frozen=True)
class ToyVariant:
    """A variant whose file tells the toy runner how to behave."""

    manifest: VariantManifest
    travelling: bytes

    @property
    def text(self) -> bytes:
        return self.manifest.model_dump_json().encode()

    @property
    def manifest_sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()

    @property
    def object_sha256(self) -> str:
        return self.manifest.object.sha256

    def wanted(self, deployment_id: str) -> DesiredDeployment:
        return DesiredDeployment(
            deployment_id=deployment_id,
            model=self.manifest.model,
            version=self.manifest.version,
            variant_id=self.manifest.variant_id,
            manifest_sha256=self.manifest_sha256,
            manifest_bytes=len(self.text),
        )


def make_variant(
    model: str = "net",
    version: str = "1",
    behaviour: str = "serve",
    *,
    filler_bytes: int = 3000,
    block_bytes: int = 1024,
) -> ToyVariant:
    """Incompressible filler makes as many blocks as a test wants."""
    seed = f"{model}{version}{behaviour}".encode()
    filler = b"".join(hashlib.sha256(seed + i.to_bytes(4, "big")).digest() for i in range(filler_bytes // 32))
    content = json.dumps({"behaviour": behaviour}).encode() + b"\n" + filler
    signature = ModelSignature(
        inputs=(TensorSpec(name="x", shape=(-1, 2)),), outputs=(TensorSpec(name="y", shape=(-1,)),)
    )
    travelling = zstandard.compress(content)
    manifest = VariantManifest(
        variant_id=f"{model}-{version}-variant",
        model=model,
        version=version,
        profile="bench",
        recipe="toy",
        runtime=RuntimeName.LITERT,
        delegate=Delegate.NONE,
        signature=signature,
        inputs=(TensorBinding(name="x", index=0, datatype=Datatype.FP32, shape=(1, 2)),),
        outputs=(TensorBinding(name="y", index=0, datatype=Datatype.FP32, shape=(1,)),),
        files=(PayloadFile(role=FileRole.MODEL, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)),),
        payload_sha256=hashlib.sha256(content).hexdigest(),
        object=ObjectDescriptor.describe(travelling, encoding=Encoding.ZSTD, block_bytes=block_bytes),
    )
    return ToyVariant(manifest, travelling)


class MqttRegistry:
    """The registry's side of the MQTT contract: answers asks, remembers what it saw."""

    def __init__(self, url: str) -> None:
        self.variants: dict[str, ToyVariant] = {}
        self.desired = Desired(epoch=1, generation=0)
        self.presences: list[Presence] = []
        self.statuses: list[Status] = []
        self.reports: list[TelemetryReport] = []
        self.asks: list[Ask] = []
        self.acknowledge = True
        self.lose: Callable[[int], bool] = lambda _index: False  # blocks that never arrive
        self.spoil: Callable[[int], bool] = lambda _index: False  # blocks that arrive wrong
        self.slow_down_left = 0
        self.block_limit = 10_000  # blocks sent per ask
        self.client = Client(CallbackAPIVersion.VERSION2, client_id="registry", protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = self._on_message
        self.client.on_connect = lambda *_: self._subscribe()
        self.client.connect("127.0.0.1", int(url.rpartition(":")[2]))
        self.client.loop_start()
        until(self.client.is_connected, what="the registry's connection")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def offer(self, *variants: ToyVariant) -> None:
        for variant in variants:
            self.variants[variant.manifest_sha256] = variant

    def want(self, generation: int, deployments: dict[str, ToyVariant], *, epoch: int = 1) -> None:
        """Publish a desired state as the retained doorbell."""
        self.offer(*deployments.values())
        wanted = tuple(variant.wanted(name) for name, variant in deployments.items())
        desired = Desired(
            epoch=epoch, generation=generation, deployments=wanted, status_interval_s=1.0, telemetry_window_s=1.0
        )
        self.desired = max(self.desired, desired, key=lambda d: d.order)
        self.publish(DeviceTopic.DESIRED, encode(desired), retain=True)

    def publish(
        self, kind: DeviceTopic, payload: bytes, *, retain: bool = False, correlation: bytes | None = None
    ) -> None:
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.CorrelationData = correlation
        self.client.publish(device_topic(DEVICE, kind), payload, qos=1, retain=retain, properties=properties)

    def broadcast(self, variant: ToyVariant, blocks: range) -> None:
        """The first pass of an object."""
        for index in blocks:
            self.client.publish(
                topics.broadcast_block(variant.object_sha256, index), self._block(variant, index), qos=0
            )

    def state_of(self, deployment_id: str) -> DeploymentStatus | None:
        for deployment in self.statuses[-1].deployments if self.statuses else ():
            if deployment.deployment_id == deployment_id:
                return deployment
        return None

    def history_of(self, deployment_id: str) -> list[str]:
        """The states that the registry has seen, in order, each once."""
        seen = [d.state.value for s in self.statuses for d in s.deployments if d.deployment_id == deployment_id]
        return [state for i, state in enumerate(seen) if i == 0 or seen[i - 1] != state]

    def serving(self, deployment_id: str) -> bool:
        deployment = self.state_of(deployment_id)
        return deployment is not None and deployment.state == "active" and deployment.serving

    def expect_serving(self, deployment_id: str, *, timeout_s: float = 20.0) -> DeploymentStatus:
        until(lambda: self.serving(deployment_id), timeout_s=timeout_s, what=f"{deployment_id} serving")
        return cast("DeploymentStatus", self.state_of(deployment_id))

    def expect_state(self, deployment_id: str, state: str, *, timeout_s: float = 20.0) -> DeploymentStatus:
        def reached() -> bool:
            deployment = self.state_of(deployment_id)
            return deployment is not None and deployment.state == state

        until(reached, timeout_s=timeout_s, what=f"{deployment_id} {state}; seen {self.history_of(deployment_id)}")
        return cast("DeploymentStatus", self.state_of(deployment_id))

    def expect_online(self, *, after: int = 0) -> Presence:
        until(lambda: len(self.presences) > after and self.presences[-1].online, what="presence")
        return self.presences[-1]

    def _subscribe(self) -> None:
        for kind in (DeviceTopic.PRESENCE, DeviceTopic.STATUS, DeviceTopic.TELEMETRY, DeviceTopic.ASK):
            self.client.subscribe(topics.every_device(kind), qos=1)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        parsed = topics.parse(message.topic)
        if not isinstance(parsed, topics.ParsedDeviceTopic) or not message.payload:
            return
        payload = bytes(message.payload)
        if parsed.kind is DeviceTopic.PRESENCE:
            self.presences.append(decode(Presence, payload))
        elif parsed.kind is DeviceTopic.STATUS:
            self.statuses.append(decode(Status, payload))
        elif parsed.kind is DeviceTopic.TELEMETRY:
            report = decode(TelemetryReport, payload)
            self.reports.append(report)
            if self.acknowledge:
                ack = AckRange(spool_id=report.spool_id, first=report.sequence, last=report.sequence)
                self.publish(DeviceTopic.ACK, encode(Ack(ranges=(ack,))))
        elif parsed.kind is DeviceTopic.ASK:
            ask = decode(Ask, payload)
            self.asks.append(ask)
            self.publish(DeviceTopic.REPLY, encode(self._answer(ask)), correlation=message.properties.CorrelationData)  # type: ignore[union-attr]

    def _answer(self, ask: Ask) -> Reply:
        if ask.kind is AskKind.DESIRED:
            return Reply(kind=ask.kind, status=ReplyStatus.OK, desired=self.desired)
        if ask.kind is AskKind.MANIFEST:
            variant = self.variants.get(ask.sha256 or "")
            if variant is None:
                return Reply(kind=ask.kind, status=ReplyStatus.NOT_FOUND, sha256=ask.sha256)
            return Reply(kind=ask.kind, status=ReplyStatus.OK, sha256=ask.sha256, manifest=variant.text.decode())
        if self.slow_down_left > 0:
            self.slow_down_left -= 1
            return Reply(kind=ask.kind, status=ReplyStatus.SLOW_DOWN, sha256=ask.sha256, retry_after_s=0.2)
        variant = next(v for v in self.variants.values() if v.object_sha256 == ask.sha256)
        missing = bitmap.unpack(ask.missing or b"", count=variant.manifest.object.block_count)[: self.block_limit]
        for index in missing:
            if not self.lose(index):
                topic = topics.private_block(DEVICE, variant.object_sha256, index)
                self.client.publish(topic, self._block(variant, index), qos=0)
        return Reply(kind=ask.kind, status=ReplyStatus.OK, sha256=ask.sha256, blocks_sent=len(missing))

    def _block(self, variant: ToyVariant, index: int) -> bytes:
        start, length = variant.manifest.object.block_span(index)
        block = variant.travelling[start : start + length]
        return bytes(length) if self.spoil(index) else block


@pytest.fixture
def registry(broker: Broker) -> Iterator[MqttRegistry]:
    registry = MqttRegistry(broker.url)
    yield registry
    registry.close()


class HttpRegistry(http.server.ThreadingHTTPServer):
    """The registry's HTTP side: join, manifests, presigned objects with ranges."""

    daemon_threads = True

    def __init__(self, mqtt_url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mqtt_url = mqtt_url
        self.variants: dict[str, ToyVariant] = {}
        self.joins: list[dict[str, Any]] = []
        self.tokens = {"good-token"}
        self.ranges: list[str] = []
        self.urls_given = 0
        self.expired_urls = 0  # so many URLs are refused by the store
        self.cut_after_bytes: int | None = None
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HttpRegistry
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        pass

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.joins.append(request)
        if request["token"] not in self.server.tokens:
            self._send(401, json.dumps({"error": {"code": "bad_token", "message": "the token is unknown"}}).encode())
            return
        self.server.tokens.discard(request["token"])
        joined = {
            "device_id": request["device_id"] or DEVICE,
            "profile": request["profile"] or "bench",
            "key": KEY,
            "mqtt_url": self.server.mqtt_url,
            "registry_url": self.server.url,
            "epoch": 1,
        }
        self._send(201, json.dumps(joined).encode())

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].split("/")
        if self.path.startswith("/v1/device/"):
            if self.headers["Authorization"] != f"Device {DEVICE}:{KEY}":
                self._send(401, json.dumps({"error": {"code": "unauthorized", "message": "who?"}}).encode())
            elif parts[3] == "manifests" and parts[4] in self.server.variants:
                self._send(200, self.server.variants[parts[4]].text)
            elif parts[3] == "objects" and self._object(parts[4]) is not None:
                self.server.urls_given += 1
                url = f"{self.server.url}/store/{parts[4]}?n={self.server.urls_given}"
                self._send(200, json.dumps({"url": url, "expires_at": 0.0}).encode())
            else:
                self._send(404, json.dumps({"error": {"code": "not_found", "message": "no such thing"}}).encode())
        elif self.server.expired_urls:
            self.server.expired_urls -= 1
            self._send(403, b"<Error>expired</Error>")
        else:
            self._send_range(self._object(parts[2]) or b"")

    def _send_range(self, data: bytes) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
        body = data[first : last + 1]
        cut = self.server.cut_after_bytes
        if cut is not None and len(body) > cut:
            self.server.cut_after_bytes = None
            self.send_response(206)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:cut])
            self.close_connection = True
            return
        self._send(206, body)

    def _object(self, sha256: str) -> bytes | None:
        return next((v.travelling for v in self.server.variants.values() if v.object_sha256 == sha256), None)


@pytest.fixture
def http_registry(broker: Broker) -> Iterator[HttpRegistry]:
    server = HttpRegistry(broker.url)
    yield server
    server.stop()


@dataclass
class Device:
    """An agent's process, its folder and its port."""

    root: Path
    mqtt_url: str
    registry_url: str = "http://127.0.0.1:9"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    flags: list[str] = field(default_factory=list)

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def join(self) -> None:
        """Give it an identity, by the code's own function, without a registry."""
        identity = identities.Identity(
            device_id=DEVICE, profile="bench", registry_url=self.registry_url, mqtt_url=self.mqtt_url, key=KEY
        )
        identities.save(self.layout, identity)

    def command(self, *flags: str) -> list[str]:
        settings = {
            "runner_command": f"{sys.executable} {TOY_RUNNER}",
            "front_command": f"{sys.executable} {TOY_FRONT}",
            "first_pass_wait_s": "0.2",
            "quiet_s": "0.2",
            "answer_s": "1.0",
            "reconnect_first_s": "0.1",
            "reconnect_cap_s": "0.5",
            "retry_first_s": "0.3",
            "restart_first_s": "0.05",
            "will_delay_s": "0",
            "ack_wait_s": "2.0",
        }
        common = ["start", "--registry", self.registry_url, "--data-dir", str(self.root)]
        listen = ["--listen", f"127.0.0.1:{self.port}"]
        sets = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        return [sys.executable, "-m", "edge_agent.cli", *common, *listen, *sets, *self.flags, *flags]

    def start(self, *flags: str) -> None:
        with (self.root.parent / "agent.log").open("ab") as log:
            self.process = subprocess.Popen(self.command(*flags), stderr=log)

    @property
    def log(self) -> str:
        return (self.root.parent / "agent.log").read_text()

    def kill(self) -> None:
        """As a power cut: no goodbye."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def status(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "edge_agent.cli", "status", "--json", "--data-dir", str(self.root)]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
        return cast("dict[str, Any]", json.loads(result.stdout))

    def infer(self, model: str = "net") -> dict[str, Any] | None:
        """Ask through the shared port; None when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body=b"{}")
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()
        return cast("dict[str, Any]", answer) if response.status == 200 else None

    def expect_answer(self, version: str, *, model: str = "net", timeout_s: float = 20.0) -> None:
        def answered() -> bool:
            answer = self.infer(model)
            return answer is not None and answer["version"] == version

        until(answered, timeout_s=timeout_s, what=f"an answer of {model} {version}")


@pytest.fixture
def device(broker: Broker) -> Iterator[Device]:
    folder = Path(tempfile.mkdtemp(prefix="shoal-"))  # short: Unix socket paths end at 107 bytes
    device = Device(folder / "agent", broker.url)
    device.join()
    yield device
    try:
        if device.process is not None and device.process.poll() is None:
            device.stop()
    finally:
        device.kill()
        if os.environ.get("SHOAL_TEST_LOGS"):
            sys.stderr.write(device.log if (folder / "agent.log").exists() else "")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def variant_of() -> Callable[..., ToyVariant]:
    return make_variant
