import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.errors import BrokerUnavailableError, InvalidError
from server.mqtt import BrokerConnection, Incoming, Subscription, Will
from server.stack.child import Child

Connect = Callable[..., Any]


def ignore(_: Incoming) -> None:
    """Takes a message and does nothing."""


def run_until(connection: BrokerConnection, timeout_s: float) -> None:
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        connection.run_once(0.1)


def test_publish_with_all_its_fields_arrives_as_sent(broker: str, topic: str, connect: Connect) -> None:
    receiver, sender = connect(broker, f"{topic}/#"), connect(broker)
    sent = sender.connection.publish(
        f"{topic}/ask", b"\x00bytes", qos=1, correlation=b"\x01\x02", response_topic=f"{topic}/reply"
    )
    assert sent.wait(5)
    assert sent.failure is None
    receiver.wait_for(lambda: receiver.received)
    message = receiver.received[0]
    assert (message.topic, message.payload, message.qos) == (f"{topic}/ask", b"\x00bytes", 1)
    assert (message.correlation, message.response_topic) == (b"\x01\x02", f"{topic}/reply")
    assert sender.connection.pending_bytes == 0


def test_publish_retained_then_empty_clears_it(broker: str, topic: str, connect: Connect) -> None:
    sender = connect(broker)
    assert sender.connection.publish(topic, b"state", retain=True).wait(5)
    first = connect(broker, topic)
    first.wait_for(lambda: first.payloads() == [b"state"])
    assert first.received[0].retain
    assert sender.connection.publish(topic, b"", retain=True).wait(5)
    second = connect(broker, topic)
    assert sender.connection.publish(topic, b"live").wait(5)
    second.wait_for(lambda: second.payloads() == [b"live"])


def test_broker_killed_adapter_reconnects_and_subscribes_again(
    own_broker: tuple[str, Child], topic: str, connect: Connect
) -> None:
    url, child = own_broker
    receiver = connect(url, topic, session_expiry_s=300, clean_start=0)
    sender = connect(url)
    assert sender.connection.publish(topic, b"before").wait(5)
    receiver.wait_for(lambda: receiver.payloads() == [b"before"])
    assert child.identity is not None
    os.kill(child.identity.pid, signal.SIGKILL)
    receiver.wait_for(lambda: not receiver.connection.is_ready)
    # Published while the broker is away: kept, and sent once it is back. The broker has forgotten the session.
    kept = sender.connection.publish(topic, b"meanwhile")
    assert not kept.wait(0.3)
    assert child.poll() == -signal.SIGKILL
    child.start()
    assert receiver.connection.wait_ready(10)
    assert kept.wait(10)
    assert kept.failure is None
    assert sender.connection.publish(topic, b"after").wait(5)
    receiver.wait_for(lambda: b"after" in receiver.payloads())


def test_broker_back_with_a_saved_session_still_divides_a_shared_subscription(
    own_broker: tuple[str, Child], topic: str, connect: Connect
) -> None:
    url, child = own_broker
    receiver = connect(url, f"$share/group/{topic}", topic, session_expiry_s=300, clean_start=0)
    child.ask_to_stop()  # it saves its sessions
    child.finish(time.monotonic() + 10)
    child.start()
    receiver.wait_for(lambda: not receiver.connection.is_ready)
    assert receiver.connection.wait_ready(10)
    sender = connect(url)
    assert child.identity is not None
    os.kill(child.identity.pid, signal.SIGKILL)  # and comes back with what it saved before
    receiver.wait_for(lambda: not receiver.connection.is_ready)
    assert child.poll() == -signal.SIGKILL
    child.start()
    assert receiver.connection.wait_ready(10)
    assert sender.connection.publish(topic, b"after").wait(10)
    receiver.wait_for(lambda: receiver.payloads().count(b"after") == 2)  # one for each of its subscriptions


