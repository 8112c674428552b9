from collections.abc import Callable

import pytest

from server.database.connect import Database
from server.schemas.telemetry import GroupBy
from server.telemetry.codec import BadSketchError
from server.telemetry.query import summarize

AddReport = Callable[..., None]


def test_summarize_two_variants_merges_each_for_itself(telemetry: Database, add_report: AddReport) -> None:
    add_report([float(n) for n in range(1, 51)], device_id="a")
    add_report([float(n) for n in range(51, 101)], device_id="b")
    add_report([500.0], variant_id="v2")

    first, second = summarize(telemetry, by=(GroupBy.VARIANT,))

    assert (first.group, first.reports, first.devices, first.requests) == ({GroupBy.VARIANT: "v1"}, 2, 2, 100)
    assert first.invoke.p50_ms == pytest.approx(50, rel=0.03)
    assert first.invoke.p95_ms == pytest.approx(95, rel=0.03)
    assert first.invoke.p99_ms == pytest.approx(99, rel=0.03)
    assert first.invoke.max_ms == 100
    assert (second.group, second.invoke.max_ms, second.queue.p50_ms) == ({GroupBy.VARIANT: "v2"}, 500, None)


def test_summarize_errors_of_several_kinds_are_added_by_kind(telemetry: Database, add_report: AddReport) -> None:
    add_report(errors={"timeout": 2})
    add_report(errors={"timeout": 1, "shape": 4})

    assert summarize(telemetry, by=())[0].errors == {"shape": 4, "timeout": 3}


def test_summarize_dropped_reports_counts_the_highest_of_each_spool(telemetry: Database, add_report: AddReport) -> None:
    for device, spool, dropped in (("a", "1", 3), ("a", "1", 7), ("a", "2", 1), ("b", "1", 10)):
        add_report(device_id=device, spool_id=spool * 32, dropped_reports=dropped)

    assert summarize(telemetry, by=())[0].dropped_reports == 7 + 1 + 10


def test_summarize_filters_leave_only_what_was_asked_for(telemetry: Database, add_report: AddReport) -> None:
    add_report(model="other", received_at=100.0)
    add_report(version="2", received_at=100.0)
    add_report(received_at=50.0)
    add_report(received_at=100.0, rss_bytes=5, temperature_c=-3.0, throttled=True)

    (row,) = summarize(telemetry, by=(GroupBy.MODEL, GroupBy.VERSION), model="m", version="1", since=100.0)

    assert row.group == {GroupBy.MODEL: "m", GroupBy.VERSION: "1"}
    assert (row.reports, row.since, row.until) == (1, 100.0, 100.0)
    assert (row.rss_max_bytes, row.temperature_max_c, row.throttled) == (5, -3.0, 1)


def test_summarize_nothing_gives_no_rows(telemetry: Database) -> None:
    assert summarize(telemetry, by=(GroupBy.DEVICE,)) == []


def test_summarize_damaged_sketch_is_said_loudly(telemetry: Database, add_report: AddReport) -> None:
    add_report(sketches=b"no zstd")
    with pytest.raises(BadSketchError, match="damaged"):
        summarize(telemetry, by=())
