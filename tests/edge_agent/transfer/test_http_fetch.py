"""One pass over HTTPS against a store that refuses, is busy, breaks off or hangs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_agent.layout import Layout
from edge_agent.link.identity import Identity
from edge_agent.link.inbox import Inbox
from edge_agent.link.tls import Tls
from edge_agent.transfer.http_fetch import BlockFetched, HttpPass, PassEnded
from edge_agent.transfer.pace import Pace
from tests.edge_agent.surroundings.device import DEVICE, KEY
from tests.edge_agent.surroundings.http_registry import HttpRegistry
from tests.edge_agent.surroundings.toy_variant import make_variant
from tests.edge_agent.surroundings.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIANT = make_variant(filler_bytes=30_000)
BLOCKS = range(VARIANT.manifest.object.block_count)


@pytest.fixture
def source() -> Iterator[HttpRegistry]:
    server = HttpRegistry("mqtt://localhost")
    server.variants[VARIANT.manifest_sha256] = VARIANT
    yield server
    server.stop()


def new_pass(
    source: HttpRegistry, inbox: Inbox, *, url: str | None = None, rate_bytes_s: int | None = None
) -> HttpPass:
    identity = Identity(
        device_id=DEVICE, profile="bench", registry_url=source.url, mqtt_url="mqtt://localhost", key=KEY
    )
    pace = Pace(rate_bytes_s)
    tls = Tls(Layout(Path("nowhere")))  # over http nothing of it is read
    return HttpPass(identity, VARIANT.manifest.object, list(BLOCKS), tls=tls, inbox=inbox, pace=pace, url=url)


def outcome(fetch: HttpPass, inbox: Inbox) -> tuple[dict[int, bytes], PassEnded]:
    """What one pass brings, and how it ends."""
    fetch.start()
    blocks: dict[int, bytes] = {}
    ended: list[PassEnded] = []

    def is_over() -> bool:
        for item in inbox.drain():
            if isinstance(item, BlockFetched):
                blocks[item.index] = item.payload
            elif isinstance(item, PassEnded):
                ended.append(item)
        return bool(ended)

    until(is_over, what="the end of the pass")
    fetch.join()
    return blocks, ended[0]


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


def test_pass_leaves_its_url_and_the_next_one_asks_for_none(source: HttpRegistry, inbox: Inbox) -> None:
    blocks, first = outcome(new_pass(source, inbox), inbox)
    assert b"".join(blocks[i] for i in BLOCKS) == VARIANT.travelling
    assert first.reason is None

    _, second = outcome(new_pass(source, inbox, url=first.url), inbox)

    assert second.url == first.url
    assert source.urls_given == 1


def test_pass_with_a_url_that_has_expired_gets_a_new_one_and_all_blocks(source: HttpRegistry, inbox: Inbox) -> None:
    source.expired_urls = 1
    blocks, ended = outcome(new_pass(source, inbox, url=f"{source.url}/store/{VARIANT.object_sha256}?old"), inbox)
    assert len(blocks) == len(BLOCKS)
    assert (ended.reason, source.urls_given) == (None, 1)


def test_pass_whose_fresh_url_is_refused_ends_for_good(source: HttpRegistry, inbox: Inbox) -> None:
    source.expired_urls = 9
    _, ended = outcome(new_pass(source, inbox), inbox)
    assert ended.reason == "transfer_failed"
    assert ended.detail == "the store refuses a fresh URL: the store answered with status 403"
    assert source.urls_given == 1


@pytest.mark.parametrize("where", ["store", "registry"])
@pytest.mark.parametrize(
    ("status", "reason"), [(400, "transfer_failed"), (401, "transfer_failed"), (404, "object_not_found")]
)
def test_pass_that_is_refused_ends_for_good(
    source: HttpRegistry, inbox: Inbox, where: str, status: int, reason: str
) -> None:
    (source.store_says if where == "store" else source.registry_says).append(status)
    blocks, ended = outcome(new_pass(source, inbox), inbox)
    assert (blocks, ended.reason) == ({}, reason)
    assert not source.ranges, "nobody was asked twice"


@pytest.mark.parametrize("where", ["store", "registry"])
@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_pass_that_meets_a_busy_server_ends_for_now_and_says_for_how_long(
    source: HttpRegistry, inbox: Inbox, where: str, status: int
) -> None:
    source.retry_after_s = 7
    (source.store_says if where == "store" else source.registry_says).append(status)
    blocks, ended = outcome(new_pass(source, inbox), inbox)
    assert (blocks, ended.reason, ended.retry_after_s) == ({}, None, 7.0)
    assert not source.ranges, "not at once again"


def test_pass_whose_connection_ends_within_a_block_leaves_that_block_out(source: HttpRegistry, inbox: Inbox) -> None:
    source.cut_after_bytes = 5 * 1024 + 100
    blocks, ended = outcome(new_pass(source, inbox), inbox)
    assert sorted(blocks) == [0, 1, 2, 3, 4]
    assert all(len(block) == 1024 for block in blocks.values())
    assert ended.reason is None
    assert ended.url is not None


def test_pass_that_is_cancelled_lets_go_of_a_connection_that_hangs(source: HttpRegistry, inbox: Inbox) -> None:
    source.hang_after_bytes = 2048
    fetch = new_pass(source, inbox)
    fetch.start()
    until(lambda: inbox.drain(1), what="the first block")
    fetch.cancel()
    fetch.join(10)
    assert not fetch.is_alive(), "it does not wait for its time limit of 30 s"
    assert source.hung.wait(10)
    assert not any(isinstance(item, PassEnded) for item in inbox.drain())


def test_pass_with_a_limit_takes_its_time(source: HttpRegistry, inbox: Inbox) -> None:
    began_s = time.monotonic()
    blocks, _ = outcome(new_pass(source, inbox, rate_bytes_s=12_000), inbox)
    assert len(blocks) == len(BLOCKS)
    assert (
        time.monotonic() - began_s >= len(VARIANT.travelling) / 12_000 - 1.2
    )  # never sooner, however fast the machine
