from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from edge_agent.logbook.handler import RingHandler
from edge_agent.logbook.ring import BEFORE, CURRENT, LINES_BURST, LogRing, read
from edge_agent.protocol.inquiry import LogLevel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT_BYTES = 16 << 10


def fill(ring: LogRing, count: int, *, text: str = "x" * 100, apart_s: float = 10.0) -> None:
    for number in range(count):
        ring.append(LogLevel.INFO, f"{number} {text}", unix_s=1e9 + number, now_s=1000.0 + number * apart_s)


def test_ring_never_takes_more_than_its_limit_and_keeps_the_latest(tmp_path: Path) -> None:
    fill(LogRing(tmp_path, limit_bytes=LIMIT_BYTES), 1000)

    kept = list(read(tmp_path))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= LIMIT_BYTES
    assert kept[-1].number == 1000
    assert [line.number for line in kept] == list(range(kept[0].number, 1001))
    assert len(kept) > 50


def test_ring_opened_again_goes_on_with_its_numbers(tmp_path: Path) -> None:
    fill(LogRing(tmp_path, limit_bytes=LIMIT_BYTES), 3)
    fill(LogRing(tmp_path, limit_bytes=LIMIT_BYTES), 2)
    assert [line.number for line in read(tmp_path)] == [1, 2, 3, 4, 5]


def test_ring_after_half_a_line_begins_a_new_one(tmp_path: Path) -> None:
    fill(LogRing(tmp_path, limit_bytes=LIMIT_BYTES), 2)
    path = tmp_path / CURRENT
    path.write_bytes(path.read_bytes()[:-30])
    fill(LogRing(tmp_path, limit_bytes=LIMIT_BYTES), 1, text="whole")
    assert [line.text for line in read(tmp_path)][-1] == "0 whole"


def test_ring_that_is_flooded_writes_little_and_says_how_much_it_left_out(tmp_path: Path) -> None:
    ring = LogRing(tmp_path, limit_bytes=1 << 20)
    fill(ring, 5000, apart_s=0.0)
    ring.append(LogLevel.ERROR, "calm again", unix_s=2e9, now_s=2000.0)

    kept = list(read(tmp_path))
    assert len(kept) == LINES_BURST + 2
    assert f"{5000 - int(LINES_BURST)} lines were left out" in kept[-2].text
    assert kept[-1].text == "calm again"


def test_ring_on_a_disk_that_takes_nothing_goes_on_and_tells_later(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_text("a file where the folder should be")
    ring = LogRing(folder, limit_bytes=LIMIT_BYTES)
    fill(ring, 4)
    folder.unlink()
    fill(ring, 1)
    assert [line.text[:20] for line in read(folder)] == ["4 lines were left ou", "0 " + "x" * 18]


def test_ring_of_which_a_file_is_gone_is_read_without_it(tmp_path: Path) -> None:
    fill(LogRing(tmp_path, limit_bytes=LIMIT_BYTES), 200)
    (tmp_path / BEFORE).unlink()
    assert list(read(tmp_path))[-1].number == 200


def test_read_where_nothing_was_logged_is_empty(tmp_path: Path) -> None:
    assert list(read(tmp_path / "nowhere")) == []


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[logging.Logger]:
    handler = RingHandler(LogRing(tmp_path, limit_bytes=LIMIT_BYTES), secrets=("s3cr3t",))
    found = logging.getLogger("test_ring")
    found.addHandler(handler)
    yield found
    found.removeHandler(handler)


def test_handler_keeps_level_text_and_traceback_without_the_secret(logger: logging.Logger, tmp_path: Path) -> None:
    logger.debug("not kept")
    logger.critical("the key is %s", "s3cr3t")
    try:
        int("x")
    except ValueError:
        logger.exception("it failed")

    first, second = read(tmp_path)
    assert (first.level, first.text) == (LogLevel.ERROR, "the key is ***")
    assert second.text.startswith("it failed\nTraceback")
    assert "s3cr3t" not in (tmp_path / CURRENT).read_text()
