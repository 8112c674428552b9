from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from edge_agent.protocol.messages import AskKind, ReplyStatus
from server.database import tables
from server.delivery.answers import Answers
from server.delivery.blocks import BlockCache
from server.delivery.schedule import DeliveryRules, Schedule
from server.delivery.sender import BlockSender
from server.delivery.service import Delivery, connect
from server.errors import StorageUnavailableError
from server.inquiries.inquirer import Inquirer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.server.conftest import S3Server
    from tests.server.delivery.conftest import FakeDevice, Shelf

    MakeDevice = Callable[..., FakeDevice]
    MakeShelf = Callable[[int], Shelf]


class WatchedStore:
    """The real store, with a switch, and a note of what was read."""

    def __init__(self, shelf: Shelf) -> None:
        self._store = shelf.store
        self.ranges: list[tuple[int, int]] = []
        self.down = False

    def get_range(self, sha256: str, start: int, length: int) -> bytes:
        self._check()
        self.ranges.append((start, length))
        return self._store.get_range(sha256, start, length)

    def get_bytes(self, sha256: str) -> bytes:
        self._check()
        return self._store.get_bytes(sha256)

    def presign_get(self, sha256: str, expires_s: int) -> str:
        return self._store.presign_get(sha256, expires_s)

    def _check(self) -> None:
        if self.down:
            raise StorageUnavailableError("S3 does not answer.")


@contextmanager
def serving(shelf: Shelf, rules: DeliveryRules | None = None) -> Iterator[tuple[WatchedStore, Delivery]]:
    watched = WatchedStore(shelf)
    store: Any = watched
    connection, asks = connect(shelf.broker, f"delivery-{shelf.salt}")
    sender = BlockSender(Schedule(rules or DeliveryRules()), BlockCache(store), connection)
    answers = Answers(shelf.database, store, sender, presign_expiry_s=60, clock=time.monotonic)
    inquirer = Inquirer(shelf.database, connection, clock=time.time)
    delivery = Delivery(connection, asks, answers, sender, inquirer)
    stop = threading.Event()
    thread = threading.Thread(target=delivery.run, args=(stop,))
    thread.start()
    try:
        assert connection.wait_ready(10)
        yield watched, delivery
    finally:
        stop.set()
        thread.join()


def wait_until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen in time"
        time.sleep(0.01)


def fetch(device: FakeDevice, *, timeout_s: float = 20.0) -> None:
    """Ask as an agent does, until all of it is there."""
    end_s = time.monotonic() + timeout_s
    while not device.complete:
        assert time.monotonic() < end_s, f"{len(device.blocks)} blocks"
        reply = device.ask_blocks()
        quiet_at_s, known = time.monotonic() + reply.retry_after_s + 0.3, len(device.blocks)
        while time.monotonic() < quiet_at_s and not device.complete:
            if len(device.blocks) > known:
                quiet_at_s, known = time.monotonic() + 0.3, len(device.blocks)
            time.sleep(0.01)


