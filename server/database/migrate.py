"""Bring a registry's databases to the tables of this code, or refuse: `upgrade(settings)`, before any process starts.

Alembic's steps are package data and its configuration is built here, so a user needs no `alembic.ini`. Each database
is brought up in one transaction: a crash in the middle leaves it as it was.
"""

from __future__ import annotations

import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError

from server.backup.mark import refuse_half_restored
from server.database import tables
from server.database.connect import Database
from server.errors import DatabaseUnavailableError, RegistryError
from server.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.settings import RegistrySettings

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class DatabaseTooNewError(RegistryError):
    """A newer release has migrated this database: this code would misread it."""

    code = "database_too_new"


@dataclass(frozen=True, slots=True)
class Schema:
    """One set of tables with its own steps and its own version table."""

    name: str
    metadata: sa.MetaData

    @property
    def version_table(self) -> str:
        """Where the step that this database has reached is noted."""
        return f"alembic_version_{self.name}"

    def steps(self) -> ScriptDirectory:
        """Alembic's view of the steps."""
        folder = MIGRATIONS / self.name
        return ScriptDirectory(str(folder), version_locations=[str(folder)])


CATALOGUE: Final = Schema("catalogue", tables.catalogue)
TELEMETRY: Final = Schema("telemetry", tables.telemetry)


def upgrade(settings: RegistrySettings) -> None:
    """Create or migrate both databases, and give a new registry its identity. Doing it again changes nothing.

    Raises:
        DatabaseTooNewError: a newer release was here before.
        DatabaseUnavailableError: a database cannot be opened or written.
        RestoreUnfinishedError: a restore into the data folder was cut off.
        SettingsError: a URL of the settings is not usable.
    """
    refuse_half_restored(settings.data_dir)
    for schema, url in ((CATALOGUE, settings.database_url), (TELEMETRY, settings.telemetry_url)):
        database = open_database(url)
        try:
            upgrade_schema(database, schema)
            if schema is CATALOGUE:
                _identify(database)
        finally:
            database.close()


def upgrade_schema(database: Database, schema: Schema) -> None:
    """Take every step that is missing, in one transaction.

    Raises:
        DatabaseTooNewError: the database stands at a step that this code does not know.
    """
    steps = schema.steps()
    with database.write() as connection:
        known_step(connection, schema)
        environment = EnvironmentContext(Config(), steps, fn=_steps_to_head(steps), destination_rev="head")
        with environment:
            environment.configure(
                connection=connection,
                target_metadata=schema.metadata,
                version_table=schema.version_table,
                render_as_batch=True,
            )
            environment.run_migrations()


def current_step(connection: sa.Connection, schema: Schema) -> str | None:
    """The step that a database has reached; None: it is empty."""
    context = MigrationContext.configure(connection, opts={"version_table": schema.version_table})
    return context.get_current_revision()


def _steps_to_head(steps: ScriptDirectory) -> Callable[[Any, Any], Any]:
    def plan(revision: Any, _context: Any) -> Any:  # noqa: ANN401  alembic's own types, which it does not publish
        return steps._upgrade_revs("head", revision)  # noqa: SLF001  what alembic's own `upgrade` command calls

    return plan


def known_step(connection: sa.Connection, schema: Schema) -> str | None:
    """The step that a database has reached; None: it is empty.

    Raises:
        DatabaseTooNewError: this code does not know the step.
    """
    step = current_step(connection, schema)
    if step is None:
        return None
    try:
        schema.steps().get_revision(step)
    except CommandError as exc:
        raise DatabaseTooNewError(
            f"The {schema.name} database was migrated by a newer release (step {step}): install that release, "
            "or restore the backup from before it."
        ) from exc
    return step


def _identify(database: Database) -> None:
    """One row says which registry this is; its epoch is the time, so that a registry made anew counts as later."""
    now = time.time()
    with database.write() as connection:
        if connection.execute(sa.select(tables.registry.c.registry_id)).first() is None:
            row = {"registry_id": secrets.token_hex(16), "epoch": int(now), "created_at": now}
            connection.execute(sa.insert(tables.registry).values(row))


def open_database(url: str) -> Database:
    """Open a database, and make the folder of a SQLite file.

    Raises:
        DatabaseUnavailableError: the folder can't be made.
        SettingsError: the URL is not usable.
    """
    database = Database(url)
    try:
        if database.is_sqlite and database.url.database:
            Path(database.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise DatabaseUnavailableError(f"The folder of the database can't be made: {exc.strerror}.") from exc
    return database


def main() -> int:
    """One-shot process of `up`: migrate what the settings name."""
    try:
        upgrade(load_settings())
    except RegistryError as exc:
        sys.stderr.write(f"{exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
