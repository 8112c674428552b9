"""A registry as devices and attackers see it: API and broker of the real thing, over TLS. One for all tests of a file.

What `up` does beside them is in `Registry.reload`: it sends the broker SIGHUP when the lists have changed.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge_agent.layout import Layout
from server.api.app import create_app
from server.api.peer import tls_options
from server.api.ports import Ports
from server.database.connect import Database
from server.database.migrate import upgrade
from server.fleet.enrol import Addresses
from server.fleet.manifests import ManifestCache
from server.settings import RegistrySettings
from server.stack.broker import broker_command, secure_listener
from server.stack.child import Child
from server.stack.ports import LOOPBACK, choose_ports
from server.storage import S3ObjectStore
from server.trust.folder import TrustFolder
from server.trust.names import service_name
from tests import certificates

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from server.trust.names import Role

DEADLINE_S = 10.0


def wait_until(holds: Callable[[], Any], what: str = "") -> Any:  # noqa: ANN401  what it gave
    end_s = time.monotonic() + DEADLINE_S
    while not (found := holds()):
        assert time.monotonic() < end_s, what
        time.sleep(0.02)
    return found


@dataclass
class Peer:
    """Whoever connects to the broker, and what it was told."""

    client: Client
    outcome: list[str] = field(default_factory=list)
    heard: list[tuple[str, bytes]] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    granted: list[str] = field(default_factory=list)

    @property
    def is_connected(self) -> bool:
        return self.client.is_connected()

    def subscribe(self, *topics: str) -> None:
        before = len(self.granted)
        self.client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])
        wait_until(lambda: len(self.granted) > before, "a SUBACK")

    def publish(self, topic: str, payload: bytes = b"{}", *, retain: bool = False) -> str:
        """What the broker says of it."""
        before = len(self.published)
        self.client.publish(topic, payload, qos=1, retain=retain)
        wait_until(lambda: len(self.published) > before, "a PUBACK")
        return self.published[-1]


@dataclass
class Registry:
    """API and broker."""

    url: str
    mqtt_port: int
    trust: TrustFolder
    catalogue: Database
    settings: RegistrySettings
    broker: Child
    folder: Path
    now: list[float] = field(default_factory=list)  # set: what the registry takes for the time
    peers: list[Peer] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.trust.paths.root

    @property
    def mqtt_url(self) -> str:
        return f"mqtts://{LOOPBACK}:{self.mqtt_port}"

    def clock(self) -> float:
        return self.now[-1] if self.now else time.time()

    def http(self, own: Path | None = None) -> httpx.Client:
        """A client that shows this certificate, or none."""
        return httpx.Client(base_url=self.url, verify=certificates.context(self.root, own), timeout=20)

    def token(self, **request: object) -> str:
        with self.http() as http:
            answer = http.post("/v1/tokens", json={"profile": "pi-4", **request})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])

    def reload(self) -> None:
        """As `up` does when the lists have changed; the broker answers a question in between, so it has read them."""
        self.broker.send(signal.SIGHUP)
        time.sleep(0.3)

    def enrol(self, device_id: str, **request: object) -> Path:
        """A device's key and certificate, in one file."""
        key = certificates.new_key()
        body = certificates.body(self.token(), request=certificates.request_of(key), device_id=device_id, **request)
        with self.http() as http:
            answer = http.post("/v1/enrolment", json=body)
        assert answer.status_code == 201, answer.text
        return self.keep(device_id, key, answer.json()["certificate"])

    def keep(self, name: str, key: ec.EllipticCurvePrivateKey, certificate_pem: str) -> Path:
        return certificates.keep(self.folder / f"{name}-{len(list(self.folder.iterdir()))}.pem", key, certificate_pem)

    def connect(self, own: Path | ssl.SSLContext | None, *, client_id: str = "", username: str = "") -> Peer:
        """Connect with a certificate; `outcome` is not empty once it is clear what came of it."""
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )
        peer = Peer(client)
        if own is None or hasattr(own, "suffix"):
            own = certificates.context(self.root, own)  # type: ignore[arg-type]
        client.tls_set_context(own)
        if username:
            client.username_pw_set(username, "x")
        client.on_connect = lambda _c, _d, _f, reason, _p: peer.outcome.append(str(reason))
        client.on_disconnect = lambda _c, _d, _f, reason, _p: peer.outcome.append(f"disconnected: {reason}")
        client.on_message = lambda _c, _d, message: peer.heard.append(_told(message))
        client.on_publish = lambda _c, _d, _m, reason, _p: peer.published.append(str(reason))
        client.on_subscribe = lambda _c, _d, _m, reasons, _p: peer.granted.append(str(reasons))
        try:
            client.connect(LOOPBACK, self.mqtt_port)
        except OSError as exc:
            peer.outcome.append(f"disconnected: {exc}")
            return peer
        client.loop_start()
        wait_until(lambda: peer.outcome, "an answer to CONNECT")
        self.peers.append(peer)
        return peer

    def service(self, role: Role) -> Peer:
        """A process of the registry."""
        return self.connect(self.trust.paths.service(service_name(role)))

    def agent(self, *arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
        """An `edge-agent` command."""
        command = [sys.executable, "-m", "edge_agent.cli", *arguments, "--data-dir", str(data_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def enroll_agent(self, device_id: str, data_dir: Path, **token: object) -> Layout:
        """`edge-agent enroll`."""
        arguments = ["enroll", self.url, "--token", self.token(**token), "--device-id", device_id]
        done = self.agent(*arguments, data_dir=data_dir)
        assert done.returncode == 0, done.stderr
        return Layout(data_dir)


def _told(message: MQTTMessage) -> tuple[str, bytes]:
    return message.topic, bytes(message.payload)


@contextmanager
def _serving(ports: Ports, listener: socket.socket, trust: TrustFolder) -> Iterator[None]:
    config = uvicorn.Config(create_app(ports), log_config=None, access_log=False, **tls_options(trust.paths))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, "the API")
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        listener.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("trust")
    settings = RegistrySettings(data_dir=folder / "registry")
    settings.data_dir.mkdir()
    upgrade(settings)
    trust = TrustFolder(settings.trust_dir)
    trust.make("test", now=time.time())
    trust.keep_current(host_names=["localhost", LOOPBACK], now=time.time())
    with ExitStack() as stack:
        port = choose_ports(["mqtt"], fixed={}, addresses=[LOOPBACK], chance=random.SystemRandom())["mqtt"]
        listener = secure_listener(address=LOOPBACK, port=port, paths=trust.paths)
        broker = Child(
            broker_command(folder / "mosquitto", listener=listener), log_dir=folder, environment=dict(os.environ)
        )
        broker.start()
        stack.callback(lambda: broker.finish(time.monotonic() + 3))
        stack.callback(broker.ask_to_stop)
        api = socket.create_server((LOOPBACK, 0))
        url = f"https://{LOOPBACK}:{api.getsockname()[1]}"
        catalogue, telemetry = Database(settings.database_url), Database(settings.telemetry_url)
        # nothing here is fetched: an address is enough
        store = S3ObjectStore(
            endpoint="http://127.0.0.1:9", bucket="shoal", access_key="a", secret_key="b", region="us-east-1"
        )
        for opened in (store, telemetry, catalogue):
            stack.callback(opened.close)
        (folder / "certificates").mkdir()
        registry = Registry(url, port, trust, catalogue, settings, broker, folder / "certificates")
        ports = Ports(
            settings=settings,
            catalogue=catalogue,
            telemetry=telemetry,
            objects=store,
            manifests=ManifestCache(store),
            addresses=Addresses(registry_url=url, mqtt_url=registry.mqtt_url),
            trust=trust,
            clock=registry.clock,
        )
        stack.enter_context(_serving(ports, api, trust))
        yield registry


@pytest.fixture
def registry(running: Registry) -> Iterator[Registry]:
    """The registry, with the real time; whoever has connected is gone afterwards."""
    running.now.clear()
    yield running
    while running.peers:
        peer = running.peers.pop()
        peer.client.disconnect()
        peer.client.loop_stop()
