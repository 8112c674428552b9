"""Telemetry as operators ask for it. Reads the telemetry database, one group at a time: memory is that of one group."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final

import sqlalchemy as sa

from server.database.connect import Database
from server.database.tables import reports
from server.schemas.telemetry import GroupBy, TelemetryRow
from server.telemetry.codec import unpack
from server.telemetry.merge import SketchSum

FETCH_ROWS: Final = 500

COLUMNS: Final[dict[GroupBy, sa.Column[Any]]] = {
    GroupBy.DEVICE: reports.c.device_id,
    GroupBy.PROFILE: reports.c.profile,
    GroupBy.MODEL: reports.c.model,
    GroupBy.VERSION: reports.c.version,
    GroupBy.VARIANT: reports.c.variant_id,
}


def summarize(
    telemetry: Database,
    *,
    by: tuple[GroupBy, ...],
    model: str | None = None,
    version: str | None = None,
    since: float | None = None,
) -> list[TelemetryRow]:
    """Merge the reports of each group, sorted by group.

    Args:
        telemetry: the database that holds `reports`.
        by: what to group by; empty: one group of everything.
        model: only this model.
        version: only this version.
        since: only what was received at or after this time (seconds since 1970, by the registry's clock: the clock of
            a device may be wrong). Of old telemetry, which is merged, a row that reaches into this time counts whole.

    Raises:
        DatabaseUnavailableError: the database does not answer.
        BadSketchError: a stored sketch is damaged.
    """
    by = tuple(dict.fromkeys(by))
    query = _query(by, model=model, version=version, since=since)
    with telemetry.read() as connection, connection.execution_options(yield_per=FETCH_ROWS).execute(query) as rows:
        return [
            _summarize_group(dict(zip(by, key, strict=True)), group)
            for key, group in groupby(rows, key=lambda row: tuple(row[: len(by)]))
        ]


def _query(
    by: Sequence[GroupBy], *, model: str | None, version: str | None, since: float | None
) -> sa.Select[tuple[Any, ...]]:
    keys = [COLUMNS[name] for name in by]
    query = sa.select(
        *(key.label(f"key_{index}") for index, key in enumerate(keys)),
        reports.c.device_id.label("device"),
        reports.c.received_at,
        reports.c.requests,
        reports.c.inferences,
        reports.c.errors,
        reports.c.sketches,
        reports.c.rss_bytes,
        reports.c.temperature_c,
        reports.c.spool_id,
        reports.c.dropped_reports,
        reports.c.merged,
        sa.func.coalesce(reports.c.first_received_at, reports.c.received_at).label("first_received_at"),
        sa.func.coalesce(reports.c.throttled_count, sa.cast(reports.c.throttled, sa.Integer), 0).label("throttled"),
    )
    if model is not None:
        query = query.where(reports.c.model == model)
    if version is not None:
        query = query.where(reports.c.version == version)
    if since is not None:
        query = query.where(reports.c.received_at >= since)
    # sorted by device and spool too, so that both are counted without remembering them all
    return query.order_by(*keys, reports.c.device_id, reports.c.spool_id)


def _summarize_group(group: dict[GroupBy, str], rows: Iterator[sa.Row[tuple[Any, ...]]]) -> TelemetryRow:
    queue, preprocess, invoke = SketchSum(), SketchSum(), SketchSum()
    errors: Counter[str] = Counter()
    count = devices = requests = inferences = rss_bytes = throttled = dropped = 0
    temperature_c: float | None = None
    since, until = float("inf"), 0.0
    for _, of_device in groupby(rows, key=lambda row: row.device):
        devices += 1
        dropped_of_spool: dict[str, int] = {}
        for row in of_device:
            count += row.merged
            requests += row.requests
            inferences += row.inferences
            errors.update(row.errors)
            sketches = unpack(row.sketches)
            queue.add(sketches.queue)
            preprocess.add(sketches.preprocess)
            invoke.add(sketches.invoke)
            rss_bytes = max(rss_bytes, row.rss_bytes)
            if row.temperature_c is not None:
                temperature_c = max(row.temperature_c, temperature_c if temperature_c is not None else -273.15)
            throttled += row.throttled
            since, until = min(since, row.first_received_at), max(until, row.received_at)
            # a running total of the spool id: the highest of each counts, once
            known = dropped_of_spool.get(row.spool_id, 0)
            dropped_of_spool[row.spool_id] = max(known, row.dropped_reports)
        dropped += sum(dropped_of_spool.values())
    return TelemetryRow(
        group=group,
        reports=count,
        devices=devices,
        requests=requests,
        inferences=inferences,
        errors=dict(sorted(errors.items())),
        queue=queue.summary(),
        preprocess=preprocess.summary(),
        invoke=invoke.summary(),
        rss_max_bytes=rss_bytes,
        temperature_max_c=temperature_c,
        throttled=throttled,
        dropped_reports=dropped,
        since=since,
        until=until,
    )
