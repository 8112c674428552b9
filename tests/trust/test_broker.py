"""Hostile devices at the broker. Each test fails when the line or list that it is about goes."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from edge_agent.protocol.topics import DeviceTopic, broadcast_block, device_topic, private_block
from server.fleet.certificates import Reason, revoke, take_back, tell_broker
from server.trust.authority import Authority, KeyPair, make_intermediate, make_root, pem_of
from server.trust.names import Role
from tests import certificates

if TYPE_CHECKING:
    from pathlib import Path

Registry = Any  # the class lives in a conftest, which a test can't import
SHA256 = "a" * 64
QUIET_S = 0.4
OWN_READS = (DeviceTopic.DESIRED, DeviceTopic.ACK, DeviceTopic.REPLY, DeviceTopic.INQUIRY)
OWN_WRITES = (
    DeviceTopic.PRESENCE,
    DeviceTopic.STATUS,
    DeviceTopic.TELEMETRY,
    DeviceTopic.ASK,
    DeviceTopic.ANSWER,
)


@pytest.fixture
def names() -> tuple[str, str]:
    """Two devices of this test alone."""
    salt = uuid.uuid4().hex[:8]
    return f"a-{salt}", f"b-{salt}"


def test_device_publishes_and_reads_its_own_topics_and_blocks(registry: Registry, names: tuple[str, str]) -> None:
    name, _ = names
    device = registry.connect(registry.enrol(name))
    assert device.outcome == ["Success"]
    for kind in OWN_WRITES:
        assert device.publish(device_topic(name, kind)) in {"Success", "No matching subscribers"}
    expected = [device_topic(name, kind) for kind in OWN_READS]
    expected += [private_block(name, SHA256, 0), broadcast_block(SHA256, 0)]
    device.subscribe(*expected)
    roles = {Role.CONTROLLER: expected[:1], Role.INGEST: expected[1:2], Role.DELIVERY: expected[2:]}
    for role, topics in roles.items():
        peer = registry.service(role)
        for topic in topics:
            assert peer.publish(topic) == "Success"
    assert _heard(device, len(expected)) == sorted(expected)


def test_device_reads_nothing_of_another_whatever_it_was_granted(registry: Registry, names: tuple[str, str]) -> None:
    spy_name, victim = names
    spy = registry.connect(registry.enrol(spy_name))
    registry.enrol(victim)
    spy.subscribe("#", "shoal/v1/d/+/+", f"shoal/v1/d/{victim}/#", device_topic(victim, DeviceTopic.DESIRED))
    assert "Granted" in spy.granted[-1], "the broker's answer shows nothing: only what it delivers does"
    controller = registry.service(Role.CONTROLLER)
    assert controller.publish(device_topic(victim, DeviceTopic.DESIRED), b"secret", retain=True) == "Success"
    mine = device_topic(spy_name, DeviceTopic.DESIRED)
    controller.publish(mine, b"mine")
    assert set(_heard(spy, 1)) == {mine}, "it is subscribed and served, so the other one was kept from it"
    late = registry.connect(registry.enrol(f"late-{spy_name}"))
    late.subscribe("#")
    time.sleep(QUIET_S)
    assert [topic for topic, _ in late.heard if victim in topic] == [], "nor what was retained"


@pytest.mark.parametrize("kind", [*DeviceTopic, "block"])
def test_device_publishes_nothing_as_another(registry: Registry, names: tuple[str, str], kind: str) -> None:
    liar, victim = names
    device = registry.connect(registry.enrol(liar))
    topic = private_block(victim, SHA256, 0) if kind == "block" else f"shoal/v1/d/{victim}/{kind}"
    assert device.publish(topic) == "Not authorized"


@pytest.mark.parametrize("topic", ["shoal/v1/d/{own}/desired", f"shoal/v1/a/{SHA256}/0", "shoal/v1/d/{own}/ack", "x"])
def test_device_publishes_nothing_that_the_registry_says(
    registry: Registry, names: tuple[str, str], topic: str
) -> None:
    device = registry.connect(registry.enrol(names[0]))
    assert device.publish(topic.format(own=names[0])) == "Not authorized"


def test_device_under_the_client_id_of_another_is_itself_and_disturbs_nobody(
    registry: Registry, names: tuple[str, str]
) -> None:
    liar, victim = names
    there = registry.connect(registry.enrol(victim), client_id=victim)
    posing = registry.connect(registry.enrol(liar), client_id=victim, username=victim)
    assert posing.outcome == ["Success"]
    assert posing.publish(device_topic(victim, DeviceTopic.STATUS)) == "Not authorized"
    time.sleep(QUIET_S)
    assert there.outcome == ["Success"], "it is still connected: nobody has taken its session over"
    assert there.is_connected


def test_device_takes_no_telemetry_away_in_a_shared_subscription(registry: Registry, names: tuple[str, str]) -> None:
    thief, victim = names
    device, other = registry.connect(registry.enrol(thief)), registry.connect(registry.enrol(victim))
    share = registry.trust.paths.share.read_text()
    ingest = registry.service(Role.INGEST)
    ingest.subscribe(f"$share/ingest-{share}/shoal/v1/d/+/telemetry")
    device.subscribe("$share/ingest/shoal/v1/d/+/telemetry", "$share/ingest-/shoal/v1/d/+/telemetry")
    for number in range(20):
        other.publish(device_topic(victim, DeviceTopic.TELEMETRY), b"%d" % number)
    assert len(_heard(ingest, 20)) == 20
    assert device.heard == []


def test_processes_of_the_registry_may_do_what_they_need_and_no_more(
    registry: Registry, names: tuple[str, str]
) -> None:
    topic = device_topic(names[0], DeviceTopic.DESIRED)
    allowed = {role: registry.service(role).publish(topic) != "Not authorized" for role in Role}
    assert [role for role, may in allowed.items() if may] == [Role.CONTROLLER]
    blocks = {role: registry.service(role).publish(broadcast_block(SHA256, 0)) != "Not authorized" for role in Role}
    assert [role for role, may in blocks.items() if may] == [Role.DELIVERY]


def test_nobody_connects_without_a_certificate(registry: Registry) -> None:
    for peer in (registry.connect(None), registry.connect(None, client_id="dev", username="registry:controller")):
        assert peer.outcome[0].startswith("disconnected")


def test_nobody_connects_without_encryption(registry: Registry) -> None:
    with socket.create_connection(("127.0.0.1", registry.mqtt_port), timeout=5) as plain:
        plain.sendall(bytes.fromhex("100d 0004 4d515454 05 02 000a 00 0000"))
        try:
            answer = plain.recv(16)
        except ConnectionResetError:
            answer = b""
    assert not answer.startswith(b"\x20"), "a CONNACK"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_older_protocols_are_refused(registry: Registry, names: tuple[str, str], version: ssl.TLSVersion) -> None:
    context = certificates.context(registry.root, registry.enrol(names[0]))
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    assert registry.connect(context).outcome[0].startswith("disconnected")


def _foreign(registry: Registry, name: str, how: str) -> Path:
    """A certificate with a device's name that our authority has not issued, or that is over."""
    now, key = time.time(), certificates.new_key()
    root = make_root("evil", now=now)
    foreign = Authority(root.certificate, make_intermediate(root, now=now))
    if how == "foreign":
        issued = foreign.issue_device(key.public_key(), name, now=now, days=10)
        text = pem_of(issued) + foreign.chain + pem_of(root.certificate)
    elif how == "self-signed":
        own = KeyPair(root.certificate, key)
        renamed = Authority(own.certificate, KeyPair(own.certificate, key))
        text = pem_of(renamed.issue_device(key.public_key(), name, now=now, days=10))
    elif how == "expired":
        text = pem_of(registry.trust.authority().issue_device(key.public_key(), name, now=now - 9e6, days=100))
        text += registry.trust.authority().chain
    else:  # an attacker's intermediate below our own device certificate
        mine = registry.trust.authority().issue_device(key.public_key(), name, now=now, days=10)
        below = Authority(registry.trust.authority().root, KeyPair(mine, key))
        key = certificates.new_key()
        text = pem_of(below.issue_device(key.public_key(), f"{name}-2", now=now, days=10), mine)
        text += registry.trust.authority().chain
    kept: Path = registry.keep(name, key, text.decode())
    return kept


