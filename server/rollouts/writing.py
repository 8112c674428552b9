"""From what the rules have changed to the tables, inside the one transaction that has proven the lease."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from edge_agent.protocol.messages import Desired
from server.database import tables
from server.rollouts.asks import ask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from server.rollouts.ledger import Ledger

SENTENCE_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Intervals:
    """What every desired state tells its device."""

    status_interval_s: float
    telemetry_window_s: float


def save(connection: sa.Connection, ledger: Ledger, intervals: Intervals, *, epoch: int, now: float) -> None:
    """Write every change of a tick."""
    _upsert(connection, tables.rollout_states, ["rollout_id"], _standing_rows(ledger, now))
    # another attempt has another id, and takes the place of the one before
    _upsert(connection, tables.deployments, ["rollout_id", "device_id"], _deployment_rows(ledger, now))
    _upsert(connection, tables.desired, ["device_id"], _desired_rows(ledger, intervals, epoch=epoch, now=now))
    for wish in ledger.wishes:
        ask(connection, wish, now=now)
    if ledger.decisions:
        rows = [
            {
                "rollout_id": decision.rollout_id,
                "at": now,
                "action": decision.action,
                "sentence": decision.sentence[:SENTENCE_CHARACTERS],
                "numbers": dict(decision.numbers),
            }
            for decision in ledger.decisions
        ]
        connection.execute(sa.insert(tables.decisions), rows)


def mark_published(connection: sa.Connection, generations: dict[str, int]) -> None:
    """Note which generation of each device's desired state the broker has acknowledged."""
    desired = tables.desired
    update = (
        sa.update(desired)
        .where(
            desired.c.device_id == sa.bindparam("device"),
            desired.c.published_generation < sa.bindparam("published"),
        )
        .values(published_generation=sa.bindparam("published"))
    )
    connection.execute(
        update, [{"device": device, "published": generation} for device, generation in generations.items()]
    )


def _standing_rows(ledger: Ledger, now: float) -> list[dict[str, Any]]:
    rows = []
    for rollout_id in sorted(ledger.changed_standings):
        standing = ledger.standings[rollout_id]
        rows.append(
            {
                "rollout_id": rollout_id,
                "state": standing.state.value,
                "wave": standing.wave,
                "reason": standing.reason,
                "last_command_id": standing.last_command_id,
                "gate_stops": [asdict(stop) for stop in standing.gate_stops],
                "unmeasured_wave": standing.unmeasured_wave,
                "settled_at": standing.settled_at,
                "approval_wave": standing.approval_wave,
                "approved_wave": standing.approved_wave,
                "activated": standing.activated,
                "lanes": {profile: asdict(lane) for profile, lane in sorted(standing.lanes.items())},
                "updated_at": now,
            }
        )
    return rows


def _deployment_rows(ledger: Ledger, now: float) -> list[dict[str, Any]]:
    rows = []
    for deployment_id in sorted(ledger.changed_deployments):
        row = ledger.deployments[deployment_id]
        rows.append(
            {
                "deployment_id": row.deployment_id,
                "rollout_id": row.rollout_id,
                "device_id": row.device_id,
                "wave": row.wave,
                "profile": row.profile,
                "model": row.model,
                "version": row.version,
                "variant_id": row.variant_id,
                "state": str(row.state),
                "reason": str(row.reason),
                "detail": row.detail,
                "previous": row.previous.model_dump(mode="json") if row.previous else None,
                "offered_generation": row.offered_generation,
                "canary": row.canary,
                "opened_at": row.opened_at,
                "running_at": row.running_at,
                "retrying_since": row.retrying_since,
                "attempt": row.attempt,
                "retries": row.retries,
                "retry_at": row.retry_at,
                "takes_place": row.takes_place,
                "shadow": row.shadow.model_dump(mode="json") if row.shadow else None,
                "updated_at": now,
            }
        )
    return rows


def _desired_rows(ledger: Ledger, intervals: Intervals, *, epoch: int, now: float) -> list[dict[str, Any]]:
    rows = []
    for device_id in sorted(ledger.changed_devices):
        models, ready = ledger.wanted.get(device_id, {}), ledger.staged.get(device_id, {})
        document = Desired(
            epoch=epoch,
            generation=ledger.generations.get(device_id, 0) + 1,
            deployments=tuple(models[model] for model in sorted(models)),
            staged=tuple(ready[model] for model in sorted(ready)),
            status_interval_s=intervals.status_interval_s,
            telemetry_window_s=intervals.telemetry_window_s,
        )
        rows.append(
            {
                "device_id": device_id,
                "epoch": document.epoch,
                "generation": document.generation,
                "document": document.model_dump(mode="json"),
                "published_generation": -1,
                "updated_at": now,
            }
        )
    return rows


def _upsert(connection: sa.Connection, table: sa.Table, key: Sequence[str], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    insert = dialect.insert(table)
    values = {name: insert.excluded[name] for name in rows[0] if name not in key}
    connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=values), rows)