def test_delivery_ten_listeners_get_two_megabytes_by_one_pass_read_once(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(2_000_000)
    with serving(shelf) as (store, _), ExitStack() as stack:
        devices = [stack.enter_context(make_device(shelf, shelf.add_device(i))) for i in range(10)]
        replies = [device.ask_blocks() for device in devices[:6]]
        assert all(reply.first_pass for reply in replies)
        wait_until(lambda: all(device.complete for device in devices))
        for device in devices:
            assert hashlib.sha256(device.data).hexdigest() == shelf.object.sha256
            assert Counter(device.broadcast) == dict.fromkeys(range(shelf.object.block_count), 1)
            assert device.private == []
        assert sum(length for _, length in store.ranges) == 2_000_000


def test_delivery_device_that_missed_blocks_is_repaired_in_private(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(1_000_000)
    with serving(shelf), ExitStack() as stack:
        good = stack.enter_context(make_device(shelf, shelf.add_device(0)))
        cut = stack.enter_context(make_device(shelf, shelf.add_device(1), deaf_to=frozenset({2, 3, 11})))
        assert cut.ask_blocks().first_pass
        wait_until(lambda: good.complete and len(cut.blocks) == shelf.object.block_count - 3)
        reply = cut.ask_blocks()
        assert (reply.first_pass, reply.blocks_sent) == (False, 3)
        wait_until(lambda: cut.complete)
        assert cut.private == [2, 3, 11]
        assert cut.data == shelf.data
        assert good.private == []
        assert len(good.broadcast) == shelf.object.block_count


def test_delivery_device_that_does_not_listen_is_served_alone_and_slowed_down(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(400_000)
    rules = DeliveryRules(repair_rate_bytes_s=400_000.0, repair_burst_bytes=140_000.0)
    with serving(shelf, rules), make_device(shelf, shelf.add_device(0), listens=False) as device:
        assert device.ask_blocks(listening=False).blocks_sent == 2
        wait_until(lambda: len(device.blocks) == 2)
        reply = device.ask_blocks(listening=False)
        assert reply.status is ReplyStatus.SLOW_DOWN
        assert 0.0 < reply.retry_after_s < 1.0
        while not device.complete:
            time.sleep(max(0.05, device.ask_blocks(listening=False).retry_after_s))
        assert device.data == shelf.data
        assert len(device.private) == shelf.object.block_count, "nothing came twice"


def test_delivery_questions_beyond_the_limit_are_slowed_down(make_shelf: MakeShelf, make_device: MakeDevice) -> None:
    shelf = make_shelf(1000)
    with serving(shelf, DeliveryRules(asks_burst=3.0)), make_device(shelf, shelf.add_device(0)) as device:
        statuses = [device.ask(AskKind.DESIRED).status for _ in range(5)]
    assert statuses[:3] == [ReplyStatus.OK] * 3
    assert ReplyStatus.SLOW_DOWN in statuses[3:]


def test_delivery_desired_manifest_and_url_come_from_database_and_store(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(1000)
    with serving(shelf), make_device(shelf, shelf.add_device(0)) as device:
        reply = device.ask(AskKind.DESIRED)
        assert reply.desired is not None
        assert reply.desired.order == (7, 1)
        reply = device.ask(AskKind.MANIFEST, sha256=shelf.manifest_sha256)
        assert reply.manifest is not None
        assert hashlib.sha256(reply.manifest.encode()).hexdigest() == shelf.manifest_sha256
        reply = device.ask(AskKind.URL, sha256=shelf.object.sha256)
        assert reply.url is not None
        assert shelf.object.sha256 in reply.url


def test_delivery_variant_that_was_built_again_is_served_by_the_manifest_that_is_wanted(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(200_000)
    shelf.build_again()
    with serving(shelf), make_device(shelf, shelf.add_device(0)) as device:
        url = device.ask(AskKind.URL, sha256=shelf.object.sha256)
        fetch(device)
    assert url.status is ReplyStatus.OK
    assert device.data == shelf.data


def test_delivery_wanted_manifest_that_is_spoiled_holds_up_no_other(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(1000)
    shelf.also_wanted = ("0" * 64, shelf.store.put_bytes(b"no manifest").sha256)
    with serving(shelf), make_device(shelf, shelf.add_device(0)) as device:
        assert device.ask(AskKind.URL, sha256=shelf.object.sha256).status is ReplyStatus.OK


@pytest.mark.parametrize("kind", [AskKind.MANIFEST, AskKind.URL, AskKind.BLOCKS])
def test_delivery_what_desired_does_not_name_is_not_found(
    make_shelf: MakeShelf, make_device: MakeDevice, kind: AskKind
) -> None:
    shelf = make_shelf(1000)
    secret = shelf.store.put_bytes(b"not for you" + shelf.data).sha256
    idle = shelf.add_device(1, wanted=False)
    sha256 = shelf.manifest_sha256 if kind is AskKind.MANIFEST else shelf.object.sha256
    with serving(shelf), ExitStack() as stack:
        entitled = stack.enter_context(make_device(shelf, shelf.add_device(0)))
        other = stack.enter_context(make_device(shelf, idle))
        assert entitled.ask(kind, sha256=secret).status is ReplyStatus.NOT_FOUND
        assert entitled.ask(kind).status is ReplyStatus.NOT_FOUND, "no sha256 at all"
        refused = other.ask(kind, sha256=sha256, listening=True)
        assert refused.status is ReplyStatus.NOT_FOUND
        assert refused.url is None
        assert refused.manifest is None
        assert other.ask(AskKind.DESIRED).desired is not None, "nothing wanted yet is an answer too"
        assert entitled.ask(kind, sha256=sha256, listening=True).status is ReplyStatus.OK


def test_delivery_removed_device_is_gone_and_unknown_one_not_found(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(1000)
    with serving(shelf), ExitStack() as stack:
        removed = stack.enter_context(make_device(shelf, shelf.add_device(0, removed=True)))
        unknown = stack.enter_context(make_device(shelf, f"{shelf.salt}-9"))
        assert removed.ask(AskKind.DESIRED).status is ReplyStatus.GONE
        assert removed.ask_blocks().status is ReplyStatus.GONE
        assert unknown.ask(AskKind.DESIRED).status is ReplyStatus.NOT_FOUND


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", "malformed ask"),
        (b"\xff\xfe garbage", "malformed ask"),
        (b"[" * 60_000, "malformed ask"),
        (b'{"kind":"blocks"}' + b" " * 100_000, "malformed ask"),
        (b'{"v":2,"kind":"desired"}', "unsupported version of ask"),
        (b'{"kind":"everything"}', "malformed ask"),
        (b'{"kind":"blocks","sha256":"../../etc"}', "malformed ask"),
    ],
)
def test_delivery_bad_ask_is_counted_and_the_next_is_answered(
    make_shelf: MakeShelf, make_device: MakeDevice, payload: bytes, kind: str
) -> None:
    shelf = make_shelf(1000)
    with serving(shelf) as (_, delivery), make_device(shelf, shelf.add_device(0)) as device:
        for _ in range(3):
            device.send(payload)
        assert device.ask(AskKind.DESIRED).status is ReplyStatus.OK
        assert delivery.refusals.total == {kind: 3}


def test_delivery_bitmap_that_is_short_long_or_empty_is_taken_as_it_is(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(300_000)
    with serving(shelf), make_device(shelf, shelf.add_device(0)) as device:
        sent = [
            device.ask(AskKind.BLOCKS, sha256=shelf.object.sha256, missing=missing).blocks_sent
            for missing in (b"", b"\x00", b"\x01", b"\xff" * 4000)
        ]
        assert sent[:3] == [0, 0, 1]
        wait_until(lambda: 0 in device.blocks)


def test_delivery_s3_down_is_unavailable_with_a_time_and_recovers(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(300_000)
    with serving(shelf) as (store, _), make_device(shelf, shelf.add_device(0)) as device:
        store.down = True
        for kind, sha256 in ((AskKind.MANIFEST, shelf.manifest_sha256), (AskKind.BLOCKS, shelf.object.sha256)):
            reply = device.ask(kind, sha256=sha256, listening=True)
            assert reply.status is ReplyStatus.UNAVAILABLE
            assert reply.retry_after_s > 0
        assert device.ask(AskKind.DESIRED).status is ReplyStatus.OK, "what the database owns is still answered"
        store.down = False
        time.sleep(2.1)
        fetch(device)
        assert device.data == shelf.data


def test_delivery_object_that_was_spoiled_in_s3_is_not_sent(make_shelf: MakeShelf, make_device: MakeDevice) -> None:
    shelf = make_shelf(200_000)
    with serving(shelf) as (store, _), make_device(shelf, shelf.add_device(0)) as device:
        real = store.get_range
        store.get_range = lambda sha256, start, length: b"x" + real(sha256, start, length)[1:]  # type: ignore[method-assign]  # the store goes bad
        assert device.ask_blocks().first_pass
        time.sleep(0.6)
        assert device.blocks == {}


def test_delivery_process_killed_in_the_middle_of_a_pass_ends_with_all_of_it(
    make_shelf: MakeShelf, make_device: MakeDevice, s3_server: S3Server, tmp_path: Path
) -> None:
    shelf = make_shelf(3_000_000)
    environment = os.environ | {
        "SHOAL_DATA_DIR": str(tmp_path),
        "SHOAL_DATABASE_URL": str(shelf.database.url),
        "SHOAL_MQTT_URL": shelf.broker,
        "SHOAL_S3_ENDPOINT": s3_server.endpoint,
        "SHOAL_S3_ACCESS_KEY": s3_server.access_key,
        "SHOAL_S3_SECRET_KEY": s3_server.secret_key,
        "SHOAL_BLOCK_RATE_BYTES_S": "2000000",
    }
    command = [sys.executable, "-m", "server.processes.delivery"]
    with ExitStack() as stack:
        devices = [stack.enter_context(make_device(shelf, shelf.add_device(i))) for i in range(3)]
        process = subprocess.Popen(command, env=environment)
        try:
            wait_until(lambda: _answered(devices[0]))
            devices[0].ask_blocks()
            wait_until(lambda: len(devices[1].blocks) > 8)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not devices[1].complete
            process = subprocess.Popen(command, env=environment)
            wait_until(lambda: _answered(devices[0]))
            for device in devices:
                fetch(device)
                assert device.data == shelf.data
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()


def _answered(device: FakeDevice) -> bool:
    try:
        return device.ask(AskKind.DESIRED, timeout_s=0.3).status is ReplyStatus.OK
    except AssertionError:
        return False


def test_delivery_restore_of_an_older_wanted_state_is_seen_at_once(
    make_shelf: MakeShelf, make_device: MakeDevice
) -> None:
    shelf = make_shelf(1000)
    with serving(shelf), make_device(shelf, shelf.add_device(0)) as device:
        assert device.ask(AskKind.URL, sha256=shelf.object.sha256).status is ReplyStatus.OK
        empty = {"v": 1, "epoch": 7, "generation": 2, "deployments": []}
        with shelf.database.write() as connection:
            connection.execute(sa.update(tables.desired).values(document=empty, generation=2))
        assert device.ask(AskKind.URL, sha256=shelf.object.sha256).status is ReplyStatus.NOT_FOUND
