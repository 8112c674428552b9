"""From a backup to a registry, from either database to either, and what a restore that was killed leaves."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from server.backup import restore
from server.backup.document import CATALOGUE_NAME, BackupError, FileEntry, object_path, read_document, write_document
from server.backup.mark import MARK_NAME, RestoreUnfinishedError
from server.backup.restore import restore_backup
from server.database import tables
from server.database.migrate import CATALOGUE, upgrade
from server.ingest.store import IngestStore
from server.jobs.claims import claim
from server.stack.errors import AlreadyRunningError
from server.stack.lock import DataDirLock
from server.stack.state import stack_state
from server.stack.up import run_stack
from server.trust.folder import TrustFolder
from tests.server.backup.conftest import EPOCH, TAKEN_AT, report, silent

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from server.backup.document import BackupDocument
    from tests.server.backup.conftest import Registry

LATER = TAKEN_AT + 86_400.0
# The first calls of a function are let through, the next one is where the process ends.
KILLED_AT = (
    ("put_objects", 0),
    ("_fill_telemetry", 0),
    ("copy_table", 1),
    ("_fill_catalogue", 0),
    ("copy_table", 9),
    ("write_state", 0),
    ("remove_mark", 0),
)
KILLED = """
import os, signal, sys
from pathlib import Path
from server.backup import restore
from server.settings import load_settings
place, calls, folder, now = sys.argv[1:]
act, left = getattr(restore, place), int(calls)
def kill_later(*arguments, **named):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return act(*arguments, **named)
setattr(restore, place, kill_later)
restore.restore_backup(load_settings(), Path(folder), clock=lambda: float(now), told=lambda *_: None)
"""
CHANGED = {"registry", "job_runs", "deployments", "rollout_states", "leases", "heartbeats"}


@pytest.fixture
def empty(make_registry: Callable[..., Registry]) -> Registry:
    """Where nothing is yet."""
    return make_registry("new")


def restored(empty: Registry, backup: Path, *, now: float = LATER) -> BackupDocument:
    return restore_backup(empty.settings, backup, clock=lambda: now, told=silent)


def assert_same_rows(made: Registry, registry: Registry) -> None:
    for metadata in (tables.catalogue, tables.telemetry):
        for table in metadata.sorted_tables:
            if table.name not in CHANGED:
                assert made.rows(table) == registry.rows(table), table.name


def one(made: Registry, table: sa.Table, **key: str) -> dict[str, Any]:
    (found,) = [row for row in made.rows(table) if key.items() <= row.items()]
    return found


@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
def test_restore_brings_every_row_and_object_back(
    registry: Registry, backup: Path, make_registry: Callable[..., Registry], on: str
) -> None:
    made = make_registry("new", on=on)
    document = restored(made, backup)
    assert_same_rows(made, registry)
    for sha256, size_bytes in document.objects.items():
        assert len(made.store.get_bytes(sha256)) == size_bytes
    upgrade(made.settings)  # as `up` does: nothing is left to be done
    assert len(made.rows(tables.registry)) == 1


def test_backup_of_postgresql_becomes_a_registry_on_sqlite(
    registry: Registry, backup: Path, make_registry: Callable[..., Registry], tmp_path: Path
) -> None:
    between = make_registry("new", on="postgresql", name="between")
    restored(between, backup)
    between.back_up(tmp_path / "second")
    made = make_registry("new")
    restored(made, tmp_path / "second", now=LATER + 1)
    assert_same_rows(made, registry)
    assert made.rows(tables.registry)[0]["epoch"] == LATER + 1


def test_restore_begins_a_new_epoch_without_who_was_at_work(backup: Path, empty: Registry) -> None:
    restored(empty, backup)
    (identity,) = empty.rows(tables.registry)
    assert identity["epoch"] == LATER
    assert identity["registry_id"] == read_document(backup).registry_id
    assert empty.rows(tables.leases) == empty.rows(tables.heartbeats) == []


def test_restore_with_a_clock_of_1970_still_begins_a_later_epoch(backup: Path, empty: Registry) -> None:
    restored(empty, backup, now=10.0)
    assert empty.rows(tables.registry)[0]["epoch"] == EPOCH + 1


def test_job_that_ran_is_queued_anew_and_a_worker_takes_it(backup: Path, empty: Registry) -> None:
    restored(empty, backup)
    assert one(empty, tables.job_runs, job_id="done")["state"] == "done"
    ran = one(empty, tables.job_runs, job_id="ran")
    assert (ran["state"], ran["attempt"], ran["lease_until"]) == ("queued", 1, 0.0)
    taken = claim(empty.catalogue, worker="new", now=LATER, lease_s=30.0)
    assert taken is not None
    assert (taken.job_id, taken.attempt) == ("ran", 2)


def test_time_between_backup_and_restore_is_no_silence_of_a_rollout_under_way(
    registry: Registry, backup: Path, empty: Registry
) -> None:
    restored(empty, backup)
    gap_s = LATER - TAKEN_AT
    for rollout_id, moved_s in (("open", gap_s), ("closed", 0.0)):
        before, after = (one(made, tables.deployments, rollout_id=rollout_id) for made in (registry, empty))
        for name in ("opened_at", "updated_at"):
            assert after[name] == before[name] + moved_s
        assert after["running_at"] is None


@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
def test_numbers_that_the_database_gives_out_go_on(
    backup: Path, make_registry: Callable[..., Registry], on: str
) -> None:
    empty = make_registry("new", on=on)
    restored(empty, backup)
    before = {row["decision_id"] for row in empty.rows(tables.decisions)}
    empty.insert(tables.decisions, rollout_id="open", at=2.0, action="new", sentence="s", numbers={})
    new = {row["decision_id"] for row in empty.rows(tables.decisions)} - before
    assert min(new) > max(before)


def test_report_that_is_in_the_backup_and_comes_again_is_counted_once(backup: Path, empty: Registry) -> None:
    restored(empty, backup)
    store = IngestStore(empty.catalogue, empty.telemetry)
    store._insert_reports([report(2, received_at=LATER), report(3, received_at=LATER)])
    assert [row["sequence"] for row in empty.rows(tables.reports)] == [0, 1, 2, 3]


def test_ports_that_devices_know_are_kept(backup: Path, empty: Registry) -> None:
    restored(empty, backup)
    state = stack_state(empty.settings.data_dir)
    assert state is not None
    assert state.ports == {"api": 20001, "mqtt": 20002}
    assert (state.host, state.is_running) == ("registry.example", False)
    left = {path.name for path in empty.settings.data_dir.iterdir()}
    assert left == {"stack.json", "up.lock"}


def written_by_release_at(step: str, path: Path) -> None:
    """Put the rows of a catalogue into the tables of a release that knew the steps up to this one."""
    old = path.with_suffix(".old")
    steps = CATALOGUE.steps()
    engine = sa.create_engine(f"sqlite:///{old}")
    with engine.begin() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": CATALOGUE.version_table, "render_as_batch": True}
        )
        with Operations.context(context):
            for script in reversed(list(steps.walk_revisions("base", step))):
                script.module.upgrade()
        context.stamp(steps, step)
        known = {
            table: {column["name"] for column in columns}
            for (_, table), columns in sa.inspect(connection).get_multi_columns().items()
        }
    engine.dispose()
    with closing(sqlite3.connect(old)) as catalogue, catalogue:
        catalogue.execute("ATTACH ? AS new", (str(path),))
        for table in tables.catalogue.sorted_tables:
            if kept := ", ".join(column.name for column in table.columns if column.name in known.get(table.name, ())):
                catalogue.execute(f"INSERT INTO main.{table.name} ({kept}) SELECT {kept} FROM new.{table.name}")
    old.replace(path)


def test_backup_of_an_older_release_is_brought_up(registry: Registry, backup: Path, empty: Registry) -> None:
    written_by_release_at("0009", backup / CATALOGUE_NAME)
    content = (backup / CATALOGUE_NAME).read_bytes()
    entry = FileEntry(size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    document = read_document(backup)
    write_document(backup, document.model_copy(update={"files": {**document.files, CATALOGUE_NAME: entry}}))
    restored(empty, backup)
    assert_same_rows(empty, registry)
    assert one(empty, tables.rollout_states, rollout_id="closed") == one(
        registry, tables.rollout_states, rollout_id="closed"
    )


@pytest.mark.parametrize("table", [tables.profiles, tables.reports], ids=["catalogue", "telemetry"])
def test_restore_into_a_database_with_rows_is_refused_and_changes_nothing(
    backup: Path, empty: Registry, table: sa.Table
) -> None:
    upgrade(empty.settings)
    with empty.catalogue.write() as connection:
        connection.execute(sa.delete(tables.registry))
    values = report(9) if table is tables.reports else {"name": "p", "document": {}, "created_at": 1.0}
    empty.insert(table, **values)
    name = "telemetry" if table is tables.reports else "catalogue"
    with pytest.raises(BackupError, match=f"The {name} database is not empty"):
        restored(empty, backup)
    assert len(empty.rows(table)) == 1
    assert not (empty.settings.data_dir / MARK_NAME).exists()


def test_restore_into_a_folder_with_something_in_it_is_refused(backup: Path, empty: Registry) -> None:
    empty.settings.data_dir.mkdir()
    (empty.settings.data_dir / "stack.json").write_text("{}")
    with pytest.raises(BackupError, match="is not empty: restore into a new folder"):
        restored(empty, backup)


def test_restore_under_a_running_up_is_refused(backup: Path, empty: Registry) -> None:
    with DataDirLock(empty.settings.data_dir), pytest.raises(AlreadyRunningError):
        restored(empty, backup)


def test_restore_killed_again_and_again_keeps_registries_out_until_it_is_done(
    registry: Registry, backup: Path, empty: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    """With SIGKILL, each time a little later: between its steps, and in the middle of each transaction."""
    settings = empty.settings
    for number, (place, calls) in enumerate(KILLED_AT):
        environment = {**os.environ, **settings.child_environment()}
        arguments = [place, str(calls), str(backup), str(LATER + number)]
        killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=environment, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL, (place, calls)
        with pytest.raises(RestoreUnfinishedError, match="was cut off"):
            upgrade(settings)
    assert run_stack(settings) == 1
    assert "run `edge-registry restore` again" in capsys.readouterr().err
    restored(empty, backup, now=LATER + 50)
    assert empty.rows(tables.registry)[0]["epoch"] == LATER, "the epoch that was begun with"
    assert_same_rows(empty, registry)
    upgrade(settings)


def test_restore_that_was_cut_off_is_not_finished_with_another_backup(
    registry: Registry, backup: Path, empty: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restore, "put_objects", cut)
        with pytest.raises(KeyboardInterrupt):
            restored(empty, backup)
    registry.back_up(tmp_path / "other", now=TAKEN_AT + 1)
    with pytest.raises(BackupError, match=r"A restore of another backup .* was cut off"):
        restored(empty, tmp_path / "other")


def test_damaged_object_is_refused_and_nothing_counts(backup: Path, empty: Registry) -> None:
    sha256 = min(read_document(backup).objects)
    object_path(backup, sha256).write_bytes(b"something else")
    with pytest.raises(BackupError, match=f"The object {sha256} of the backup is damaged"):
        restored(empty, backup)
    with pytest.raises(RestoreUnfinishedError):
        upgrade(empty.settings)


def test_damaged_database_is_refused(backup: Path, empty: Registry) -> None:
    with (backup / CATALOGUE_NAME).open("r+b") as file:
        file.seek(200)
        file.write(b"\xff")
    with pytest.raises(BackupError, match=r"catalogue\.db is not what was written"):
        restored(empty, backup)


def test_restore_leaves_the_backup_as_it_is(backup: Path, empty: Registry) -> None:
    before = {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    restored(empty, backup)
    assert {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()} == before


def test_authority_that_devices_trust_is_restored_with_its_keys(
    registry: Registry, empty: Registry, tmp_path: Path
) -> None:
    trust = TrustFolder(registry.settings.trust_dir)
    fingerprint = trust.make("old", now=TAKEN_AT)
    registry.back_up(tmp_path / "with-trust")
    restored(empty, tmp_path / "with-trust")
    again = TrustFolder(empty.settings.trust_dir)
    assert again.root_fingerprint() == fingerprint
    assert again.authority().intermediate.key_pem == trust.authority().intermediate.key_pem
    assert again.keep_current(host_names=["localhost"], now=TAKEN_AT)
    assert stat.S_IMODE(again.paths.folder.stat().st_mode) == 0o700
