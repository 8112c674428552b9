"""A database of any age becomes today's, whole or not at all."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from server.database import migrate, tables
from server.database.connect import Database
from server.database.migrate import CATALOGUE, TELEMETRY, DatabaseTooNewError, Schema, upgrade
from server.errors import DatabaseUnavailableError
from server.settings import RegistrySettings


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    return RegistrySettings(data_dir=tmp_path / "registry")


@pytest.mark.parametrize(("schema", "file"), [(CATALOGUE, "registry.db"), (TELEMETRY, "telemetry.db")])
def test_upgrade_empty_database_equals_tables(settings: RegistrySettings, schema: Schema, file: str) -> None:
    upgrade(settings)
    engine = sa.create_engine(f"sqlite:///{settings.data_dir / file}")
    with engine.connect() as connection:
        options = {"version_table": schema.version_table, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
    engine.dispose()


def test_upgrade_twice_keeps_the_identity_of_the_registry(settings: RegistrySettings) -> None:
    rows = []
    for _ in range(2):
        upgrade(settings)
        database = Database(settings.database_url)
        with database.read() as connection:
            rows.append(connection.execute(sa.select(tables.registry)).all())
        database.close()
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1


def test_upgrade_newer_database_refuses_and_changes_nothing(settings: RegistrySettings) -> None:
    upgrade(settings)
    path = settings.data_dir / "registry.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version_catalogue SET version_num = '9999'")
    connection.close()
    with pytest.raises(DatabaseTooNewError, match="newer release"):
        upgrade(settings)
    reread = sqlite3.connect(path)
    assert reread.execute("SELECT version_num FROM alembic_version_catalogue").fetchall() == [("9999",)]
    reread.close()


def test_upgrade_step_that_fails_leaves_the_database_as_it_was(
    settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "steps" / "catalogue"
    folder.mkdir(parents=True)
    original = migrate.MIGRATIONS / "catalogue" / "r0001_first_light.py"
    (folder / "r0001_first_light.py").write_text(original.read_text() + '\n    raise RuntimeError("power cut")\n')
    monkeypatch.setattr(migrate, "MIGRATIONS", tmp_path / "steps")
    with pytest.raises(RuntimeError, match="power cut"):
        upgrade(settings)
    monkeypatch.undo()
    upgrade(settings)


def test_upgrade_file_that_is_no_database_says_so(settings: RegistrySettings) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / "registry.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseUnavailableError, match="database"):
        upgrade(settings)


@pytest.mark.parametrize("url", ["nonsense", "nosuchdb://host/name"])
def test_upgrade_unusable_url_is_one_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(DatabaseUnavailableError, match="database URL is not usable"):
        upgrade(RegistrySettings(data_dir=tmp_path, database_url=url))


def test_main_as_a_process_migrates_what_the_environment_names(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server.database.migrate"]
    subprocess.run(command, env={"SHOAL_DATA_DIR": str(tmp_path)}, check=True, timeout=60)
    assert (tmp_path / "registry.db").exists()
    assert (tmp_path / "telemetry.db").exists()
