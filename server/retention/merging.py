"""Old telemetry becomes one row an hour, later one a day, for each deployment: as much is told by fewer rows.

For the ingest, which writes these tables. Bounded work at a time, and short transactions. Two may do it at once, and
either may be killed: rows are replaced only where all of them are still there, so that nothing is counted twice.
"""

from __future__ import annotations

import itertools
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from server.database.tables import merges, reports
from server.schemas.retention import Swept
from server.telemetry.codec import BadSketchError
from server.telemetry.condense import condense

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Row = dict[str, Any]  # of the table `reports`

    from server.database.connect import Database
    from server.settings import RegistrySettings

log = logging.getLogger(__name__)

HOUR_S: Final = 3600.0
DAY_S: Final = 86400.0
BATCH_ROWS: Final = 2000  # replaced in one transaction, so that nobody who writes waits for long
FETCH_ROWS: Final = 500
SWEEP_ROWS: Final = 300_000  # read in one sweep; the next one goes on
_SAME: Final = tuple(
    reports.c[name] for name in ("device_id", "spool_id", "deployment_id", "profile", "model", "version", "variant_id")
)


class _MergedMeanwhileError(Exception):
    """Another process has replaced some of these rows."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Reports that arrived so long ago are merged into rows of so much time."""

    span_s: float
    older_days: float

    def cutoff(self, now: float) -> float:
        """What arrived before may be merged: whole spans, so that no row of one is merged twice."""
        return _floor(now - self.older_days * DAY_S, self.span_s)


def merge_reports(telemetry: Database, settings: RegistrySettings, *, now: float, dry_run: bool = False) -> Swept:
    """Merge what is old enough, at most so much of it; counts the rows that are fewer by it (dry: that may be).

    Raises:
        DatabaseUnavailableError: the database does not answer; what was merged before is.
    """
    rules = (Rule(HOUR_S, settings.reports_hourly_days), Rule(DAY_S, settings.reports_daily_days))
    count, room = 0, SWEEP_ROWS
    for rule in rules:
        if dry_run:
            count += _waiting(telemetry, rule, now=now)
            continue
        for start in _spans(telemetry, rule, now=now):
            if room <= 0:
                break
            read, merged = _merge_span(telemetry, rule, start)
            count, room = count + merged, room - read
    hourly, daily = (f"{rule.older_days:g}" for rule in rules)
    told = (
        f"rows of telemetry: more than {hourly} days old one an hour for each deployment, more than {daily} one a day"
    )
    return Swept(kind="merged", count=count, rule=told)


def _spans(telemetry: Database, rule: Rule, *, now: float) -> Iterator[float]:
    """The starts of the spans that hold something and are old enough, each noted as done when the next is asked for."""
    while True:
        with telemetry.read() as connection:
            until = _done_until(connection, rule)
            oldest = connection.execute(
                sa.select(sa.func.min(reports.c.received_at)).where(reports.c.received_at >= until)
            ).scalar()
        if oldest is None:
            return
        start = _floor(oldest, rule.span_s)
        if start + rule.span_s > rule.cutoff(now):
            return
        yield start
        with telemetry.write() as connection:
            if _done_until(connection, rule) < start + rule.span_s:
                connection.execute(sa.delete(merges).where(merges.c.span_s == rule.span_s))
                connection.execute(sa.insert(merges).values(span_s=rule.span_s, until=start + rule.span_s))


def _merge_span(telemetry: Database, rule: Rule, start: float) -> tuple[int, int]:
    """Merge one span; how many rows were read, and how many are fewer."""
    read = fewer = 0
    batch: list[list[Row]] = []
    size = 0
    query = sa.select(reports).where(*_in_span(rule, start)).order_by(*_SAME, reports.c.sequence)
    with telemetry.read() as connection, connection.execution_options(yield_per=FETCH_ROWS).execute(query) as rows:
        named = (row._asdict() for row in rows)
        for _, group in itertools.groupby(named, key=lambda row: tuple(row[column.name] for column in _SAME)):
            same = list(group)
            read += len(same)
            if len(same) > 1:
                batch.append(same)
                size += len(same)
            if size >= BATCH_ROWS:
                fewer += _replace(telemetry, rule, batch)
                batch, size = [], 0
    return read, fewer + _replace(telemetry, rule, batch)


def _replace(telemetry: Database, rule: Rule, groups: Sequence[Sequence[Row]]) -> int:
    """Put what each group says together into its place; how many rows are fewer."""
    new: list[Row] = []
    old: list[Row] = []
    for group in groups:
        try:
            new += condense(group, span_s=rule.span_s)
        except BadSketchError as exc:
            log.warning("reports of %s stay as they are: %s", group[0]["deployment_id"], exc)
            continue
        old += [{"device": row["device_id"], "spool": row["spool_id"], "number": row["sequence"]} for row in group]
    if not old:
        return 0
    try:
        with telemetry.write() as connection:
            _delete_all(connection, old, below_s=rule.span_s)
            connection.execute(sa.insert(reports), new)
    except _MergedMeanwhileError:
        return 0
    return len(old) - len(new)


def _delete_all(connection: sa.Connection, keys: Sequence[Row], *, below_s: float) -> None:
    key = reports.c
    gone = sa.delete(reports).where(
        key.device_id == sa.bindparam("device"),
        key.spool_id == sa.bindparam("spool"),
        key.sequence == sa.bindparam("number"),
        key.span_s < below_s,
    )
    if connection.execute(gone, keys).rowcount != len(keys):
        raise _MergedMeanwhileError


def _waiting(telemetry: Database, rule: Rule, *, now: float) -> int:
    with telemetry.read() as connection:
        until, cutoff = _done_until(connection, rule), rule.cutoff(now)
        at = reports.c.received_at
        old = sa.and_(at >= until, at < cutoff, reports.c.span_s < rule.span_s)
        return connection.execute(sa.select(sa.func.count()).select_from(reports).where(old)).scalar() or 0


def _in_span(rule: Rule, start: float) -> tuple[sa.ColumnElement[bool], ...]:
    at = reports.c.received_at
    return (at >= start, at < start + rule.span_s, reports.c.span_s < rule.span_s)


def _done_until(connection: sa.Connection, rule: Rule) -> float:
    return connection.execute(sa.select(merges.c.until).where(merges.c.span_s == rule.span_s)).scalar() or 0.0


def _floor(at: float, span_s: float) -> float:
    return math.floor(at / span_s) * span_s
