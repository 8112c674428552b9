"""The spool of telemetry: within its limits, freed by the registry's word alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_agent.protocol.messages import Ack, AckRange, TelemetryReport, decode
from edge_agent.telemetry.spool import CLOCK_FLOOR, Spool

if TYPE_CHECKING:
    from pathlib import Path


NOW = CLOCK_FLOOR + 1e8


def report(requests: int = 1) -> TelemetryReport:
    return TelemetryReport(
        spool_id="0" * 32,
        sequence=0,
        model="net",
        version="1",
        variant_id="v",
        deployment_id="d1",
        window_start=0.0,
        window_s=1.0,
        requests=requests,
    )


def open_spool(path: Path, *, limit_bytes: int = 1 << 20, limit_age_s: float = 1e6) -> Spool:
    return Spool(path / "spool.db", limit_bytes=limit_bytes, limit_age_s=limit_age_s)


def keys(spool: Spool) -> list[tuple[str, int]]:
    """What a report is known by, of all that are left."""
    rows = spool.pending(after=0, limit=999)
    reports = [decode(TelemetryReport, payload) for _, payload in rows]
    assert [r.sequence for r in reports] == [sequence for sequence, _ in rows]
    return [(r.spool_id, r.sequence) for r in reports]


def ack(*ranges: tuple[str, int, int]) -> Ack:
    return Ack(ranges=tuple(AckRange(spool_id=spool_id, first=first, last=last) for spool_id, first, last in ranges))


def test_spool_keeps_reports_over_a_restart_and_numbers_never_repeat(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.add([report(n) for n in range(4)], unix_s=NOW)
    spool.free(ack((spool.spool_id, 1, 3)))
    spool.close()
    again = open_spool(tmp_path)
    again.add([report(9)], unix_s=NOW)
    assert keys(again) == [(spool.spool_id, 4), (again.spool_id, 5)]
    again.close()


def test_spool_after_a_power_cut_uses_no_number_twice_under_one_id(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.add([report()], unix_s=NOW)
    on_disk = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}
    spool.add([report(), report()], unix_s=NOW)
    sent = keys(spool)
    spool.close()
    for path in tmp_path.iterdir():  # what came after the last flush never reached the disk
        path.unlink()
    for name, content in on_disk.items():
        (tmp_path / name).write_bytes(content)

    again = open_spool(tmp_path)
    again.add([report(), report()], unix_s=NOW)
    assert keys(again)[0] == sent[0]
    assert not set(keys(again)[1:]) & set(sent)
    again.free(ack((spool.spool_id, 1, 3)))  # all that the registry has got before the cut
    assert keys(again) == [(again.spool_id, 2), (again.spool_id, 3)]
    again.close()


def test_spool_is_freed_of_reports_of_earlier_starts_by_acks_of_their_ids(tmp_path: Path) -> None:
    ids = []
    for _ in range(3):
        spool = open_spool(tmp_path)
        ids.append(spool.spool_id)
        spool.add([report(), report()], unix_s=NOW)
        spool.close()
    spool = open_spool(tmp_path)
    spool.free(ack((ids[1], 0, 1 << 53), (ids[2], 1, 5), ("f" * 32, 0, 1 << 53)))
    assert keys(spool) == [(ids[0], 1), (ids[0], 2), (ids[2], 6)]
    spool.free(ack((ids[0], 1, 2), (ids[2], 6, 6)))
    spool.add([report()], unix_s=NOW)
    assert keys(spool) == [(spool.spool_id, 7)]
    assert spool._connection.execute("SELECT spool_id FROM spools").fetchall() == [(spool.spool_id,)]
    spool.close()


def test_spool_that_is_opened_writes_nothing(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.add([report()], unix_s=NOW)
    spool.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    open_spool(tmp_path).close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("spool_id", "first", "last", "left"),
    [(None, 1, 2, 1), (None, 2, 1 << 53, 1), ("f" * 32, 1, 3, 3), (None, 3, 1, 3), (None, 0, 0, 3)],
    ids=["some", "to-the-end", "another-spool", "backwards", "none"],
)
def test_spool_is_freed_only_of_what_the_ack_names(
    tmp_path: Path, spool_id: str | None, first: int, last: int, left: int
) -> None:
    spool = open_spool(tmp_path)
    spool.add([report(), report(), report()], unix_s=NOW)
    for _ in range(2):  # an ack that comes twice frees nothing more
        spool.free(ack((spool_id or spool.spool_id, first, last)))
        assert spool.count == len(spool.pending(after=0, limit=9)) == left
    spool.close()


def test_spool_above_its_limit_drops_the_oldest_and_says_so_in_later_reports(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_bytes=10_000)
    for _ in range(100):
        spool.add([report()], unix_s=NOW)
    assert spool.size_bytes <= 10_000
    assert spool.dropped + spool.count == 100
    spool.add([report()], unix_s=NOW)
    last = decode(TelemetryReport, spool.pending(after=0, limit=999)[-1][1])
    assert last.dropped_reports > 0
    spool.close()


def test_spool_tells_what_the_start_before_dropped_once(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_age_s=100)
    spool.add([report(), report()], unix_s=NOW)
    spool.add([report()], unix_s=NOW + 1000)
    assert spool.dropped == 2  # and no report says so yet
    spool.close()
    for expected in (2, 0):
        spool = open_spool(tmp_path)
        spool.add([report()], unix_s=NOW + 1000)
        last = decode(TelemetryReport, spool.pending(after=0, limit=9)[-1][1])
        assert last.dropped_reports == spool.dropped == expected
        spool.close()


def test_spool_drops_what_is_old_but_believes_no_clock_that_was_never_set(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_age_s=100)
    spool.add([report()], unix_s=12.0)  # 1970 after boot
    spool.add([report()], unix_s=NOW)
    spool.add([report()], unix_s=NOW + 1000)
    assert [sequence for sequence, _ in spool.pending(after=0, limit=9)] == [1, 3]
    spool.close()


def test_spool_on_a_disk_that_takes_nothing_keeps_what_it_has(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_age_s=100)
    spool.add([report(), report()], unix_s=NOW)
    spool._connection.execute("PRAGMA query_only = ON")  # as a file system that has become read-only
    assert spool.free(ack((spool.spool_id, 1, 2))) == 0
    spool.add([report()], unix_s=NOW + 1000)
    spool._trim(NOW + 1000)
    assert (spool.count, spool.dropped) == (2, 1)
    spool._connection.execute("PRAGMA query_only = OFF")
    assert spool.free(ack((spool.spool_id, 1, 2))) == 2
    spool.close()


def test_spool_started_often_while_nobody_hears_it_still_tells_all_that_it_dropped(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_bytes=4000)
    for _ in range(5):
        for _ in range(30):
            spool.add([report()], unix_s=NOW)
        spool.close()
        spool = open_spool(tmp_path, limit_bytes=4000)
    spool.add([report()], unix_s=NOW)
    left = [decode(TelemetryReport, payload) for _, payload in spool.pending(after=0, limit=999)]
    told = {one.spool_id: one.dropped_reports for one in left}  # the last of each start
    told[spool.spool_id] = spool.dropped
    assert len(left) + sum(told.values()) == 5 * 30 + 1
    assert len(left) < 30
    spool.close()


def test_spool_tells_no_drop_again_that_the_registry_has_heard_of(tmp_path: Path) -> None:
    spool = open_spool(tmp_path, limit_bytes=4000)
    for _ in range(30):
        spool.add([report()], unix_s=NOW)
    left = [decode(TelemetryReport, payload) for _, payload in spool.pending(after=0, limit=999)]
    spool.free(ack((spool.spool_id, left[0].sequence, left[-2].sequence)))  # all but the last
    heard, dropped = left[-2].dropped_reports, spool.dropped
    spool.close()
    again = open_spool(tmp_path, limit_bytes=4000)
    for _ in range(60):
        again.add([report()], unix_s=NOW)
    assert heard > 0
    # of its own, the last of the start before, and what no report that was heard has told
    assert again.dropped + again.count == 60 + 1 + dropped - heard
    again.close()
