"""From a backup to a registry: into an empty data folder and empty databases, all or nothing.

The order makes it safe to be killed anywhere. A mark keeps every registry out of the folder; then come objects and
telemetry, which nobody finds without a catalogue; then the catalogue, in one transaction; then the mark goes. Run again
with the same backup it begins anew, or sees by the epoch in the catalogue that only the end is missing.
"""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from server.backup.check import require_whole
from server.backup.document import STORE_SECRETS, TRUST_SECRETS, BackupDocument, BackupError, read_document
from server.backup.mark import Mark, read_mark, remove_mark, write_mark
from server.backup.new_epoch import DROPPED, NewEpoch, epoch_after
from server.backup.objects import put_objects
from server.backup.rows import copy_table, count_on, is_filled
from server.backup.snapshot import file_name, open_copy
from server.backup.take import ALWAYS_THERE
from server.database import tables
from server.database.migrate import CATALOGUE, TELEMETRY, Schema, open_database, upgrade_schema
from server.durable import replace_file
from server.rollouts.reading import OPEN_STATES
from server.settings import CONFIG_FILE_NAME
from server.stack.alone import objects_alone
from server.stack.lock import LOCK_NAME, DataDirLock
from server.stack.state import write_state
from server.storage import S3ObjectStore
from server.storage.prepare import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from server.backup.progress import Told
    from server.database.connect import Database
    from server.settings import RegistrySettings

STAGING_NAME: Final = "restoring"
# What may lie in a data folder before a registry is restored into it.
_HARMLESS: Final = ALWAYS_THERE | {CONFIG_FILE_NAME, LOCK_NAME}


def restore_backup(
    settings: RegistrySettings, folder: Path, *, clock: Callable[[], float], told: Told
) -> BackupDocument:
    """Make a registry of a backup, in a new epoch.

    Args:
        settings: of the new registry; addresses that are set are used, the others are embedded.
        folder: the backup; it is only read.
        clock: seconds since 1970.
        told: how far it is.

    Raises:
        AlreadyRunningError: an `up` holds the data folder.
        BackupError: the folder is no backup, or damaged; the data folder or a database is not empty.
        DatabaseTooNewError: the backup is of a newer release.
        RegistryError: a database or the object store can't be written; says which.
    """
    document = read_document(folder)
    try:
        with DataDirLock(settings.data_dir):
            mark = _begin(settings, document, now=clock())
            _restore(settings, folder, document, mark, told=told)
            if document.stack is not None:
                write_state(settings.data_dir, document.stack)
            shutil.rmtree(settings.data_dir / STAGING_NAME)
            remove_mark(settings.data_dir)
    except OSError as exc:
        raise BackupError(f"The backup can't be restored into {settings.data_dir}: {exc.strerror}.") from exc
    except sa.exc.SQLAlchemyError as exc:
        reason = str(getattr(exc, "orig", exc)).splitlines()[0]
        raise BackupError(f"The database does not take a row of the backup: {reason}.") from exc
    return document


def _begin(settings: RegistrySettings, document: BackupDocument, *, now: float) -> Mark:
    """The mark of this restore: a new one where everything is empty, the old one where the same was cut off."""
    mark = read_mark(settings.data_dir)
    if mark is not None:
        if (mark.registry_id, mark.taken_at) != (document.registry_id, document.taken_at):
            raise BackupError(
                f"A restore of another backup into {settings.data_dir} was cut off: finish that one, or restore into a "
                "new folder."
            )
        return mark
    if {path.name for path in settings.data_dir.iterdir()} - _HARMLESS:
        raise BackupError(f"{settings.data_dir} is not empty: restore into a new folder, with --data-dir.")
    for schema, url in ((CATALOGUE, settings.database_url), (TELEMETRY, settings.telemetry_url)):
        with _opened(url) as database:
            if not _is_absent(database):
                with database.read() as connection:
                    _require_empty(connection, schema)
    epoch = epoch_after(document.epoch, now=now)
    mark = Mark(registry_id=document.registry_id, taken_at=document.taken_at, epoch=epoch, restored_at=now)
    write_mark(settings.data_dir, mark)
    return mark


