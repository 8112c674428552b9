"""A telemetry database, and reports with real sketches in it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edge_agent.protocol.messages import LatencySketch, TelemetryReport
from edge_agent.protocol.sketch import new_sketch, to_wire
from server.database import tables
from server.database.connect import Database
from server.telemetry.codec import pack


def sketch_of(values: Sequence[float]) -> LatencySketch:
    sketch = new_sketch()
    for value in values:
        sketch.add(value)
    return to_wire(sketch)


@pytest.fixture
def make_sketch() -> Callable[[Sequence[float]], LatencySketch]:
    return sketch_of


@pytest.fixture
def telemetry(new_database: Callable[[str], Database]) -> Database:
    database = new_database("telemetry")
    tables.telemetry.create_all(database.engine)
    return database


@pytest.fixture
def add_report(telemetry: Database) -> Callable[..., None]:
    """Insert a report as ingest would; keyword arguments change columns."""
    count = 0

    def add(invoke_ms: Sequence[float] = (1.0,), **changes: Any) -> None:  # noqa: ANN401  values of many columns
        nonlocal count
        count += 1
        report = TelemetryReport(
            spool_id="0" * 32,
            sequence=count,
            model="m",
            version="1",
            variant_id="v1",
            deployment_id="d",
            window_start=1.0,
            window_s=10.0,
            invoke=sketch_of(invoke_ms),
        )
        row = {
            "device_id": "a",
            "spool_id": report.spool_id,
            "sequence": count,
            "received_at": float(count),
            "window_start": 1.0,
            "window_s": 10.0,
            "profile": "pi4",
            "model": "m",
            "version": "1",
            "variant_id": "v1",
            "deployment_id": "d",
            "requests": len(invoke_ms),
            "inferences": len(invoke_ms),
            "errors": {},
            "error_count": 0,
            "sketches": pack(report),
            "rss_bytes": 0,
            "temperature_c": None,
            "throttled": None,
            "dropped_reports": 0,
        }
        with telemetry.write() as connection:
            connection.execute(tables.reports.insert(), {**row, **changes})

    return add
