"""What a backup holds, and what is refused or cut off, on real databases and a real store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from server.backup import take
from server.backup.check import check_backup
from server.backup.document import DOCUMENT_NAME, FORMAT, BackupError, object_path, read_document
from server.backup.objects import fetch_objects
from server.backup.restore import restore_backup
from server.backup.snapshot import copy_databases
from server.database import tables
from server.database.migrate import DatabaseTooNewError
from server.errors import NotFoundError
from server.retention.names import named_objects
from tests.server.backup.conftest import EPOCH, TAKEN_AT, report, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.server.backup.conftest import Registry


def test_backup_holds_every_row_and_every_named_object(registry: Registry, tmp_path: Path) -> None:
    registry.put("nobody names this one")
    document = registry.back_up(tmp_path / "backup")
    with registry.catalogue.read() as connection:
        assert set(document.objects) == named_objects(connection, registry.store, retired_before=0.0)
    assert len(document.objects) == 4
    assert document == read_document(tmp_path / "backup") == check_backup(tmp_path / "backup", told=silent)
    assert (document.epoch, document.taken_at, document.missing_objects) == (EPOCH, TAKEN_AT, ())
    for metadata in (tables.catalogue, tables.telemetry):
        for table in metadata.sorted_tables:
            assert document.rows[table.name] == len(registry.rows(table)), table.name
    lying = [path for path in (tmp_path / "backup").rglob("*") if path.is_file()]
    assert [path for path in (tmp_path / "backup", *lying) if path.stat().st_mode & 0o077] == []


@pytest.mark.parametrize("on", ["sqlite", "postgresql"])
def test_backup_tells_of_one_moment_while_others_write(
    registry: Registry,
    make_registry: Callable[..., Registry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on: str,
) -> None:
    if on == "postgresql":
        registry.back_up(tmp_path / "for postgresql")
        registry = make_registry("old", on=on, name="other")
        restore_backup(registry.settings, tmp_path / "for postgresql", clock=lambda: TAKEN_AT, told=silent)

    def copy_while_others_write(*arguments: object, **named: object) -> object:
        def write(stage: str, _done: int, _of: int) -> None:
            if stage == "devices":  # the first table but few: reports and decisions come later
                registry.insert(tables.reports, **report(99))
                registry.insert(tables.decisions, rollout_id="open", at=2.0, action="late", sentence="s", numbers={})

        return copy_databases(*arguments, **{**named, "told": write})  # type: ignore[arg-type]

    monkeypatch.setattr(take, "copy_databases", copy_while_others_write)
    document = registry.back_up(tmp_path / "backup")
    assert (len(registry.rows(tables.reports)), len(registry.rows(tables.decisions))) == (4, 3)
    assert (document.rows["reports"], document.rows["decisions"]) == (3, 2)


def test_backup_when_an_object_was_swept_meanwhile_takes_the_snapshot_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[set[str]] = []

    def sweep_then_fetch(store: object, names: Iterable[str], *arguments: object, **named: object) -> object:
        taken.append(set(names))
        if len(taken) == 1:  # a build has replaced what the version named, and a sweep took the old file away
            (old,) = {row["source_sha256"] for row in registry.rows(tables.model_versions)}
            with registry.catalogue.write() as connection:
                connection.execute(sa.update(tables.model_versions).values(source_sha256=registry.put("new")))
            registry.store.delete(old)
        return fetch_objects(store, names, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(take, "fetch_objects", sweep_then_fetch)
    document = registry.back_up(tmp_path / "backup")
    assert len(taken) == 2
    assert document.missing_objects == ()
    assert set(document.objects) == taken[1] != taken[0]
    lying = {path.name for path in (tmp_path / "backup" / "objects").glob("*/*")}
    assert lying == set(document.objects)


def test_backup_of_a_registry_that_has_lost_an_object_says_so_and_keeps_the_rest(
    registry: Registry, tmp_path: Path
) -> None:
    lost = registry.rows(tables.model_versions)[0]["source_sha256"]
    registry.store.delete(lost)
    document = registry.back_up(tmp_path / "backup")
    assert document.missing_objects == (lost,)
    assert len(document.objects) == 3
    assert check_backup(tmp_path / "backup", told=silent) == document


def test_backup_into_a_folder_with_anything_in_it_is_refused_and_changes_nothing(
    registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "notes").write_text("mine")
    with pytest.raises(BackupError, match="is not empty: a backup gets a folder of its own"):
        registry.back_up(tmp_path / "backup")
    assert [path.name for path in (tmp_path / "backup").iterdir()] == ["notes"]


def test_backup_that_was_cut_off_is_none(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(take, "fetch_objects", cut)
    with pytest.raises(KeyboardInterrupt):
        registry.back_up(tmp_path / "backup")
    with pytest.raises(BackupError, match=r"was cut off \(it has no backup.json\)"):
        read_document(tmp_path / "backup")


def test_backup_of_no_registry_is_refused_and_makes_none(tmp_path: Path, registry: Registry) -> None:
    settings = registry.settings.with_values(database_url=f"sqlite:///{tmp_path}/nothing.db")
    with pytest.raises(NotFoundError, match=r"There is no registry at .*nothing.db"):
        take.take_backup(settings, tmp_path / "backup", clock=lambda: TAKEN_AT, told=silent)
    assert not (tmp_path / "nothing.db").exists()


def test_backup_of_a_database_at_another_step_is_refused(
    make_registry: Callable[..., Registry], registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"There is no registry|The catalogue database is empty"):
        make_registry("new").back_up(tmp_path / "one")
    step = sa.table("alembic_version_catalogue", sa.column("version_num"))
    for number, error, said in (("0001", BackupError, "stands at step 0001"), ("9", DatabaseTooNewError, "newer")):
        with registry.catalogue.write() as connection:
            connection.execute(sa.update(step).values(version_num=number))
        with pytest.raises(error, match=said):
            registry.back_up(tmp_path / f"at-{number}")


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_check_of_a_damaged_backup_names_the_file(registry: Registry, tmp_path: Path, damage: str) -> None:
    document = registry.back_up(tmp_path / "backup")
    path = object_path(tmp_path / "backup", min(document.objects))
    content = path.read_bytes()
    match damage:
        case "flip":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut":
            path.write_bytes(content[:-1])
        case _:
            path.unlink()
    with pytest.raises(BackupError, match=min(document.objects)):
        check_backup(tmp_path / "backup", told=silent)


def test_check_leaves_the_backup_as_it_is(registry: Registry, tmp_path: Path) -> None:
    registry.back_up(tmp_path / "backup")
    before = {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()}
    check_backup(tmp_path / "backup", told=silent)
    assert {path: path.read_bytes() for path in (tmp_path / "backup").rglob("*") if path.is_file()} == before
    with closing(sqlite3.connect(f"file:{tmp_path}/backup/catalogue.db?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged, or not of this release"),
        (b'{"format": 1}', "is damaged, or not of this release"),
        (None, "is no backup"),
    ],
)
def test_document_that_is_none_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / DOCUMENT_NAME).write_bytes(content)
    with pytest.raises(BackupError, match=said):
        read_document(tmp_path)


def test_document_of_a_later_format_or_with_a_path_in_it_is_refused(registry: Registry, tmp_path: Path) -> None:
    document = registry.back_up(tmp_path / "backup")
    path = tmp_path / "backup" / DOCUMENT_NAME
    path.write_text(document.model_copy(update={"format": FORMAT + 1}).model_dump_json())
    with pytest.raises(BackupError, match=r"has format 2, .* install Shoal"):
        read_document(tmp_path / "backup")
    files = {"../../outside": document.files["catalogue.db"]}
    path.write_text(document.model_copy(update={"files": files}).model_dump_json())
    with pytest.raises(BackupError, match="is damaged"):
        read_document(tmp_path / "backup")


def test_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="There is no folder"):
        read_document(tmp_path / "nowhere")
