"""What agents of former states of this code said, said again to today's registry: they are still served.

`recorded/agent_DATE.jsonl` holds what the real agent of that day (its last commit of the morning) and a registry
exchanged that it served: joined, one rollout of `tiny` 1, a request of 32 rows. All payloads on
`shoal/v1/d/older/#` are there as they were, in order; only blocks are left out. The agent ran from a copy of its commit
(`git archive COMMIT edge_agent`, PYTHONPATH) beside a client that was subscribed to that topic.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests import certificates
from tests.processes import wait_until

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.e2e.fleet import Fleet

PREFIX = "shoal/v1"  # as it was then: what the code calls it now proves nothing
RECORDED = Path(__file__).parent / "recorded"
DEVICE = "older"
FROM_REGISTRY = {"desired", "reply", "ack"}
CHANGES_EVERY_TIME = ("_id", "sha256", "epoch")  # ends of names
FIXED = {"v", "kind", "status", "encoding", "runtime", "delegate", "role", "datatype"}  # an older agent knows no others

Payload = dict[str, Any]


class OlderAgent:
    """Says what was recorded with today's identifiers, and holds what it hears against what it heard then."""

    def __init__(self, mqtt_url: str, tls: ssl.SSLContext) -> None:
        self.heard: list[tuple[str, bytes | None, Payload]] = []
        self.blocks: dict[str, dict[int, bytes]] = {}
        self.today: dict[str, str] = {}
        self.client = Client(CallbackAPIVersion.VERSION2, client_id=DEVICE, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.on_message = self._on_message
        url = urlsplit(mqtt_url)
        self.client.tls_set_context(tls)
        self.client.connect(url.hostname or "", url.port or 1883)
        for topic in ("desired", "reply", "ack", "block/+/+"):
            self.client.subscribe(f"{PREFIX}/d/{DEVICE}/{topic}", qos=1)
        self.client.loop_start()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        *_, kind, name, last = message.topic.split("/")
        if kind in {"a", "block"}:
            self.blocks.setdefault(name, {})[int(last)] = bytes(message.payload)
        else:
            correlation = getattr(message.properties, "CorrelationData", None)
            self.heard.append((last, correlation, json.loads(message.payload)))

    def say(self, topic: str, correlation: bytes | None, payload: Payload) -> None:
        text = json.dumps(payload)
        for then, now in self.today.items():
            text = text.replace(then, now)
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if correlation is not None:
            properties.CorrelationData = correlation
        if payload.get("kind") == "blocks":
            self.client.subscribe(f"{PREFIX}/a/{json.loads(text)['sha256']}/+")
        self.client.publish(f"{PREFIX}/d/{DEVICE}/{topic}", text, qos=1, properties=properties)

    def expect(self, topic: str, correlation: bytes | None, then: Payload) -> None:
        def answer() -> Payload | None:
            fitting = [p for t, c, p in self.heard if (t, c) == (topic, correlation) and _order(p) >= _order(then)]
            return fitting[0] if fitting else None

        now = wait_until(answer, f"the registry's {topic} like {then}")
        self.compare(_opened(then), _opened(now), topic)

    def compare(self, then: Any, now: Any, where: str) -> None:  # noqa: ANN401  any JSON
        """All that was said then is said now, in the same form; what is new beside it an older agent ignores."""
        if isinstance(then, dict):
            assert isinstance(now, dict), where
            assert then.keys() <= now.keys(), where
            for name, value in then.items():
                self.compare(value, now[name], f"{where}.{name}")
        elif isinstance(then, list):
            assert isinstance(now, list), where
            for index, pair in enumerate(zip(then, now, strict=True)):
                self.compare(*pair, f"{where}.{index}")
        else:
            name = next(part for part in reversed(where.split(".")) if not part.isdigit())
            numbers = isinstance(then, float | int) and isinstance(now, float | int)
            assert numbers or type(now) is type(then), where
            assert name not in FIXED or now == then, where
            if name.endswith(CHANGES_EVERY_TIME):
                self.today[str(then)] = str(now)


def _order(payload: Payload) -> int:
    return int(payload.get("generation", 0))


def _opened(payload: Payload) -> Payload:
    """A manifest is JSON in JSON: its very bytes are named by their hash."""
    text = payload.get("manifest")
    if text is None:
        return payload
    assert hashlib.sha256(text.encode()).hexdigest() == payload["sha256"]
    return {**payload, "manifest": json.loads(text)}


@pytest.fixture
def older(fleet: Fleet) -> Iterator[OlderAgent]:
    """It has enrolled as agents do now: before that no registry speaks with them."""
    with fleet.registry.client() as client:
        token = client.create_token(profile="bench").token
    key = certificates.new_key()
    document = certificates.body(token, request=certificates.request_of(key), device_id=DEVICE, profile=None, labels={})
    document |= {"agent_version": "0.1.0", "runtimes": {"litert": "2.3.0"}, "facts": {}}
    trusted = certificates.context(fleet.registry.root)
    answer = httpx.post(f"{fleet.registry.url}/v1/enrolment", json=document, timeout=20, verify=trusted)
    assert answer.status_code < 300, answer.text
    identity = answer.json()
    assert {"device_id", "profile", "key", "mqtt_url", "registry_url"} <= identity.keys()
    own = certificates.keep(fleet.folder / "older.pem", key, identity["certificate"])
    agent = OlderAgent(identity["mqtt_url"], certificates.context(fleet.registry.root, own))
    yield agent
    agent.close()


@pytest.mark.parametrize("recorded", sorted(RECORDED.glob("agent_*.jsonl")), ids=lambda path: str(path.stem))
def test_older_agent_joins_installs_and_is_counted_by_todays_registry(
    fleet: Fleet, older: OlderAgent, recorded: Path
) -> None:
    rollout_id = ""
    for line in recorded.read_text().splitlines():
        message = json.loads(line)
        topic, payload = message["topic"], message["payload"]
        correlation = bytes.fromhex(message["correlation"]) if "correlation" in message else None
        if topic == "desired":
            wait_until(lambda: fleet.presence(DEVICE) == "online", "the device is online")
            rollout_id = fleet.roll_out("1")
        if topic in FROM_REGISTRY:
            older.expect(topic, correlation, payload)
        else:
            older.say(topic, correlation, payload)

    finished = fleet.wait_for(rollout_id)
    assert [deployment.state for deployment in finished.deployments] == ["running"]
    (sha256,) = older.blocks
    content = b"".join(block for _, block in sorted(older.blocks[sha256].items()))
    assert hashlib.sha256(content).hexdigest() == sha256
    fleet.wait_counted({DEVICE: 32})
    goodbye = {**json.loads(recorded.read_text().splitlines()[0])["payload"], "online": False}
    older.say("presence", None, goodbye)
    wait_until(lambda: fleet.presence(DEVICE) == "offline", "the device is offline")
