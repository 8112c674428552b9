"""Old telemetry in fewer rows that count the same, on real databases."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.protocol.messages import TelemetryReport
from edge_agent.protocol.sketch import new_sketch, to_wire
from server.database import tables
from server.retention import merging
from server.retention.merging import DAY_S, HOUR_S, merge_reports
from server.schemas.telemetry import GroupBy
from server.settings import RegistrySettings
from server.telemetry.codec import pack, unpack
from server.telemetry.condense import condense
from server.telemetry.device_latency import latency_p95_ms
from server.telemetry.query import summarize

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from server.database.connect import Database

NOW = 20_000 * DAY_S + 1234.0
OLD = NOW - 20 * DAY_S
OLDER = NOW - 50 * DAY_S


@pytest.fixture
def telemetry(new_database: Callable[[str], Database]) -> Database:
    database = new_database("telemetry")
    tables.telemetry.create_all(database.engine)
    return database


@pytest.fixture
def rules(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(data_dir=tmp_path)


def row_of(sequence: int, received_at: float, **changes: Any) -> dict[str, Any]:  # noqa: ANN401  of any column
    """A report of 20 inferences, each sequence with latencies of its own."""
    sketch = new_sketch()
    for number in range(20):
        sketch.add(1.0 + sequence % 7 + number / 3)
    names = {"model": "m", "version": "1", "variant_id": "v", "deployment_id": "dep-a"}
    report = TelemetryReport(
        spool_id="0" * 32, sequence=sequence, window_start=1.0, window_s=60.0, invoke=to_wire(sketch), **names
    )
    row = {
        "device_id": "a",
        "spool_id": "0" * 32,
        "sequence": sequence,
        "received_at": received_at,
        "window_start": received_at - 60,
        "window_s": 60.0,
        "profile": "pi-4",
        **names,
        "requests": 20,
        "inferences": 20,
        "errors": {"timeout": 1} if sequence % 3 else {},
        "error_count": int(bool(sequence % 3)),
        "sketches": pack(report),
        "rss_bytes": 1000 + sequence,
        "temperature_c": None if sequence % 2 else 40.0 + sequence,
        "throttled": (None, True, False)[sequence % 3],
        "dropped_reports": sequence // 5,
        "merged": 1,
        "span_s": 0.0,
        "first_received_at": None,
        "throttled_count": None,
    }
    return {**row, **changes}


def add(telemetry: Database, *rows: dict[str, Any]) -> None:
    with telemetry.write() as connection:
        connection.execute(sa.insert(tables.reports), list(rows))


def fill(telemetry: Database) -> None:
    """Three hours of two devices and a third hour of one deployment more, 20 and 50 days old, and some of today."""
    number = 0
    for begin in (OLDER, OLD, NOW - HOUR_S):
        for minute in range(0, 180, 6):
            number += 1
            for device in ("a", "b"):
                deployment = f"dep-{device}{int(device == 'b' and minute >= 120)}"
                add(telemetry, row_of(number, begin + minute * 60.0, device_id=device, deployment_id=deployment))


def told(telemetry: Database) -> list[Any]:
    return [
        summarize(telemetry, by=by)
        for by in ((), (GroupBy.DEVICE,), (GroupBy.PROFILE, GroupBy.VARIANT), (GroupBy.MODEL, GroupBy.VERSION))
    ]


def spans(telemetry: Database) -> dict[float, int]:
    query = sa.select(tables.reports.c.span_s, sa.func.count()).group_by(tables.reports.c.span_s)
    with telemetry.read() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def test_merged_telemetry_counts_the_same(telemetry: Database, rules: RegistrySettings) -> None:
    fill(telemetry)
    before, latency = told(telemetry), latency_p95_ms(telemetry, ["pi-4"])
    swept = merge_reports(telemetry, rules, now=NOW)
    assert told(telemetry) == before
    assert latency_p95_ms(telemetry, ["pi-4"]) == latency
    rows = spans(telemetry)
    assert rows[0.0] >= 60, "what is new stays as it came"
    assert set(rows) == {0.0, HOUR_S, DAY_S}
    assert swept.count == 180 - sum(rows.values())
    assert rows[DAY_S] <= 6


def test_merging_again_changes_nothing_and_time_merges_on(telemetry: Database, rules: RegistrySettings) -> None:
    fill(telemetry)
    before = told(telemetry)
    merge_reports(telemetry, rules, now=NOW)
    rows = spans(telemetry)
    assert merge_reports(telemetry, rules, now=NOW + 60.0).count == 0
    assert spans(telemetry) == rows
    # a month later hours have become days, and what was new hours: a single row of a deployment stays what it is
    assert merge_reports(telemetry, rules, now=NOW + 60 * DAY_S).count > 0
    assert sum(spans(telemetry).values()) <= 12
    assert told(telemetry) == before


def test_report_of_several_samples_a_request_is_not_mixed_with_others(
    telemetry: Database, rules: RegistrySettings
) -> None:
    add(telemetry, *(row_of(n, OLD + n, inferences=20 if n % 2 else 160) for n in range(40)))
    before, latency = told(telemetry), latency_p95_ms(telemetry, ["pi-4"])
    merge_reports(telemetry, rules, now=NOW)
    assert spans(telemetry) == {HOUR_S: 2}
    assert told(telemetry) == before
    assert latency_p95_ms(telemetry, ["pi-4"]) == latency != {}


def test_damaged_report_stays_and_holds_up_no_other(telemetry: Database, rules: RegistrySettings) -> None:
    add(telemetry, row_of(1, OLD, sketches=b"no zstd"), row_of(2, OLD + 1))
    add(telemetry, *(row_of(n, OLD + n, deployment_id="dep-b") for n in range(3, 6)))
    merge_reports(telemetry, rules, now=NOW)
    assert spans(telemetry) == {0.0: 2, HOUR_S: 1}


def test_sweep_is_bounded_and_the_next_one_goes_on(
    telemetry: Database, rules: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "SWEEP_ROWS", 10)
    monkeypatch.setattr(merging, "BATCH_ROWS", 4)
    add(telemetry, *(row_of(n, OLD + n * 360.0) for n in range(50)))
    before, waiting = told(telemetry), merge_reports(telemetry, rules, now=NOW, dry_run=True).count
    assert waiting == 50
    counts = []
    while count := merge_reports(telemetry, rules, now=NOW).count:
        counts.append(count)
    assert len(counts) >= 4
    assert max(counts) < 20
    assert told(telemetry) == before


def test_two_that_merge_at_once_count_nothing_twice(telemetry: Database, rules: RegistrySettings) -> None:
    fill(telemetry)
    before = told(telemetry)
    threads = [threading.Thread(target=merge_reports, args=(telemetry, rules), kwargs={"now": NOW}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(telemetry) == before
    assert merge_reports(telemetry, rules, now=NOW).count == 0


def test_merge_that_was_killed_between_delete_and_insert_has_changed_nothing(
    telemetry: Database, rules: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(telemetry)
    before, rows = told(telemetry), spans(telemetry)

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sa, "insert", kill)
        with pytest.raises(KeyboardInterrupt):
            merge_reports(telemetry, rules, now=NOW)
    assert (told(telemetry), spans(telemetry)) == (before, rows)
    merge_reports(telemetry, rules, now=NOW)
    assert told(telemetry) == before


@settings(max_examples=50)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=30, unique=True),
    st.integers(1, 4),
)
def test_condensed_in_steps_or_at_once_says_the_same(numbers: list[int], parts: int) -> None:
    rows = [row_of(number, OLD + number) for number in numbers]
    (at_once,) = condense(rows, span_s=DAY_S)
    steps = [row for part in range(parts) if rows[part::parts] for row in condense(rows[part::parts], span_s=HOUR_S)]
    (in_steps,) = condense(steps, span_s=DAY_S)
    for row in (at_once, in_steps):
        invoke = unpack(row.pop("sketches")).invoke
        row["bins"], row["extremes"] = (invoke.offset, invoke.bins, invoke.zero_count), (invoke.min_ms, invoke.max_ms)
        assert invoke.count == 20 * len(numbers)
    assert in_steps == at_once