def _restore(settings: RegistrySettings, folder: Path, document: BackupDocument, mark: Mark, *, told: Told) -> None:
    staging = settings.data_dir / STAGING_NAME
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(mode=0o700)
    with ExitStack() as stack:
        # first what may be refused: a damaged copy, and one of a newer release
        catalogue, telemetry = (
            stack.enter_context(_staged(folder, staging, document, schema)) for schema in (CATALOGUE, TELEMETRY)
        )
        target = stack.enter_context(_opened(settings.database_url))
        if not _is_absent(target) and _has_epoch(target, mark):
            return  # only the end is missing
        _put_secrets(settings, folder, document, TRUST_SECRETS)
        _put_objects(settings, folder, document, told=told)
        with _opened(settings.telemetry_url) as other:
            _fill_telemetry(telemetry, other, told=told)
        _fill_catalogue(catalogue, target, mark, told=told)


def _put_secrets(settings: RegistrySettings, folder: Path, document: BackupDocument, names: Mapping[str, str]) -> None:
    for name, own_name in names.items():
        if name in document.files:
            require_whole(folder / name, document.files[name])
            target = settings.data_dir / own_name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_file(target, (folder / name).read_bytes())


def _put_objects(settings: RegistrySettings, folder: Path, document: BackupDocument, *, told: Told) -> None:
    with ExitStack() as stack:
        if settings.s3_endpoint is None:
            _put_secrets(settings, folder, document, STORE_SECRETS)
            settings = stack.enter_context(objects_alone(settings))
        store = S3ObjectStore.from_settings(settings)
        stack.callback(store.close)
        prepare(store)
        put_objects(store, document.objects, folder, told=told)


def _fill_telemetry(source: Database, target: Database, *, told: Told) -> None:
    upgrade_schema(target, TELEMETRY)
    with source.read() as rows, target.write() as connection:
        if _same_counts(rows, connection, TELEMETRY):
            return  # by a restore that was cut off later: it filled all of it, or nothing
        _require_empty(connection, TELEMETRY)
        for table in TELEMETRY.metadata.sorted_tables:
            copy_table(rows, connection, table, told=told)


def _fill_catalogue(source: Database, target: Database, mark: Mark, *, told: Told) -> None:
    upgrade_schema(target, CATALOGUE)
    states = tables.rollout_states
    with source.read() as rows, target.write() as connection:
        _require_empty(connection, CATALOGUE)
        is_open = states.c.state.in_([state.value for state in OPEN_STATES])
        new = NewEpoch(
            epoch=mark.epoch,
            gap_s=mark.restored_at - mark.taken_at,
            open_rollouts=frozenset(rows.execute(sa.select(states.c.rollout_id).where(is_open)).scalars()),
        )
        for table in CATALOGUE.metadata.sorted_tables:
            if table.name not in DROPPED:
                copy_table(rows, connection, table, change=new.row, told=told)
        count_on(connection, CATALOGUE.metadata)


def _require_empty(connection: sa.Connection, schema: Schema) -> None:
    if is_filled(connection, schema.metadata):
        raise BackupError(f"The {schema.name} database is not empty: restore into a new one.")


def _same_counts(one: sa.Connection, other: sa.Connection, schema: Schema) -> bool:
    counts = [sa.select(sa.func.count()).select_from(table) for table in schema.metadata.sorted_tables]
    return all(one.execute(count).scalar() == other.execute(count).scalar() for count in counts)


def _has_epoch(database: Database, mark: Mark) -> bool:
    with database.read() as connection:
        if not sa.inspect(connection).has_table(tables.registry.name):
            return False
        row = connection.execute(sa.select(tables.registry)).first()
        return row is not None and (row.registry_id, row.epoch) == (mark.registry_id, mark.epoch)


def _is_absent(database: Database) -> bool:
    """Whether there is not even a file: asking SQLite would make one."""
    return database.is_sqlite and not Path(database.url.database or "").exists()


@contextmanager
def _staged(folder: Path, staging: Path, document: BackupDocument, schema: Schema) -> Iterator[Database]:
    """A copy of a database of the backup, with the tables of this release; the backup itself is not touched."""
    name = file_name(schema)
    if name not in document.files:
        raise BackupError(f"The backup in {folder} lacks {name}: restore another one.")
    shutil.copyfile(folder / name, staging / name)
    require_whole(staging / name, document.files[name])
    database = open_copy(staging / name)
    try:
        upgrade_schema(database, schema)
        yield database
    finally:
        database.close()


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = open_database(url)
    try:
        yield database
    finally:
        database.close()