def test_session_present_after_a_stop_delivers_what_came_meanwhile(broker: str, topic: str, connect: Connect) -> None:
    first = connect(broker, topic, client_id=f"keeps-{topic[-8:]}", session_expiry_s=60, clean_start=0)
    first.stop()
    sender = connect(broker)
    assert sender.connection.publish(topic, b"while away").wait(5)
    second = connect(broker, topic, client_id=f"keeps-{topic[-8:]}", session_expiry_s=60, clean_start=0)
    second.wait_for(lambda: second.payloads() == [b"while away"])


def test_message_not_acknowledged_is_delivered_again_and_an_acknowledged_one_is_not(
    broker: str, topic: str, connect: Connect
) -> None:
    options = {"client_id": f"acks-{topic[-8:]}", "session_expiry_s": 60, "clean_start": 0}
    first = connect(broker, topic, auto_ack=False, **options)
    sender = connect(broker)
    for payload in (b"one", b"two"):
        assert sender.connection.publish(topic, payload).wait(5)
    first.wait_for(lambda: len(first.received) == 2)
    first.received[0].ack()  # from this thread, as ingest does after its commit
    time.sleep(0.1)
    first.stop()
    second = connect(broker, topic, **options)
    second.wait_for(lambda: second.payloads() == [b"two"])
    assert second.received[0].is_repeated
    time.sleep(0.1)
    assert second.payloads() == [b"two"]


def test_ack_of_a_lost_connection_does_nothing(own_broker: tuple[str, Child], topic: str, connect: Connect) -> None:
    url, child = own_broker
    receiver = connect(url, topic, auto_ack=False)
    sender = connect(url)
    assert sender.connection.publish(topic, b"x").wait(5)
    receiver.wait_for(lambda: receiver.received)
    assert child.identity is not None
    os.kill(child.identity.pid, signal.SIGKILL)
    receiver.wait_for(lambda: not receiver.connection.is_ready)
    receiver.received[0].ack()
    child.poll()
    child.start()
    assert receiver.connection.wait_ready(10)
    time.sleep(0.1)
    assert receiver.connection.is_ready


def test_stream_faster_than_the_network_waits_and_stays_within_its_bytes(
    broker: str, topic: str, connect: Connect
) -> None:
    receiver = connect(broker, topic)
    sender = connect(broker, max_pending_bytes=1_000_000)
    block = os.urandom(65536)
    highest = 0
    for _ in range(300):
        sender.connection.publish(topic, block, qos=0, wait_s=10)
        highest = max(highest, sender.connection.pending_bytes)
    receiver.wait_for(lambda: len(receiver.received) == 300)
    assert highest <= 500_000
    assert receiver.received[-1].payload == block


def test_publish_without_room_is_refused_and_state_still_passes_a_full_stream(topic: str) -> None:
    with socket.socket() as held:  # nobody listens there: everything stays queued
        held.bind(("127.0.0.1", 0))
        url = f"mqtt://127.0.0.1:{held.getsockname()[1]}"
        with BrokerConnection(url, "c", [], ignore, max_pending_bytes=4000) as connection:
            connection.publish(topic, b"x" * 1900, qos=0)
            began_s = time.monotonic()
            with pytest.raises(BrokerUnavailableError, match="takes no more now"):
                connection.publish(topic, b"x" * 1900, qos=0, wait_s=0.2)
            assert 0.15 < time.monotonic() - began_s < 2
            state = connection.publish(topic, b"state", qos=1)
            connection.run_once(0.1)
            assert connection.last_error is not None
            assert url in connection.last_error
        assert state.is_done
        assert "closed" in str(state.failure)
        with pytest.raises(BrokerUnavailableError):
            connection.publish(topic, b"late")


@pytest.mark.parametrize(
    ("name", "size", "qos"),
    [
        ("", 1, 1),
        ("a/+", 1, 1),
        ("a/#", 1, 1),
        ("a\0b", 1, 1),
        ("a", 1, 2),
        ("a", 1_114_112, 1),
        ("a" * 70_000, 1, 1),
        ("\ud800", 1, 1),
    ],
)
def test_publish_of_what_can_never_be_sent_is_refused(name: str, size: int, qos: int) -> None:
    with (
        BrokerConnection("mqtt://127.0.0.1:1", "c", [], ignore) as connection,
        pytest.raises(InvalidError),
    ):
        connection.publish(name, b"x" * size, qos=qos)


