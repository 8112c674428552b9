"""One batch into the databases: reports into the telemetry's, states and figures into the catalogue.

Everything here may be done twice: reports are unique by key, states take only what is newer. A device that is not
known, or is retired, is dropped: its messages would fill the queue for ever if they waited for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from edge_agent.protocol.messages import SelfTestReport
from server.database.connect import Database
from server.database.tables import deployments, device_figures, device_states, devices, reports
from server.ingest.intake import Intake, PresenceNews, Refused, Report, StatusNews
from server.ingest.presence import DeviceState, in_this_life, is_news, merge_presence, merge_status

LOOKUP_ROWS: Final = 500  # names in one IN (...)
STATE_COLUMNS: Final = tuple(field.name for field in fields(DeviceState))


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """What ingest needs to know of a device."""

    profile: str
    joined_at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch once it is committed."""

    committed: list[tuple[str, str, int]] = field(default_factory=list)
    """(device, spool id, sequence) now in the database, duplicates included: their devices still have them."""
    refused: list[Refused] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)
    """Devices that spoke just now (a message that the broker had kept is no proof of that)."""


class IngestStore:
    """The two databases as ingest sees them."""

    def __init__(self, catalogue: Database, telemetry: Database) -> None:
        self._catalogue = catalogue
        self._telemetry = telemetry

    def commit(self, batch: Sequence[Intake], *, now: float) -> Outcome:
        """Commit a batch as a whole.

        Raises:
            DatabaseUnavailableError: nothing is promised; commit the same batch again.
        """
        outcome = Outcome(refused=[item for item in batch if isinstance(item, Refused)])
        items = [item for item in batch if not isinstance(item, Refused)]
        known = self._known({item.device for item in items})
        for item in items:
            if item.device not in known:
                outcome.refused.append(Refused(item.device, "unknown device", "it never joined, or is retired"))
            elif isinstance(item, Report) or not item.retained:
                outcome.heard.add(item.device)
        self._commit_reports(
            [item for item in items if isinstance(item, Report) and item.device in known], known, now, outcome
        )
        news = [item for item in items if not isinstance(item, Report) and item.device in known]
        try:
            self._commit_news(news, known, now, outcome)
        except sa.exc.SQLAlchemyError:
            for item in news:
                self._commit_alone(item, known, now, outcome)
        return outcome

    def mark_heard(self, heard: Mapping[str, float]) -> None:
        """Move `last_seen_at` of devices forward, never back; rows of unknown devices are not made."""
        known = self._known(heard)
        with self._catalogue.write() as connection:
            states = self._states_of(connection, known)
            rows = [
                replace(in_this_life(states[device], known[device].joined_at), last_seen_at=heard[device])
                for device in known
                if heard[device] > states[device].last_seen_at
            ]
            _update_states(connection, rows)

    def _known(self, names: Iterable[str]) -> dict[str, KnownDevice]:
        wanted = sorted(names)
        known: dict[str, KnownDevice] = {}
        if not wanted:
            return known
        columns = sa.select(devices.c.device_id, devices.c.profile, devices.c.joined_at)
        with self._catalogue.read() as connection:
            for part in _parts(wanted):
                query = columns.where(
                    devices.c.device_id.in_(part), devices.c.removed_at.is_(None), devices.c.revoked_at.is_(None)
                )
                for device_id, profile, joined_at in connection.execute(query):
                    known[device_id] = KnownDevice(profile, joined_at)
        return known

    def _commit_reports(
        self, items: Sequence[Report], known: Mapping[str, KnownDevice], now: float, outcome: Outcome
    ) -> None:
        if not items:
            return
        rows = [_report_row(item, known[item.device].profile, now) for item in items]
        try:
            self._insert_reports(rows)
        except sa.exc.SQLAlchemyError:
            # One row that the database will never take must not hold back the others: find it by trying each alone.
            items = [item for item, row in zip(items, rows, strict=True) if self._takes(item, row, outcome)]
        outcome.committed.extend((item.device, item.report.spool_id, item.report.sequence) for item in items)

    def _takes(self, item: Report, row: dict[str, Any], outcome: Outcome) -> bool:
        try:
            self._insert_reports([row])
        except sa.exc.SQLAlchemyError as exc:
            outcome.refused.append(Refused(item.device, "report that the database refuses", type(exc).__name__))
            return False
        return True

    def _insert_reports(self, rows: Sequence[dict[str, Any]]) -> None:
        with self._telemetry.write() as connection:
            connection.execute(_insert(self._telemetry, reports).on_conflict_do_nothing(), rows)

    def _commit_news(
        self,
        news: Sequence[PresenceNews | StatusNews],
        known: Mapping[str, KnownDevice],
        now: float,
        outcome: Outcome,
    ) -> None:
        if not news:
            return
        refused: list[Refused] = []
        with self._catalogue.write() as connection:
            before = self._states_of(connection, {item.device for item in news})
            after = {device: in_this_life(state, known[device].joined_at) for device, state in before.items()}
            fresh: list[StatusNews] = []
            for item in news:
                state = after[item.device]
                if isinstance(item, PresenceNews):
                    merged = merge_presence(state, item.presence)
                else:
                    merged = merge_status(state, item.status)
                    if merged is not state:
                        fresh.append(item)
                # what the broker kept shows life only when it is news to us
                heard = merged is not state or not item.retained
                after[item.device] = replace(merged, last_seen_at=max(now, state.last_seen_at)) if heard else merged
            told = {device for device, state in after.items() if is_news(before[device], state)}
            if told:
                number = _next_news(connection)
                after |= {device: replace(after[device], news=number) for device in told}
            _update_states(connection, [state for device, state in after.items() if state != before[device]])
            self._commit_figures(connection, fresh, now, refused)
        outcome.refused.extend(refused)

    def _commit_alone(
        self, item: PresenceNews | StatusNews, known: Mapping[str, KnownDevice], now: float, outcome: Outcome
    ) -> None:
        try:
            self._commit_news([item], known, now, outcome)
        except sa.exc.SQLAlchemyError as exc:
            outcome.refused.append(Refused(item.device, "state that the database refuses", type(exc).__name__))

    def _states_of(self, connection: sa.Connection, names: Iterable[str]) -> dict[str, DeviceState]:
        """The rows of some devices, made where missing."""
        wanted = sorted(names)
        blank = [asdict(DeviceState(device_id=name)) for name in wanted]
        if blank:
            connection.execute(_insert(self._catalogue, device_states).on_conflict_do_nothing(), blank)
        columns = [device_states.c[name] for name in STATE_COLUMNS]
        states: dict[str, DeviceState] = {}
        for part in _parts(wanted):
            query = sa.select(*columns).where(device_states.c.device_id.in_(part))
            for row in connection.execute(query).mappings():
                states[row["device_id"]] = DeviceState(**row)
        return states

    def _commit_figures(
        self, connection: sa.Connection, news: Sequence[StatusNews], now: float, refused: list[Refused]
    ) -> None:
        """Keep what each device measured on the way in: one row per deployment, replaced when it was tested again."""
        found = {
            (item.device, deployment.deployment_id): (deployment.variant_id, deployment.self_test)
            for item in news
            for deployment in item.status.deployments
            if deployment.self_test is not None
        }
        if not found:
            return
        ours = _own_deployments(connection, found)
        stored = _stored_figures(connection, found)
        rows = []
        for (device, deployment_id), (variant_id, report) in found.items():
            if ours.get(deployment_id) != (device, variant_id):
                refused.append(Refused(device, "self-test of a foreign deployment", deployment_id))
                continue
            document = _figure(report)
            if stored.get((device, deployment_id)) != document:
                rows.append(
                    {
                        "device_id": device,
                        "deployment_id": deployment_id,
                        "variant_id": variant_id,
                        "report": document,
                        "received_at": now,
                    }
                )
        if rows:
            insert = _insert(self._catalogue, device_figures)
            changed = {name: insert.excluded[name] for name in ("variant_id", "report", "received_at")}
            connection.execute(
                insert.on_conflict_do_update(index_elements=["device_id", "deployment_id"], set_=changed), rows
            )


