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


def test_spool_keeps_reports_over_a_restart_and_numbers_never_repeat(tmp_path: Path) -> None:
    spool = open_spool(tmp_path)
    spool.add([report(n) for n in range(3)], unix_s=NOW)
    spool.free(Ack(ranges=(AckRange(spool_id=spool.spool_id, first=1, last=3),)))
    spool.add([report(9)], unix_s=NOW)
    first = spool.spool_id
    spool.close()
    again = open_spool(tmp_path)
    (sequence, payload) = again.pending(after=0, limit=9)[0]
    assert again.spool_id == first
    assert sequence == 4
    assert decode(TelemetryReport, payload).sequence == 4
    again.close()


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
    ack = Ack(ranges=(AckRange(spool_id=spool_id or spool.spool_id, first=first, last=last),))
    for _ in range(2):  # an ack that comes twice frees nothing more
        spool.free(ack)
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
    assert spool.free(Ack(ranges=(AckRange(spool_id=spool.spool_id, first=1, last=2),))) == 0
    spool.add([report()], unix_s=NOW + 1000)
    spool._trim(NOW + 1000)
    assert (spool.count, spool.dropped) == (2, 1)
    spool._connection.execute("PRAGMA query_only = OFF")
    assert spool.free(Ack(ranges=(AckRange(spool_id=spool.spool_id, first=1, last=2),))) == 2
    spool.close()
