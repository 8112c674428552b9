"""Where the worker and the threads beside it meet: nothing that happens in one may end or hold the other."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.client import Client

from edge_agent.layout import Layout
from edge_agent.link import registry_http
from edge_agent.link.asks import Asks
from edge_agent.link.identity import Identity
from edge_agent.link.inbox import Inbox
from edge_agent.link.mqtt import Connected, Disconnected, MqttLink, Session, Will, parse_url
from edge_agent.link.tls import Tls
from edge_agent.protocol.states import Reason
from edge_agent.storage.variants import VariantFolders
from edge_agent.transfer import http_fetch
from edge_agent.transfer.http_fetch import HttpPass, PassEnded
from edge_agent.transfer.manifests import ManifestFetches, ManifestText
from edge_agent.transfer.pace import Pace
from tests.edge_agent.surroundings.device import DEVICE, KEY
from tests.edge_agent.surroundings.toy_variant import make_variant
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.edge_agent.surroundings.broker import Broker

NO_TLS = Tls(Layout(Path("nowhere")))  # nothing of it is read where nothing speaks TLS
SESSION = Session("0" * 32, 1, Will("shoal/v1/d/dev-1/presence", b"{}", 0))


def identity(registry_url: str) -> Identity:
    return Identity(device_id=DEVICE, profile="bench", registry_url=registry_url, mqtt_url="mqtt://localhost", key=KEY)


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


def next_of(inbox: Inbox) -> Any:  # noqa: ANN401  whatever a thread has left there
    return until(inbox.drain, timeout_s=10.0, what="something in the inbox")[0]


def open_link(url: str, inbox: Inbox) -> MqttLink:
    link = MqttLink(
        parse_url(url), device_id=DEVICE, key=KEY, tls=NO_TLS.own, keepalive_s=60, session_expiry_s=60, inbox=inbox
    )
    link.start()
    link.open(SESSION)
    return link


def test_link_publishing_leaves_the_socket_to_the_thread_of_its_loop(
    broker: Broker, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: set[str] = set()
    write = Client._packet_write

    def watched(client: Client) -> Any:  # noqa: ANN401  paho's own
        writers.add(threading.current_thread().name)
        return write(client)

    monkeypatch.setattr(Client, "_packet_write", watched)
    link = open_link(broker.url, inbox)
    assert isinstance(next_of(inbox), Connected)
    link.subscribe("t", qos=1)
    for number in range(50):
        link.publish("t", b"%d" % number, qos=1)
    first = next_of(inbox)
    link.close(timeout_s=5.0)
    assert first.topic == "t"
    assert writers == {"mqtt"}


def test_link_that_cannot_even_make_its_client_says_so_and_tries_again(broker: Broker, inbox: Inbox) -> None:
    link = open_link(broker.url.replace("mqtt://", "mqtts://"), inbox)
    for _ in range(2):
        ended = next_of(inbox)
        assert isinstance(ended, Disconnected)
        assert not ended.spent
        assert "names no certificate" in ended.detail
        link.open(SESSION)
    link.close(timeout_s=5.0)


def test_pass_given_a_url_that_no_request_can_name_ends(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = registry_http.Answer(200, {"location": "http://127.0.0.1:9/schlüssel"}, b"")
    monkeypatch.setattr(registry_http, "request", lambda *_, **__: answer)
    fetch = HttpPass(
        identity("http://127.0.0.1:9"), make_variant().manifest.object, [0], tls=NO_TLS, inbox=inbox, pace=Pace(None)
    )
    fetch.start()
    ended = next_of(inbox)
    fetch.join()
    assert isinstance(ended, PassEnded)
    assert ended.reason is None, "trying again may help"


def test_cancelled_pass_makes_no_further_request(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    answer = registry_http.Answer(200, {"location": "http://127.0.0.1:9/x"}, b"")
    monkeypatch.setattr(registry_http, "request", lambda *_, **__: answer)
    fetch = HttpPass(
        identity("http://127.0.0.1:9"), make_variant().manifest.object, [0, 2], tls=NO_TLS, inbox=inbox, pace=Pace(None)
    )

    def cancelled_meanwhile(_pass: HttpPass, _url: str, first: int, _last: int) -> None:
        asked.append(first)
        fetch.cancel()

    monkeypatch.setattr(http_fetch.HttpPass, "_fetch_run", cancelled_meanwhile)
    fetch.start()
    fetch.join()
    assert asked == [0]


def test_manifest_thread_that_stumbles_leaves_a_word(inbox: Inbox, tmp_path: Path) -> None:
    address = parse_url("mqtt://localhost")
    link = MqttLink(
        address, device_id=DEVICE, key=KEY, tls=NO_TLS.own, keepalive_s=60, session_expiry_s=60, inbox=inbox
    )
    fetches = ManifestFetches(
        folders=VariantFolders(Layout(tmp_path)),
        asks=Asks(link, DEVICE),
        identity=identity("http://127.0.0.1:9/schlüssel"),
        tls=NO_TLS,
        inbox=inbox,
        over_https=True,
        answer_s=1.0,
        chance=lambda: 0.0,
    )
    fetches._fetch_https("0" * 64)
    found = next_of(inbox)
    assert isinstance(found, ManifestText)
    assert (found.text, found.reason, found.passing) == (None, Reason.TRANSFER_FAILED, True)