@pytest.mark.parametrize("how", ["foreign", "self-signed", "expired", "issued-by-a-device"])
def test_certificate_that_is_not_ours_or_over_is_refused(registry: Registry, names: tuple[str, str], how: str) -> None:
    registry.enrol(names[0])
    peer = registry.connect(_foreign(registry, names[0], how))
    assert peer.outcome[0].startswith("disconnected")
    with registry.http() as http:
        assert http.get("/v1/health").status_code == 200, "the API is there"
    with registry.http(_foreign(registry, names[0], how)) as http, pytest.raises(Exception, match=r"."):
        http.post("/v1/device/certificate/confirmation")


def test_revoked_device_is_silenced_at_once_and_does_not_come_back(registry: Registry, names: tuple[str, str]) -> None:
    lost, other = names
    own = registry.enrol(lost)
    device, bystander = registry.connect(own), registry.connect(registry.enrol(other))
    topic = device_topic(lost, DeviceTopic.DESIRED)
    device.subscribe(topic)
    assert device.publish(device_topic(lost, DeviceTopic.STATUS)) != "Not authorized"
    with registry.http() as http:
        assert http.post(f"/v1/devices/{lost}/revocation").status_code == 204
    registry.reload()
    assert device.publish(device_topic(lost, DeviceTopic.STATUS)) == "Not authorized"
    registry.service(Role.CONTROLLER).publish(topic, b"secret")
    time.sleep(QUIET_S)
    assert device.heard == []
    assert registry.connect(own).outcome[0].startswith("disconnected")
    assert bystander.is_connected
    assert bystander.publish(device_topic(other, DeviceTopic.STATUS)) != "Not authorized"


