"""Finds what is older than it is kept, or named by nobody, and deletes it unless it is only asked.

Who writes a table deletes from it, too: the ingest reports, the controller decisions and objects, each worker the
cache of its machine. A sweep may run while everything else does, and in two processes at once: nothing that it
deletes is ever written again. An object is deleted only if nobody names it, and nobody has put it there (or found it
there) for `objects_grace_days`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from server.database.tables import decisions, reports, rollout_states
from server.errors import ObjectNotFoundError
from server.retention.cache import unused_files
from server.retention.merging import DAY_S, merge_reports
from server.retention.names import named_objects
from server.rollouts.reading import OPEN_STATES
from server.schemas.retention import Swept

if TYPE_CHECKING:
    from pathlib import Path

    from server.database.connect import Database
    from server.settings import RegistrySettings
    from server.storage import ObjectStore
    from server.storage.interface import ListedObject

BATCH_ROWS: Final = 2000  # in one transaction, so that nobody who writes waits for long


def preview(
    catalogue: Database, telemetry: Database, objects: ObjectStore, settings: RegistrySettings, *, now: float
) -> tuple[Swept, ...]:
    """All that would go now; nothing is deleted.

    Raises:
        DatabaseUnavailableError, StorageUnavailableError: it can't be told.
    """
    return (
        sweep_reports(telemetry, settings, now=now, dry_run=True),
        merge_reports(telemetry, settings, now=now, dry_run=True),
        sweep_decisions(catalogue, settings, now=now, dry_run=True),
        sweep_objects(catalogue, objects, settings, now=now, dry_run=True),
        sweep_cache(settings, now=now, dry_run=True),
    )


def sweep_reports(telemetry: Database, settings: RegistrySettings, *, now: float, dry_run: bool = False) -> Swept:
    """Telemetry that is too old; for the ingest."""
    keep_days = settings.reports_keep_days
    old = reports.c.received_at < now - keep_days * DAY_S
    count = _count(telemetry, reports, old)
    while not dry_run and count:
        step = sa.select(reports.c.received_at).where(old).order_by(reports.c.received_at)
        with telemetry.write() as connection:
            last = connection.execute(step.offset(BATCH_ROWS - 1).limit(1)).scalar()
            connection.execute(sa.delete(reports).where(old if last is None else reports.c.received_at <= last))
        if last is None:
            break
    return Swept(kind="reports", count=count, rule=f"telemetry received more than {keep_days:g} days ago")


def sweep_decisions(catalogue: Database, settings: RegistrySettings, *, now: float, dry_run: bool = False) -> Swept:
    """What was said about rollouts that ended long ago; for the controller."""
    keep_days = settings.decisions_keep_days
    states = [state.value for state in OPEN_STATES]
    ended = sa.select(rollout_states.c.rollout_id).where(rollout_states.c.state.not_in(states))
    # the last one stays: SQLite would give its number out again, to a decision that counts as told to the webhook
    last = sa.select(sa.func.max(decisions.c.decision_id)).scalar_subquery()
    old = sa.and_(
        decisions.c.at < now - keep_days * DAY_S, decisions.c.rollout_id.in_(ended), decisions.c.decision_id < last
    )
    count = _count(catalogue, decisions, old)
    for _ in range(0, 0 if dry_run else count, BATCH_ROWS):
        batch = sa.select(decisions.c.decision_id).where(old).limit(BATCH_ROWS)
        with catalogue.write() as connection:
            connection.execute(sa.delete(decisions).where(decisions.c.decision_id.in_(batch)))
    rule = f"sentences about rollouts that have ended, more than {keep_days:g} days old"
    return Swept(kind="decisions", count=count, rule=rule)


def sweep_objects(
    catalogue: Database, objects: ObjectStore, settings: RegistrySettings, *, now: float, dry_run: bool = False
) -> Swept:
    """Objects that nobody names; for the controller, which knows what devices may go back to."""
    grace_days = settings.objects_grace_days
    before = now - grace_days * DAY_S
    old = [listed for listed in objects.list_objects() if listed.stored_at < before]
    with catalogue.read() as connection:
        named = named_objects(connection, objects, retired_before=before)
    unnamed = [listed for listed in old if listed.sha256 not in named]
    if not dry_run:
        unnamed = [listed for listed in unnamed if _delete(objects, listed, before)]
    return Swept(
        kind="objects",
        count=len(unnamed),
        size_bytes=sum(listed.size_bytes for listed in unnamed),
        rule=f"objects that no version, variant, push or device names, untouched for more than {grace_days:g} days",
        names=tuple(listed.sha256 for listed in unnamed),
    )


def _delete(objects: ObjectStore, listed: ListedObject, before: float) -> bool:
    """Look once more: a push that found these bytes there meanwhile has made them new."""
    try:
        if objects.describe(listed.sha256).stored_at >= before:
            return False
    except ObjectNotFoundError:
        return False
    objects.delete(listed.sha256)
    return True


def _count(database: Database, table: sa.Table, condition: sa.ColumnElement[bool]) -> int:
    with database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table).where(condition)).scalar() or 0


def sweep_cache(settings: RegistrySettings, *, now: float, dry_run: bool = False) -> Swept:
    """What builds on this machine remembered, and have not used for long or have no room for; for its workers."""
    keep_days, limit_bytes = settings.cache_keep_days, settings.cache_limit_bytes
    folder: Path = settings.cache_dir
    found = unused_files(folder, older_than=now - keep_days * DAY_S, limit_bytes=limit_bytes)
    if not dry_run:
        for file in found:
            file.path.unlink(missing_ok=True)  # a build that wants it does the step again
    return Swept(
        kind="cache",
        count=len(found),
        size_bytes=sum(file.size_bytes for file in found),
        rule=f"results of build steps unused for more than {keep_days:g} days, or beyond {limit_bytes:,} bytes",
    )
