"""What the devices of a rollout measured: from the telemetry to samples, each device read until it has told enough.

A device that has measured enough is read again at the later times of `health.LATER_S` alone; the others are asked for
by index, once in a while. Whatever is remembered here can be read anew: a controller that was killed comes to the same
samples.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from edge_agent.protocol.sketch import quantile_ms
from server.database.tables import reports
from server.errors import DatabaseUnavailableError
from server.rollouts.health import LATER_S, Measured, Sample
from server.schemas.rollouts import RolloutState
from server.telemetry.codec import FIRST_BIN, GAMMA, BadSketchError, unpack
from server.telemetry.merge import SketchSum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from edge_agent.protocol.messages import LatencySketch
    from edge_agent.protocol.profile import Limits
    from server.database.connect import Database
    from server.rollouts.facts import Deployment, Rollout, Standing

log = logging.getLogger(__name__)

WATCHED: Final = frozenset({RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FINISHED})
LOOK_EVERY_S: Final = 5.0
# For so long after its last device began to run it a finished rollout may still be stopped by what devices measure.
WATCH_FINISHED_S: Final = 7 * 86400.0
IN_CHUNK: Final = 200
# Devices that are read for a later time in one look: a large fleet comes to it within minutes.
LATER_AT_ONCE: Final = 200
LATER_EVERY_S: Final = 60.0  # how often one is read that has told too little
# The latest reports of the version before that are merged for one device; a day's worth would say no more.
BEFORE_REPORTS: Final = 30
# Errors of the model; a bad request, a client that hangs up or a device without memory say nothing against a variant.
INVOKE_FAILED: Final = "invoke_failed"  # the request was not answered
NONFINITE: Final = "nonfinite_output"  # it was, with NaN or infinity


class Measurements:
    """Reads and remembers samples."""

    def __init__(
        self,
        telemetry: Database,
        *,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        """`clock` says when to look again, `time_of_day` (seconds since 1970) whether a rollout is still watched."""
        self._telemetry, self._clock, self._time_of_day = telemetry, clock, time_of_day
        self._measured: dict[str, dict[str, Measured]] = {}
        self._in_use: dict[str, set[str]] = {}
        self._looked_at: dict[str, float] = {}
        self._later_at: dict[str, dict[str, float]] = {}

    def forget_others(self, rollout_ids: set[str]) -> None:
        """Only these rollouts are watched now."""
        for known in set(self._looked_at) - rollout_ids:
            for remembered in (self._measured, self._in_use, self._looked_at, self._later_at):
                remembered.pop(known, None)

    def of(
        self, rollout: Rollout, rows: Sequence[Deployment], standing: Standing | None, limits: Mapping[str, Limits]
    ) -> tuple[Mapping[str, Measured], frozenset[str]]:
        """As `look`, of a rollout whose gates may act; the telemetry being away holds waves, and stops nothing else."""
        least = rollout.options.min_inferences
        if not least or standing is None or standing.state not in WATCHED:
            return {}, frozenset()
        running = [row for row in rows if row.running_at is not None and row.variant_id is not None]
        last_began = max((row.running_at for row in running if row.running_at is not None), default=0.0)
        if standing.state is RolloutState.FINISHED and last_began < self._time_of_day() - WATCH_FINISHED_S:
            return {}, frozenset()
        limits_ms = {profile: of.latency_p95_ms for profile, of in limits.items() if of.latency_p95_ms is not None}
        try:
            return self.look(rollout.rollout_id, running, least=least, limits_ms=limits_ms)
        except (DatabaseUnavailableError, BadSketchError) as exc:
            log.warning("rollout %s is not gated now: %s", rollout.rollout_id, exc)
            return {}, frozenset(row.deployment_id for row in running)

    def look(
        self, rollout_id: str, running: Sequence[Deployment], *, least: int, limits_ms: Mapping[str, float]
    ) -> tuple[dict[str, Measured], frozenset[str]]:
        """The samples of a rollout, and who is in use without having measured enough yet.

        Args:
            rollout_id: names what is remembered.
            running: its deployments that run, or did.
            least: attempts that make a sample.
            limits_ms: the p95 that each profile allows.

        Raises:
            DatabaseUnavailableError: the telemetry does not answer.
            BadSketchError: a stored sketch is damaged.
        """
        measured = self._measured.setdefault(rollout_id, {})
        in_use = self._in_use.setdefault(rollout_id, set())
        missing = [row for row in running if row.deployment_id not in measured]
        due = self._due(rollout_id, running, measured)
        now = self._clock()
        if (missing or due) and now - self._looked_at.get(rollout_id, -LOOK_EVERY_S) >= LOOK_EVERY_S:
            self._looked_at[rollout_id] = now
            with self._telemetry.read() as connection:
                for part in (missing[start : start + IN_CHUNK] for start in range(0, len(missing), IN_CHUNK)):
                    self._read(connection, part, measured, in_use, least=least, limits_ms=limits_ms)
                for row in due:
                    self._later_at[rollout_id][row.deployment_id] = self._time_of_day()
                    limit_ms = limits_ms.get(row.profile)
                    measured[row.deployment_id] = self._with_later(
                        connection, row, measured[row.deployment_id], least, limit_ms
                    )
        return dict(measured), frozenset(row.deployment_id for row in missing) & in_use - set(measured)

    def _due(
        self, rollout_id: str, running: Sequence[Deployment], measured: Mapping[str, Measured]
    ) -> list[Deployment]:
        """Who is to be read for a later time now; each of them not again at once."""
        now, read_at = self._time_of_day(), self._later_at.setdefault(rollout_id, {})
        due = []
        for row in running:
            known = measured.get(row.deployment_id)
            if known is None or row.running_at is None or len(known.later) == len(LATER_S):
                continue
            begins = row.running_at + LATER_S[len(known.later)]
            if now >= max(begins, read_at.get(row.deployment_id, 0.0) + LATER_EVERY_S):
                due.append(row)
        return due[:LATER_AT_ONCE]

    def _with_later(
        self, connection: sa.Connection, row: Deployment, known: Measured, least: int, limit_ms: float | None
    ) -> Measured:
        """With what it has measured at the next later time; without, as long as that may still come."""
        began, place = row.running_at or 0.0, len(known.later)
        begins = began + LATER_S[place]
        ends = began + LATER_S[place + 1] if place + 1 < len(LATER_S) else began + WATCH_FINISHED_S
        reports_then = _of(connection, row.deployment_id, row.device_id, between=(begins, ends))
        sample = _sample(reports_then, least, limit_ms)
        if sample.attempts >= least:
            return replace(known, later=(*known.later, sample))
        return replace(known, later=(*known.later, None)) if self._time_of_day() >= ends else known

    def _read(
        self,
        connection: sa.Connection,
        rows: Sequence[Deployment],
        measured: dict[str, Measured],
        in_use: set[str],
        *,
        least: int,
        limits_ms: Mapping[str, float],
    ) -> None:
        ids = [row.deployment_id for row in rows]
        before = {row.deployment_id: row.previous.deployment_id for row in rows if row.previous is not None}
        asked = ids + sorted(set(before.values()) - in_use)
        totals = sa.select(reports.c.deployment_id, sa.func.sum(reports.c.requests)).where(
            reports.c.deployment_id.in_(asked)
        )
        told = {name: int(number) for name, number in connection.execute(totals.group_by(reports.c.deployment_id))}
        for row in rows:
            name, previous = row.deployment_id, before.get(row.deployment_id, "")
            if told.get(name, 0) or told.get(previous, 0) >= least:
                in_use.add(name)
            if told.get(name, 0) < least:
                continue
            now = _sample(_of(connection, name, row.device_id), least, limits_ms.get(row.profile))
            if now.attempts < least:
                continue  # most requests never reached the model
            old = _sample(_of(connection, previous, row.device_id, latest=True), None, None) if previous else None
            measured[name] = Measured(now, old if old is not None and old.attempts >= least else None)


def _of(
    connection: sa.Connection,
    deployment_id: str,
    device_id: str,
    *,
    latest: bool = False,
    between: tuple[float, float] | None = None,
) -> Iterator[tuple[dict[str, int], bytes]]:
    """The reports of a deployment in order, or its latest; by its own device: another can't speak for it."""
    columns = reports.c
    query = sa.select(columns.errors, columns.sketches).where(
        columns.deployment_id == deployment_id, columns.device_id == device_id
    )
    if between is not None:
        query = query.where(columns.received_at >= between[0], columns.received_at < between[1])
    if latest:
        query = query.order_by(columns.received_at.desc(), columns.sequence.desc()).limit(BEFORE_REPORTS)
    else:
        query = query.order_by(columns.received_at, columns.sequence)
    for row in connection.execute(query):
        yield row.errors, row.sketches


def _sample(rows: Iterator[tuple[dict[str, int], bytes]], least: int | None, limit_ms: float | None) -> Sample:
    """Merge reports until there are so many attempts; all of them with None."""
    merged, attempts, failures = SketchSum(), 0, 0
    for errors, stored in rows:
        sketch = unpack(stored).invoke
        merged.add(sketch)
        failed = errors.get(INVOKE_FAILED, 0)
        attempts += sketch.count + failed
        failures += failed + errors.get(NONFINITE, 0)
        if least is not None and attempts >= least:
            break
    total = merged.sketch()
    over = None if limit_ms is None or not total.count else _share_over(total, limit_ms)
    return Sample(attempts, min(failures, attempts), quantile_ms(total, 0.95), over)


def _share_over(sketch: LatencySketch, limit_ms: float) -> float:
    """The share of the values in bins that lie wholly above a limit."""
    over = sum(
        count
        for number, count in enumerate(sketch.bins, start=sketch.offset)
        if number > FIRST_BIN and GAMMA ** (number - 1) >= limit_ms
    )
    return over / sketch.count
