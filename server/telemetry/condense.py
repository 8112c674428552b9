"""Stored reports of one deployment as fewer rows that count the same: sketches merge exactly. Pure: no database."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from server.telemetry.codec import Sketches, pack_sketches, unpack
from server.telemetry.merge import SketchSum

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Row = Mapping[str, Any]  # of the table `reports`


def condense(rows: Sequence[Row], *, span_s: float) -> list[dict[str, Any]]:
    """One row for the reports of a device, a spool and a deployment; two where some requests held several samples.

    Those two are asked for apart: a limit on latency is for one sample.

    Args:
        rows: as they are stored, one or more.
        span_s: how much time of arrival a row then stands for.

    Raises:
        BadSketchError: a stored sketch is damaged.
    """
    unpacked = [(row, unpack(row["sketches"])) for row in rows]
    single = [(row, told) for row, told in unpacked if row["inferences"] <= told.invoke.count]
    several = [(row, told) for row, told in unpacked if row["inferences"] > told.invoke.count]
    return [_merged(part, span_s) for part in (single, several) if part]


def _merged(part: Sequence[tuple[Row, Sketches]], span_s: float) -> dict[str, Any]:
    rows = [row for row, _ in part]
    queue, preprocess, invoke = SketchSum(), SketchSum(), SketchSum()
    errors: Counter[str] = Counter()
    for row, told in part:
        queue.add(told.queue)
        preprocess.add(told.preprocess)
        invoke.add(told.invoke)
        errors.update(row["errors"])
    warmest = [row["temperature_c"] for row in rows if row["temperature_c"] is not None]
    throttled = [row["throttled"] for row in rows if row["throttled"] is not None]
    return {
        # the key of its last report: no other row can have it, and the order of arrival is kept
        **max(rows, key=lambda row: row["sequence"]),
        "received_at": max(row["received_at"] for row in rows),
        "first_received_at": min(_first_received_at(row) for row in rows),
        "window_start": min(row["window_start"] for row in rows),
        "window_s": sum(row["window_s"] for row in rows),
        "requests": sum(row["requests"] for row in rows),
        "inferences": sum(row["inferences"] for row in rows),
        "errors": dict(sorted(errors.items())),
        "error_count": sum(row["error_count"] for row in rows),
        "sketches": pack_sketches(
            Sketches(queue=queue.sketch(), preprocess=preprocess.sketch(), invoke=invoke.sketch())
        ),
        "rss_bytes": max(row["rss_bytes"] for row in rows),
        "temperature_c": max(warmest, default=None),
        "throttled": any(throttled) if throttled else None,
        "throttled_count": sum(_throttled_count(row) for row in rows),
        "dropped_reports": max(row["dropped_reports"] for row in rows),
        "merged": sum(row["merged"] for row in rows),
        "span_s": span_s,
    }


def _first_received_at(row: Row) -> float:
    first: float | None = row["first_received_at"]
    return float(row["received_at"]) if first is None else first


def _throttled_count(row: Row) -> int:
    count: int | None = row["throttled_count"]
    return int(bool(row["throttled"])) if count is None else count
