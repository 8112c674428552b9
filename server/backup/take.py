"""Taking a backup, while everything runs: one moment of both databases, then the objects that it names."""

from __future__ import annotations

import hashlib
import os
import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from server.backup.document import (
    CATALOGUE_NAME,
    STORE_SECRETS,
    TELEMETRY_NAME,
    TRUST_SECRETS,
    BackupDocument,
    BackupError,
    FileEntry,
    write_document,
)
from server.backup.objects import drop_others, fetch_objects, patiently
from server.backup.snapshot import copy_databases, open_copy, settle
from server.retention.merging import DAY_S
from server.retention.names import named_objects
from server.stack.alone import reachable_objects
from server.stack.state import StackState, stack_state
from server.storage import S3ObjectStore

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from server.backup.progress import Told
    from server.backup.snapshot import Snapshot
    from server.settings import RegistrySettings
    from server.storage import ObjectStore

SNAPSHOTS: Final = 3  # a sweep may take away what one names; that it takes away of three is no sweep
ADVERTISED: Final = frozenset({"api", "mqtt", "s3"})  # ports that devices may know
ALWAYS_THERE: Final = frozenset({"lost+found"})  # where a file system begins


def take_backup(settings: RegistrySettings, folder: Path, *, clock: Callable[[], float], told: Told) -> BackupDocument:
    """Copy a registry into an empty folder; cut off, it leaves one that nothing takes for a backup.

    Args:
        settings: those of the registry.
        folder: made if it is not there.
        clock: seconds since 1970.
        told: how far it is.

    Raises:
        BackupError: the folder is not empty, or can't be written.
        RegistryError: the registry can't be read; says what of it.
    """
    try:
        _make_folder(folder)
        with reachable_objects(settings) as reachable:
            store = S3ObjectStore.from_settings(reachable)
            try:
                return _take(settings, store, folder, clock=clock, told=told)
            finally:
                store.close()
    except OSError as exc:
        raise BackupError(f"The backup can't be written into {folder}: {exc.strerror}.") from exc


def _take(
    settings: RegistrySettings, store: ObjectStore, folder: Path, *, clock: Callable[[], float], told: Told
) -> BackupDocument:
    for _ in range(SNAPSHOTS):
        taken_at = clock()
        retired_before = taken_at - settings.objects_grace_days * DAY_S
        snapshot = _fresh_snapshot(settings, folder, told=told)
        sizes, missing = fetch_objects(store, _named(folder, store, retired_before=retired_before), folder, told=told)
        if not missing:
            break
    drop_others(folder, sizes)
    secrets = [
        name
        for name, own_name in {**STORE_SECRETS, **TRUST_SECRETS}.items()
        if _copy_secret(settings.data_dir / own_name, folder / name)
    ]
    document = BackupDocument(
        release=version("shoal"),
        taken_at=taken_at,
        registry_id=snapshot.registry_id,
        epoch=snapshot.epoch,
        steps=snapshot.steps,
        rows=snapshot.rows,
        files={name: _entry(folder / name) for name in (CATALOGUE_NAME, TELEMETRY_NAME, *secrets)},
        objects=sizes,
        missing_objects=tuple(sorted(missing)),
        stack=_addresses(settings),
    )
    write_document(folder, document)
    return document


def _make_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if {path.name for path in folder.iterdir()} - ALWAYS_THERE:
        raise BackupError(f"{folder} is not empty: a backup gets a folder of its own.")
    folder.chmod(0o700)


def _fresh_snapshot(settings: RegistrySettings, folder: Path, *, told: Told) -> Snapshot:
    for name in (CATALOGUE_NAME, TELEMETRY_NAME):
        (folder / name).unlink(missing_ok=True)
    return copy_databases(settings, folder, told=told)


def _named(folder: Path, store: ObjectStore, *, retired_before: float) -> Collection[str]:
    """By the copy: it is the moment that the backup tells of, and no reader holds the registry's database meanwhile."""
    catalogue = open_copy(folder / CATALOGUE_NAME)
    try:
        with catalogue.read() as connection:
            return patiently(lambda: named_objects(connection, store, retired_before=retired_before))
    finally:
        catalogue.close()
        settle(folder / CATALOGUE_NAME)


def _copy_secret(source: Path, target: Path) -> bool:
    if not source.exists():
        return False
    target.touch(mode=0o600)
    shutil.copyfile(source, target)
    return True


def _entry(path: Path) -> FileEntry:
    """What a file is, once it is on the disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return FileEntry(size_bytes=os.fstat(file.fileno()).st_size, sha256=digest)


def _addresses(settings: RegistrySettings) -> StackState | None:
    state = stack_state(settings.data_dir)
    if state is None:
        return None
    ports = {name: port for name, port in state.ports.items() if name in ADVERTISED}
    return state.model_copy(update={"ports": ports, "supervisor": None, "processes": {}})