def test_replaced_device_stays_out_and_its_successor_is_let_in(registry: Registry, names: tuple[str, str]) -> None:
    name, _ = names
    old = registry.enrol(name)
    revoke(registry.catalogue, name, now=registry.clock())
    tell_broker(registry.catalogue, registry.trust, now=registry.clock())
    key = certificates.new_key()
    with registry.http() as http:
        body = certificates.body(registry.token(replaces=name), request=certificates.request_of(key))
        answer = http.post("/v1/enrolment", json=body)
    assert answer.json()["device_id"] == name
    new = registry.keep(name, key, answer.json()["certificate"])
    registry.reload()
    assert registry.connect(old).outcome[0].startswith("disconnected")
    successor = registry.connect(new)
    assert successor.outcome == ["Success"]
    assert successor.publish(device_topic(name, DeviceTopic.STATUS)) != "Not authorized"


def test_device_certificate_is_no_servers(registry: Registry, names: tuple[str, str]) -> None:
    own = registry.enrol(names[0])
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(own)
    client = certificates.context(registry.root)
    client.check_hostname = False  # by its purpose alone
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    posing = server.wrap_bio(ours, theirs, server_side=True)
    victim = client.wrap_bio(theirs, ours)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        _shake_hands(victim, posing)


def test_message_larger_than_any_of_ours_ends_the_connection(registry: Registry, names: tuple[str, str]) -> None:
    device = registry.connect(registry.enrol(names[0]))
    device.client.publish(device_topic(names[0], DeviceTopic.TELEMETRY), b"x" * 1_200_000, qos=1)
    end_s = time.monotonic() + 5
    while device.is_connected and time.monotonic() < end_s:
        time.sleep(0.02)
    assert device.published == [], "it was not taken"


@pytest.mark.skipif(shutil.which("mosquitto_pub") is None, reason="apt-get install mosquitto-clients")
def test_mosquittos_own_tools_with_a_certificate_of_a_read_and_write_nothing_of_b(
    registry: Registry, names: tuple[str, str]
) -> None:
    spy, victim = names
    own = str(registry.enrol(spy))
    where = ["-V", "mqttv5", "-h", "127.0.0.1", "-p", str(registry.mqtt_port), "--cafile", str(registry.root)]
    where += ["--cert", own, "--key", own]
    topic = device_topic(victim, DeviceTopic.DESIRED)
    reader = subprocess.Popen(["mosquitto_sub", *where, "-t", topic, "-W", "2"], stdout=subprocess.PIPE)
    time.sleep(QUIET_S)
    assert registry.service(Role.CONTROLLER).publish(topic, b"secret") == "Success"
    assert reader.communicate(timeout=20)[0] == b"", "granted, and not delivered"
    status = device_topic(victim, DeviceTopic.STATUS)
    ingest = registry.service(Role.INGEST)
    ingest.subscribe(status)
    lied = subprocess.run(
        ["mosquitto_pub", *where, "-t", status, "-m", "lie", "-q", "1"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "Not authorized" in lied.stderr
    time.sleep(QUIET_S)
    assert ingest.heard == []


def test_lists_are_written_from_the_database_alone(registry: Registry, names: tuple[str, str]) -> None:
    registry.enrol(names[0])
    with registry.catalogue.write() as connection:
        assert take_back(connection, names[0], Reason.REVOKED, now=registry.clock())
    before = registry.trust.paths.revoked.read_bytes()
    tell_broker(registry.catalogue, registry.trust, now=registry.clock())
    assert registry.trust.paths.revoked.read_bytes() != before
    registry.trust.paths.revoked.unlink()
    registry.trust.paths.access.unlink()
    tell_broker(registry.catalogue, registry.trust, now=registry.clock())
    assert registry.trust.paths.revoked.exists()
    assert "user registry:ingest" in registry.trust.paths.access.read_text()


def _shake_hands(*sides: ssl.SSLObject) -> None:
    for _ in range(4):
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()


def _heard(peer: Any, count: int) -> list[str]:  # noqa: ANN401  the class lives in a conftest
    """The topics of what it got, once that is so much, and a little later: so that one too many is seen."""
    end_s = time.monotonic() + 10
    while len(peer.heard) < count and time.monotonic() < end_s:
        time.sleep(0.02)
    time.sleep(QUIET_S)
    return sorted(topic for topic, _ in peer.heard)