def test_publish_of_the_largest_message_passes(broker: str, topic: str, connect: Connect) -> None:
    receiver, sender = connect(broker, topic), connect(broker)
    block = os.urandom(1024 * 1024)
    assert sender.connection.publish(topic, block, qos=1).wait(10)
    receiver.wait_for(lambda: receiver.payloads() == [block])


def test_will_is_published_when_the_client_is_lost_and_not_when_it_closes(
    broker: str, topic: str, connect: Connect
) -> None:
    watcher = connect(broker, topic)
    for is_lost in (False, True):
        connection = BrokerConnection(broker, f"w-{is_lost}-{topic[-8:]}", [], ignore, will=Will(topic, b"offline"))
        while not connection.is_ready:
            connection.run_once(0.1)
        if is_lost:
            sock = connection._client.socket()
            assert isinstance(sock, socket.socket)
            sock.shutdown(socket.SHUT_RDWR)
            watcher.wait_for(lambda: watcher.payloads() == [b"offline"])
        connection.close()
        time.sleep(0.1)
        assert watcher.payloads() == ([b"offline"] if is_lost else [])


def test_server_that_never_answers_is_given_up_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.mqtt.connection.CONNECT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        with BrokerConnection(url, "c", [], ignore) as connection:
            end_s = time.monotonic() + 3
            while connection.last_error is None and time.monotonic() < end_s:
                connection.run_once(0.1)
            assert "did not answer" in str(connection.last_error)


def test_server_that_answers_garbage_is_left_and_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected: list[int] = []

        def answer() -> None:
            for number in range(2):
                peer, _ = server.accept()
                with peer:
                    connected.append(number)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with BrokerConnection(f"mqtt://127.0.0.1:{server.getsockname()[1]}", "c", [], ignore) as connection:
            end_s = time.monotonic() + 8
            while len(connected) < 2 and time.monotonic() < end_s:
                connection.run_once(0.1)
            assert not connection.is_ready
        thread.join()
        assert connected == [0, 1]


def test_callback_that_raises_leaves_run_once_and_the_rest_is_delivered_later(
    broker: str, topic: str, connect: Connect
) -> None:
    seen: list[bytes] = []

    def take(message: Incoming) -> None:
        if message.payload == b"bad" and b"bad" not in seen:
            seen.append(message.payload)
            raise ValueError("bad message")
        seen.append(message.payload)
        message.ack()

    sender = connect(broker)
    with BrokerConnection(broker, f"r-{topic[-8:]}", [Subscription(topic)], take) as connection:
        while not connection.is_ready:
            connection.run_once(0.1)
        for payload in (b"bad", b"good"):
            assert sender.connection.publish(topic, payload).wait(5)
        with pytest.raises(ValueError, match="bad message"):
            run_until(connection, 5)
        end_s = time.monotonic() + 5
        while b"good" not in seen and time.monotonic() < end_s:
            connection.run_once(0.1)
    assert seen == [b"bad", b"good"]


def test_connections_beyond_the_limit_of_select_work(broker: str, topic: str, tmp_path: Path) -> None:
    # Descriptors above 1,024 are what paho's own loop cannot use.
    held = [os.open(tmp_path, os.O_RDONLY) for _ in range(1100)]
    try:
        with BrokerConnection(broker, f"high-{topic[-8:]}", [], ignore) as connection:
            end_s = time.monotonic() + 5
            while not connection.is_ready and time.monotonic() < end_s:
                connection.run_once(0.1)
            assert connection.is_ready
            sock = connection._client.socket()
            assert isinstance(sock, socket.socket)
            assert sock.fileno() > 1024
            sent = connection.publish(topic, b"x")
            while not sent.is_done and time.monotonic() < end_s:
                connection.run_once(0.1)
            assert sent.failure is None
    finally:
        for descriptor in held:
            os.close(descriptor)
