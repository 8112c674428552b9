"""Both databases as they were at one moment, copied into SQLite files while others go on writing."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from server.backup.document import CATALOGUE_NAME, TELEMETRY_NAME, BackupError
from server.backup.rows import copy_table
from server.database.connect import Database
from server.database.migrate import CATALOGUE, TELEMETRY, Schema, known_step, upgrade_schema
from server.database.tables import registry
from server.errors import NotFoundError

if TYPE_CHECKING:
    from server.backup.progress import Told
    from server.settings import RegistrySettings


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was copied."""

    registry_id: str
    epoch: int
    steps: dict[str, str]
    rows: dict[str, int]


def copy_databases(settings: RegistrySettings, folder: Path, *, told: Told) -> Snapshot:
    """Copy every row of both databases, each in one read transaction; the two begin together.

    Raises:
        BackupError: a database has not been migrated to the tables of this release.
        DatabaseTooNewError: a newer release has migrated it.
        DatabaseUnavailableError: a database can't be read, or the copy not be written.
        NotFoundError: there is no registry.
    """
    with ExitStack() as stack:
        sources = []
        for schema, url in ((CATALOGUE, settings.database_url), (TELEMETRY, settings.telemetry_url)):
            source = _existing(url)
            stack.callback(source.close)
            connection = stack.enter_context(source.read())
            # the first question begins the transaction: both are asked before either is copied
            sources.append((schema, connection, _require_today(connection, schema)))
        rows: dict[str, int] = {}
        for schema, connection, _ in sources:
            rows |= _copy_into(folder / file_name(schema), connection, schema, told=told)
        (_, catalogue, _), _ = sources
        identity = catalogue.execute(sa.select(registry)).one_or_none()
    if identity is None:
        raise NotFoundError("The catalogue has no identity yet: start the registry with `edge-registry up` first.")
    steps = {schema.name: step for schema, _, step in sources}
    return Snapshot(registry_id=identity.registry_id, epoch=identity.epoch, steps=steps, rows=rows)


def file_name(schema: Schema) -> str:
    """The file of a backup that holds these tables."""
    return CATALOGUE_NAME if schema is CATALOGUE else TELEMETRY_NAME


def open_copy(path: Path) -> Database:
    """A database in a SQLite file of ours."""
    return Database(f"sqlite:///{path}")


def settle(path: Path) -> None:
    """Make one file of a database that nobody has open, without a journal beside it: so it can be copied and read."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")


def _existing(url: str) -> Database:
    database = Database(url)
    if database.is_sqlite and not Path(database.url.database or "").is_file():
        raise NotFoundError(
            f"There is no registry at {database.url.database}: give the data folder and the settings that it runs with."
        )
    return database


def _require_today(connection: sa.Connection, schema: Schema) -> str:
    step, today = known_step(connection, schema), schema.steps().get_current_head()
    if step is None:
        raise NotFoundError(f"The {schema.name} database is empty: start the registry with `edge-registry up` first.")
    if step != today:
        raise BackupError(
            f"The {schema.name} database stands at step {step}, and this release works with step {today}: back it up "
            "with the release that runs there, or start it with this one first."
        )
    return step


def _copy_into(path: Path, source: sa.Connection, schema: Schema, *, told: Told) -> dict[str, int]:
    path.touch(mode=0o600)
    copy = open_copy(path)
    counts: dict[str, int] = {}
    try:
        upgrade_schema(copy, schema)
        for table in schema.metadata.sorted_tables:
            with copy.write() as target:
                counts[table.name] = copy_table(source, target, table, told=told)
    finally:
        copy.close()
    settle(path)
    return counts