def _next_news(connection: sa.Connection) -> int:
    """Writers take turns, so no two ingest processes give out the same."""
    highest = connection.execute(sa.select(sa.func.max(device_states.c.news))).scalar()
    return (highest or 0) + 1


def _own_deployments(connection: sa.Connection, found: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str | None]]:
    ours: dict[str, tuple[str, str | None]] = {}
    for part in _parts(sorted({deployment_id for _, deployment_id in found})):
        query = sa.select(deployments.c.deployment_id, deployments.c.device_id, deployments.c.variant_id)
        for deployment_id, device_id, variant_id in connection.execute(
            query.where(deployments.c.deployment_id.in_(part))
        ):
            ours[deployment_id] = (device_id, variant_id)
    return ours


def _stored_figures(connection: sa.Connection, found: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    stored: dict[tuple[str, str], Any] = {}
    for part in _parts(sorted({deployment_id for _, deployment_id in found})):
        query = sa.select(device_figures.c.device_id, device_figures.c.deployment_id, device_figures.c.report)
        for device_id, deployment_id, report in connection.execute(
            query.where(device_figures.c.deployment_id.in_(part))
        ):
            stored[device_id, deployment_id] = report
    return stored


def _figure(report: SelfTestReport | None) -> dict[str, Any]:
    return {} if report is None else report.model_dump(mode="json", exclude_none=True)


def _update_states(connection: sa.Connection, states: Sequence[DeviceState]) -> None:
    if not states:
        return
    values = {name: sa.bindparam(f"new_{name}", type_=device_states.c[name].type) for name in STATE_COLUMNS[1:]}
    statement = sa.update(device_states).where(device_states.c.device_id == sa.bindparam("of_device")).values(values)
    connection.execute(
        statement,
        [
            {"of_device": state.device_id, **{f"new_{name}": getattr(state, name) for name in STATE_COLUMNS[1:]}}
            for state in states
        ],
    )


def _report_row(item: Report, profile: str, now: float) -> dict[str, Any]:
    report = item.report
    return {
        "device_id": item.device,
        "spool_id": report.spool_id,
        "sequence": report.sequence,
        "received_at": now,
        "window_start": report.window_start,
        "window_s": report.window_s,
        "profile": profile,
        "model": report.model,
        "version": report.version,
        "variant_id": report.variant_id,
        "deployment_id": report.deployment_id,
        "requests": report.requests,
        "inferences": report.inferences,
        "errors": report.errors,
        "error_count": sum(report.errors.values()),
        "sketches": item.sketches,
        "rss_bytes": report.rss_bytes,
        "temperature_c": report.temperature_c,
        "throttled": report.throttled,
        "dropped_reports": report.dropped_reports,
    }


def _insert(database: Database, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if database.is_sqlite else postgresql.insert(table)


def _parts(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[start : start + LOOKUP_ROWS] for start in range(0, len(names), LOOKUP_ROWS))
