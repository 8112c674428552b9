"""A database of any age becomes today's, whole or not at all."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from server.database import migrate, tables
from server.database.connect import Database
from server.database.migrate import CATALOGUE, TELEMETRY, DatabaseTooNewError, Schema, upgrade
from server.errors import DatabaseUnavailableError, SettingsError
from server.settings import RegistrySettings


@pytest.fixture
def settings(tmp_path: Path, new_database: Callable[[str], Database]) -> RegistrySettings:
    urls = {name: _url(new_database(name)) for name in ("registry", "telemetry")}
    return RegistrySettings(
        data_dir=tmp_path / "registry", database_url=urls["registry"], telemetry_url=urls["telemetry"]
    )


def _url(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


@pytest.mark.parametrize(("schema", "setting"), [(CATALOGUE, "database_url"), (TELEMETRY, "telemetry_url")])
def test_upgrade_empty_database_equals_tables(settings: RegistrySettings, schema: Schema, setting: str) -> None:
    upgrade(settings)
    database = Database(getattr(settings, setting))
    with database.read() as connection:
        options = {"version_table": schema.version_table, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, schema.metadata) == []
    database.close()


def test_upgrade_one_database_for_both_schemas_holds_both(settings: RegistrySettings) -> None:
    upgrade(settings.with_values(telemetry_url=settings.database_url))
    database = Database(settings.database_url)
    with database.read() as connection:
        found = set(sa.inspect(connection).get_table_names())
    database.close()
    assert found >= tables.catalogue.tables.keys() | tables.telemetry.tables.keys()


def test_upgrade_twice_keeps_the_identity_of_the_registry(settings: RegistrySettings) -> None:
    rows = []
    for _ in range(2):
        upgrade(settings)
        rows.append(_identities(settings))
    assert rows[0] == rows[1]
    assert len(rows[0]) == 1


def test_upgrade_by_several_at_once_makes_one_registry(settings: RegistrySettings) -> None:
    environment = {
        "SHOAL_DATA_DIR": str(settings.data_dir),
        "SHOAL_DATABASE_URL": settings.database_url,
        "SHOAL_TELEMETRY_URL": settings.telemetry_url,
    }
    processes = [
        subprocess.Popen([sys.executable, "-m", "server.database.migrate"], env=environment, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    assert [process.communicate(timeout=60)[1] for process in processes] == [b""] * 3
    assert [process.returncode for process in processes] == [0] * 3
    assert len(_identities(settings)) == 1


def _identities(settings: RegistrySettings) -> Sequence[sa.Row[Any]]:
    database = Database(settings.database_url)
    with database.read() as connection:
        rows = connection.execute(sa.select(tables.registry)).all()
    database.close()
    return rows


def test_upgrade_newer_database_refuses_and_changes_nothing(settings: RegistrySettings) -> None:
    upgrade(settings)
    database = Database(settings.database_url)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version_catalogue SET version_num = '9999'"))
    with pytest.raises(DatabaseTooNewError, match="newer release"):
        upgrade(settings)
    with database.read() as connection:
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version_catalogue")).scalars().all()
    database.close()
    assert found == ["9999"]


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


def test_upgrade_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseUnavailableError, match="database"):
        upgrade(RegistrySettings(data_dir=tmp_path))


def test_upgrade_unusable_url_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="database URL is not usable"):
        upgrade(RegistrySettings(data_dir=tmp_path, database_url="nonsense"))


def test_main_as_a_process_migrates_what_the_environment_names(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server.database.migrate"]
    subprocess.run(command, env={"SHOAL_DATA_DIR": str(tmp_path)}, check=True, timeout=60)
    assert (tmp_path / "registry.db").exists()
    assert (tmp_path / "telemetry.db").exists()
